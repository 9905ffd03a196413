//! Which directories of a repository are bundles: globs, and the walk that visits only what they could match.

use globset::{GlobBuilder, GlobMatcher};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::domain::path::RepoPath;

/// The most characters of a glob.
const MOST: usize = 512;

/// A glob of directories. `*` does not cross `/`.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    whole: GlobMatcher,
    parts: Vec<Part>,
    /// Whether the parts say all that the whole says.
    by_parts: bool,
}

#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of directories.
    Any,
    /// One directory.
    One(GlobMatcher),
}

impl Pattern {
    /// A glob as a pipeline has it.
    ///
    /// # Errors
    /// Why it is none, as a message goes on after "is no glob of bundles: ".
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if text.len() > MOST {
            return Err(format!("it is longer than {MOST} characters"));
        }
        if text.starts_with('/') {
            return Err("it begins with `/`".to_owned());
        }
        let clean: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if clean.is_empty() {
            return Err("the repository's root can't be a bundle".to_owned());
        }
        if clean.contains(&"..") {
            return Err("it leaves the repository with `..`".to_owned());
        }
        let whole = matcher(&clean.join("/"))?;
        // Alternatives may hold a `/`, so their parts can't be taken one by one.
        let is_plain = !text.contains(['{', '[', '\\']);
        let parts = if !is_plain {
            vec![Part::Any]
        } else {
            let part = |part: &&str| if *part == "**" { Ok(Part::Any) } else { matcher(part).map(Part::One) };
            clean.iter().map(part).collect::<Result<_, String>>()?
        };
        Ok(Self { text: text.to_owned(), whole, by_parts: is_plain && !text.contains("**"), parts })
    }

    /// The glob as it is written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a directory is matched.
    pub(super) fn matches(&self, path: &RepoPath) -> bool {
        !path.is_root() && self.whole.is_match(as_path(path.as_bytes()))
    }

    /// The same for a directory that a walk went into, which knows most of the answer.
    pub(super) fn ends(&self, at: &Positions, path: &RepoPath) -> bool {
        at.0.last() == Some(&self.parts.len()) && (self.by_parts || self.matches(path))
    }

    /// Where a walk from the root begins.
    pub(super) fn start(&self) -> Positions {
        let mut positions = vec![0];
        self.pass_over(&mut positions);
        Positions(positions)
    }

    /// Where the walk is after it went into a directory of this name.
    pub(super) fn enter(&self, at: &Positions, name: &[u8]) -> Positions {
        let mut next = Vec::new();
        for position in &at.0 {
            match self.parts.get(*position) {
                Some(Part::Any) => next.push(*position),
                Some(Part::One(part)) if part.is_match(as_path(name)) => next.push(position + 1),
                _ => {}
            }
        }
        self.pass_over(&mut next);
        Positions(next)
    }

    /// Whether anything below could be matched.
    pub(super) fn goes_on(&self, at: &Positions) -> bool {
        at.0.iter().any(|position| *position < self.parts.len())
    }

    /// `**` also stands for no directory at all.
    fn pass_over(&self, positions: &mut Vec<usize>) {
        let mut index = 0;
        while let Some(position) = positions.get(index).copied() {
            let next = position + 1;
            if matches!(self.parts.get(position), Some(Part::Any)) && !positions.contains(&next) {
                positions.push(next);
            }
            index += 1;
        }
        positions.sort_unstable();
        positions.dedup();
    }
}

/// How much of a glob is behind a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Positions(Vec<usize>);

impl Positions {
    /// Whether the glob could still match.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

fn matcher(text: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| error.kind().to_string())
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a walk from the root gets to the path, and the glob then matches it.
    fn finds(glob: &str, path: &[u8]) -> bool {
        let pattern = Pattern::new(glob).expect("a glob");
        let path = RepoPath::new(path).expect("a path");
        let mut at = pattern.start();
        assert!(!pattern.matches(&RepoPath::root()));
        for part in path.parts() {
            if !pattern.goes_on(&at) {
                return false;
            }
            at = pattern.enter(&at, part);
        }
        assert_eq!(pattern.ends(&at, &path), pattern.matches(&path), "{glob}");
        pattern.matches(&path)
    }

    #[test]
    fn a_star_does_not_cross_a_slash() {
        assert!(finds("images/bundle-*", b"images/bundle-x"));
        assert!(!finds("images/bundle-*", b"images/bundle-x/ansible"));
        assert!(finds("images/bundle-*", b"images/bundle-\xff"));
        assert!(finds("./os/*/", b"os/debian"));
        assert!(finds("**/bundle-*", b"bundle-x") && finds("**/bundle-*", b"a/b/bundle-x"));
        assert!(finds("{a/b,c}", b"a/b") && finds("{a/b,c}", b"c"));
        assert!(finds("a/**", b"a/b/c") && !finds("a/**", b"b"));
        assert!(finds("**", b"a") && finds("a/**/b", b"a/b"));
        assert!(!finds("a/**", b"a"));
    }

    #[test]
    fn what_is_no_glob_says_why() {
        for wrong in ["/images", "../x", "", ".", "a[", "{a"] {
            assert!(Pattern::new(wrong).is_err(), "{wrong}");
        }
    }
}
