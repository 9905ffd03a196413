//! One heap for all threads of the daemon, whoever starts it.
//!
//! glibc gives each thread a heap of its own, and what one of them freed is not there for the others: a push that queues ten
//! thousand builds took 231 MB so, and 177 MB with one. It asks the environment once, before `main`; so the daemon sets that
//! and starts anew in the same process, before it has made anything.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const HEAPS: &str = "MALLOC_ARENA_MAX";

/// Starts the program anew with one heap, unless the environment says already how many there are. Returns where that is so,
/// and where it can't be done: then there are more heaps, and nothing else is different.
pub(super) fn one_for_all() {
    if std::env::var_os(HEAPS).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    let error = Command::new(program).arg0(name).args(arguments).env(HEAPS, OsStr::new("1")).exec();
    tracing::warn!(%error, "threads keep heaps of their own: the daemon takes more memory than it must");
}
