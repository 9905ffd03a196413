//! The head of a qcow2 file, read by us before QEMU sees the file: what a file from elsewhere may not name.
//!
//! A qcow2 file can name another file of the host as its backing or data file, and QEMU would open it and show it to the
//! guest. So nothing is left to QEMU's probing: a base image has neither, or it is refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::engine::ports::PortError;

/// The largest virtual disk that is taken, in bytes: 16 TiB.
const LARGEST: u64 = 16 << 40;
/// Bit of the incompatible features that says that the data lie in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible features that we and every QEMU since 5.1 know: dirty, corrupt, external data, compression, extended L2.
const KNOWN: u64 = 0b1_1111;
/// The header extension that names the external data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::machine) struct Header {
    /// The size of the disk that the guest sees, in bytes.
    pub(in crate::machine) virtual_size: u64,
    /// The backing file's name.
    pub(in crate::machine) backing: Option<String>,
    /// The external data file's name; may be empty where only the feature is set.
    pub(in crate::machine) data_file: Option<String>,
    encrypted: bool,
}

impl Header {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// When it can't be read, or is not one of qcow2 version 2 or 3.
    pub(in crate::machine) fn read(path: &Path) -> Result<Self, PortError> {
        let unreadable =
            |error: std::io::Error| PortError::failed(format!("{} can't be read: {error}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        // All that a header and its names can take lies in the first cluster, of 2 MiB at most; 64 KiB is the default.
        let mut head = vec![0; 64 * 1024];
        let mut length = 0;
        while length < head.len() {
            match file.read_at(&mut head[length..], length as u64).map_err(unreadable)? {
                0 => break,
                read => length += read,
            }
        }
        Self::parse(&head[..length]).map_err(|why| {
            PortError::failed(format!("{} is not a usable qcow2 file: {why}", path.display()))
                .help("look at it with `qemu-img info -f qcow2`; a bare disk image is declared as `format: raw`")
        })
    }

    /// Refuses what a base image may not have.
    ///
    /// # Errors
    /// When it names another file, or is encrypted; the message names which.
    pub(in crate::machine) fn stand_alone(&self, what: &str) -> Result<(), PortError> {
        let refuse = |why: String| {
            Err(PortError::refused(format!("the base image {what} {why}"))
                .help("make it stand alone: `qemu-img convert -O qcow2 OLD NEW`, on a host where you trust the file"))
        };
        if let Some(backing) = &self.backing {
            return refuse(format!("names the backing file {backing:?}"));
        }
        if let Some(data) = &self.data_file {
            return refuse(format!("names the external data file {data:?}"));
        }
        if self.encrypted {
            return refuse("is encrypted".to_owned());
        }
        Ok(())
    }

    pub(in crate::machine) fn parse(head: &[u8]) -> Result<Self, String> {
        if head.get(..4) != Some(b"QFI\xfb") {
            return Err("it does not begin with the magic bytes `QFI\\xfb`".to_owned());
        }
        let version = u32_at(head, 4)?;
        if version != 2 && version != 3 {
            return Err(format!("it is of version {version}, and only 2 and 3 are known"));
        }
        let (features, length) = if version == 3 { (u64_at(head, 72)?, u32_at(head, 100)?) } else { (0, 72) };
        if features & !KNOWN != 0 {
            return Err(format!("it needs features that are not known here ({features:#x})"));
        }
        let virtual_size = u64_at(head, 24)?;
        if virtual_size == 0 || virtual_size > LARGEST {
            return Err(format!("a virtual size of {virtual_size} bytes is not taken"));
        }
        let backing = match u64_at(head, 8)? {
            0 => None,
            offset => Some(name(head, offset, u32_at(head, 16)?)),
        };
        let named = data_file(head, length)?;
        let data_file = if features & EXTERNAL_DATA != 0 { Some(named.unwrap_or_default()) } else { named };
        Ok(Self { virtual_size, backing, data_file, encrypted: u32_at(head, 32)? != 0 })
    }
}

/// Walks the header extensions: type, length, data padded to eight bytes, until type 0.
fn data_file(head: &[u8], length: u32) -> Result<Option<String>, String> {
    let mut at = u64::from(length);
    loop {
        let position = usize::try_from(at).map_err(|_| "an extension is too long".to_owned())?;
        let (Ok(kind), Ok(size)) = (u32_at(head, position), u32_at(head, position + 4)) else {
            return Err("its header extensions have no end".to_owned());
        };
        match kind {
            0 => return Ok(None),
            DATA_FILE_NAME => return Ok(Some(name(head, at + 8, size))),
            _ => at += 8 + u64::from(size).next_multiple_of(8),
        }
    }
}

/// A name in the header; what can't be read of it is left out, since any name at all is refused.
fn name(head: &[u8], offset: u64, length: u32) -> String {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(head.len());
    let end = start.saturating_add(length.min(1023) as usize).min(head.len());
    String::from_utf8_lossy(&head[start..end]).into_owned()
}

fn u32_at(head: &[u8], at: usize) -> Result<u32, String> {
    let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or_else(|| "its header is cut off".to_owned())
}

fn u64_at(head: &[u8], at: usize) -> Result<u64, String> {
    Ok(u64::from(u32_at(head, at)?) << 32 | u64::from(u32_at(head, at + 4)?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn create(directory: &Path, name: &str, args: &[&str]) -> std::path::PathBuf {
        let path = directory.join(name);
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(args).arg(&path).arg("64M").status();
        assert!(made.expect("qemu-img is there: run `scripts/setup run`").success());
        path
    }

    #[test]
    fn files_that_name_other_files_are_refused_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let plain = create(directory.path(), "plain.qcow2", &[]);
        let header = Header::read(&plain).expect("a header");
        assert_eq!(header.virtual_size, 64 << 20);
        header.stand_alone("plain").expect("it stands alone");
        Header::read(&create(directory.path(), "old.qcow2", &["-o", "compat=0.10"])).expect("version 2 is taken");

        let backed = create(directory.path(), "backed.qcow2", &["-u", "-b", "/etc/shadow", "-F", "raw"]);
        let error = Header::read(&backed).expect("a header").stand_alone("backed").expect_err("refused");
        assert_eq!(error.message, "the base image backed names the backing file \"/etc/shadow\"");

        let data = format!("data_file={}", directory.path().join("secret.raw").display());
        let apart = create(directory.path(), "apart.qcow2", &["-o", &data]);
        let error = Header::read(&apart).expect("a header").stand_alone("apart").expect_err("refused");
        assert!(error.message.contains("external data file") && error.message.contains("secret.raw"), "{error}");
    }

    #[test]
    fn broken_headers_are_refused_and_none_panics() {
        assert!(Header::parse(b"").is_err());
        assert!(Header::parse(&[b'x'; 512]).expect_err("no qcow2").contains("magic"));
        let directory = tempfile::tempdir().expect("a directory");
        let good = std::fs::read(create(directory.path(), "good.qcow2", &[])).expect("bytes");
        let with = |at: usize, bytes: &[u8]| {
            let mut head = good[..4096].to_vec();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            Header::parse(&head)
        };
        assert!(with(7, &[4]).expect_err("version 4").contains("version 4"));
        assert!(with(24, &[0xff; 8]).expect_err("huge").contains("virtual size"));
        assert!(with(72, &[0x80]).expect_err("unknown").contains("features"));
        assert!(with(100, &[0xff; 4]).expect_err("no end").contains("no end"));
        assert!(with(35, &[1]).expect("a header").stand_alone("it").is_err());
        assert_eq!(with(8, &[0xff; 12]).expect("a header").backing.as_deref(), Some(""));
        for end in 0..120 {
            assert!(Header::parse(&good[..end]).is_err(), "a header of {end} bytes was taken");
        }
    }
}
