//! Files on their way into a guest: one `tar` stream through one channel.
//!
//! Measured against sftp and scp on two thousand small files, this is three times as fast and more.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::exec::Feed;
use super::shell::Wrapped;
use crate::engine::ports::PortError;

/// Unpacks in the guest: as the login user where that one may write, else through sudo. Directories that are there keep
/// their modes, and links to directories stay links (`/lib` is one): GNU tar must be told, others do so by themselves.
const UNPACK: &str = r#"set -eu
there=$1
while [ ! -e "$there" ]; do there=$(dirname -- "$there"); done
if [ -w "$there" ]; then as=; else as='sudo -n'; fi
keep=
if tar --version 2>/dev/null | grep -q GNU; then keep='--no-overwrite-dir --keep-directory-symlink'; fi
$as mkdir -p -- "$1"
exec $as tar -x -p -o $keep -f - -C "$1"
"#;

/// A file or directory to be copied.
#[derive(Debug)]
pub(super) struct Upload {
    from: PathBuf,
    /// The directory in the guest that it is unpacked in.
    into: String,
    /// The file's name there; `None` for a directory, whose entries are unpacked.
    name: Option<String>,
    mode: Option<u32>,
}

impl Upload {
    /// Looks at what is to be copied. A file to a place that ends in `/` keeps its name.
    pub(super) fn new(from: &Path, to: &str, mode: Option<u32>) -> Result<Self, PortError> {
        let found = std::fs::symlink_metadata(from)
            .map_err(|error| PortError::failed(format!("{} can't be copied: {error}", from.display())))?;
        if !to.starts_with('/') || to.contains('\0') {
            return Err(PortError::failed(format!("{to:?} is not an absolute path of the guest")));
        }
        let from = from.to_owned();
        if found.is_dir() {
            return Ok(Self { from, into: to.to_owned(), name: None, mode: None });
        }
        if !found.is_file() {
            return Err(PortError::refused(format!("{} is neither a file nor a directory", from.display())));
        }
        let own_name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (into, name) = to.rsplit_once('/').unwrap_or(("", to));
        let name = if name.is_empty() { own_name } else { name.to_owned() };
        Ok(Self { from, into: format!("{into}/"), name: Some(name), mode })
    }

    /// The command that unpacks it.
    pub(super) fn command(&self) -> Result<Wrapped, PortError> {
        Wrapped::script(UNPACK, &[&self.into])
    }
}

impl Feed for Upload {
    fn write_to(&self, input: &mut dyn Write) -> std::io::Result<()> {
        // 32 KiB is the most that one SSH packet takes.
        let mut archive = Builder::new(std::io::BufWriter::with_capacity(32 * 1024, input));
        match &self.name {
            Some(name) => append(&mut archive, &self.from, Path::new(name), self.mode)?,
            None => append_entries(&mut archive, &self.from, Path::new(""))?,
        }
        archive.into_inner()?.flush()
    }
}

fn append_entries<W: Write>(archive: &mut Builder<W>, directory: &Path, name: &Path) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    entries.iter().try_for_each(|entry| append(archive, &entry.path(), &name.join(entry.file_name()), None))
}

/// Appends a file, a link as a link, or a directory with what is in it; leaves out everything else.
fn append<W: Write>(archive: &mut Builder<W>, from: &Path, name: &Path, mode: Option<u32>) -> std::io::Result<()> {
    let found = std::fs::symlink_metadata(from)?;
    if found.is_dir() {
        // Git keeps no modes of directories, so neither does this.
        archive.append_data(&mut header(EntryType::Directory, &found, 0o755), name, std::io::empty())?;
        return append_entries(archive, from, name);
    }
    if found.is_symlink() {
        return archive.append_link(&mut header(EntryType::Symlink, &found, 0o777), name, std::fs::read_link(from)?);
    }
    if !found.is_file() {
        return Ok(());
    }
    let file = open(from)?;
    let found = file.metadata()?;
    let mode = mode.unwrap_or(found.permissions().mode() & 0o7777);
    let mut header = header(EntryType::Regular, &found, mode);
    header.set_size(found.len());
    // A file that grows meanwhile must not spoil the archive.
    archive.append_data(&mut header, name, std::io::Read::take(file, found.len()))
}

fn open(path: &Path) -> std::io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(no_follow).open(path)
}

fn header(kind: EntryType, found: &Metadata, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header
}
