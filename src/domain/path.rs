//! Paths inside a repository: bytes as git has them, always relative, never leaving the root.

use std::fmt;
use std::sync::Arc;

/// A path inside a repository, `/` between its parts, without a leading or trailing `/`; the root is empty.
///
/// Git promises bytes, not UTF-8, so this keeps bytes and prints what is not UTF-8 as U+FFFD. A clone shares them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(Arc<[u8]>);

impl RepoPath {
    /// The repository's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// A path from what git or a person wrote: `.` and double `/` vanish, `..` goes up.
    ///
    /// `None` where it would leave the root or holds a NUL.
    pub fn new(raw: impl AsRef<[u8]>) -> Option<Self> {
        Self::root().join(raw)
    }

    /// This path and more below it, with `.` and `..` resolved; `None` where that leaves the root.
    pub fn join(&self, more: impl AsRef<[u8]>) -> Option<Self> {
        let more = more.as_ref();
        if more.contains(&0) {
            return None;
        }
        let mut parts: Vec<&[u8]> = self.parts().collect();
        for part in more.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()?),
                name => parts.push(name),
            }
        }
        Some(Self(parts.join(&b'/').into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the repository's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The text, where it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The parts between the slashes.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The directory this lies in; the root lies in itself.
    pub fn parent(&self) -> Self {
        let cut = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self(self.0[..cut].into())
    }

    /// Whether somebody else holds these very bytes too.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// What is left of this path below a directory; `None` where it does not lie in it.
    pub fn below(&self, directory: &Self) -> Option<Self> {
        if directory.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(directory.as_bytes())?;
        if rest.is_empty() {
            return Some(Self::root());
        }
        rest.strip_prefix(b"/").map(|rest| Self(rest.into()))
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).expect("inside the repository")
    }

    #[test]
    fn paths_are_cleaned_and_never_leave_the_root() {
        assert_eq!(path("./images//bundle-x/").to_string(), "images/bundle-x");
        assert_eq!(path("images/bundle-x").join("../common/x.yml"), Some(path("images/common/x.yml")));
        assert_eq!(RepoPath::new("images/../../etc/shadow"), None);
        assert_eq!(RepoPath::new("a\0b"), None);
    }

    #[test]
    fn below_compares_whole_parts() {
        assert_eq!(path("images/a/b").below(&path("images/a")), Some(path("b")));
        assert_eq!(path("images/ab").below(&path("images/a")), None);
        assert_eq!(path("images/a").below(&path("images/a")), Some(RepoPath::root()));
        assert_eq!(path("a").parent(), RepoPath::root());
        assert_eq!(path("a/b/c").parent(), path("a/b"));
    }
}
