//! What a person names to be planned: one revision, or what changes between two.

/// A revision, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range<'a> {
    /// `REV`: one commit.
    Commit(&'a str),
    /// `A..B`: what B changes after A.
    Between {
        /// A, what is known; `None` where nothing is: it is left out, or the null id that git names before a first push.
        base: Option<&'a str>,
        /// B, what is planned.
        tip: &'a str,
    },
}

impl<'a> Range<'a> {
    /// Reads `REV` or `A..B`; nothing after the dots stands for `HEAD`, as in git. `None` for `A...B`, whose base is no
    /// commit that anybody named.
    pub fn parse(text: &'a str) -> Option<Self> {
        let head_if_empty = |side: &'a str| if side.is_empty() { "HEAD" } else { side };
        match text.split_once("..") {
            None => Some(Self::Commit(head_if_empty(text))),
            Some((_, tip)) if tip.starts_with('.') || tip.contains("..") => None,
            Some((base, tip)) => Some(Self::Between { base: known(base), tip: head_if_empty(tip) }),
        }
    }
}

/// Whether a revision may be the name of a branch: `HEAD` and the whole id of a commit mean themselves, whatever somebody
/// called a branch.
pub fn may_be_branch(revision: &str) -> bool {
    revision != "HEAD" && !(revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn known(base: &str) -> Option<&str> {
    let is_null = base.len() >= 40 && base.bytes().all(|byte| byte == b'0');
    (!base.is_empty() && !is_null).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_branch_stands_in_for_head_or_a_commit() {
        let id = "3f9c2e1000".repeat(4);
        let read = ["main", "HEAD", "HEAD~1", &id, "3f9c2e1"].map(may_be_branch);
        assert_eq!(read, [true, false, true, false, true]);
    }

    #[test]
    fn ranges_are_read_as_people_write_them() {
        assert_eq!(Range::parse("main"), Some(Range::Commit("main")));
        assert_eq!(Range::parse("v1.2..main"), Some(Range::Between { base: Some("v1.2"), tip: "main" }));
        assert_eq!(Range::parse("main~3.."), Some(Range::Between { base: Some("main~3"), tip: "HEAD" }));
        assert_eq!(Range::parse("..main"), Some(Range::Between { base: None, tip: "main" }));
        let null = format!("{}..main", "0".repeat(40));
        assert_eq!(Range::parse(&null), Some(Range::Between { base: None, tip: "main" }));
        assert_eq!(Range::parse("a...b"), None);
        assert_eq!(Range::parse("a..b..c"), None);
    }
}
