//! Git repositories: where they come from (receiving, mirrors), what is read of them (trees, checkouts), and what wakes
//! the planner (watch, poll).
//!
//! Reading is libgit2's work, in the process, and runs no program; what talks to other machines or rewrites the object
//! store is the `git` program's. Nothing here decides what a change means: a hint says only "look again".
//!
//! ```text
//! git push ─► receive-pack ─► refs ─► watch ─► hint          (post-receive hook: a hint of its own, over the socket)
//! URL ─► poll ─► mirror::fetch ─► refs ─► hint               poll: a hint at each interval, should all else fail
//! hint ─► repositories: tips, head ─► trees ─► plan          a build ─► repositories: checkout
//! ```

mod checkout;
pub mod mirror;
pub mod poll;
mod program;
pub mod repositories;
pub mod trees;
pub mod watch;
