//! What `pytest` of the host is told. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::host::Place;
use crate::domain::path::RepoPath;

/// The arguments: the step's come last, so that they can add to ours.
pub(crate) fn arguments(place: &Place, path: &RepoPath, extra: &[String], report: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-p", "no:cacheprovider", "--color=no"].map(OsString::from).into();
    arguments.push(format!("--junitxml={report}").into());
    arguments.push(place.src.join(OsStr::from_bytes(path.as_bytes())).into());
    arguments.extend(extra.iter().map(OsString::from));
    arguments
}

/// Versions from what `pytest --version` and `python3 --version` print.
pub(crate) fn versions(pytest: &str, python: &str) -> Vec<(String, String)> {
    let last_word = |text: &str| text.lines().next().and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned);
    let named = |name: &str, text| last_word(text).map(|version| (name.to_owned(), version));
    named("pytest", pytest).into_iter().chain(named("python", python)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let found = versions("pytest 7.2.1\n", "Python 3.11.2\n");
        assert_eq!(found, [("pytest".to_owned(), "7.2.1".to_owned()), ("python".to_owned(), "3.11.2".to_owned())]);
    }
}
