//! Files of directories that somebody else wrote into, opened so that nothing outside of the directory is ever read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A regular file beneath a directory, following no link; `None` where there is none, or it is larger than `limit` bytes.
///
/// # Errors
/// When the directory or the file can't be read.
pub(crate) fn read(directory: &Path, name: &[u8], limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let top = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(file) = rustix::fs::openat2(&top, OsStr::from_bytes(name), flags, Mode::empty(), beneath) else {
        return Ok(None);
    };
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
