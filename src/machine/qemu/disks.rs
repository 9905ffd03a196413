//! Where the driver keeps its disks, and how they get there: bytes first, synced, then the name.
//!
//! ```text
//! bases/SHA256.qcow2      base-SHA256          base images, read-only
//! checkpoints/ID.qcow2    chosen by the engine  sealed and changed layers, read-only, each on another disk
//! images/ID.qcow2         chosen by the engine  published images, read-only, each on its own
//! machines/N/ROLE/        -                     what a build has under way
//! work/                   -                     what is being made for many builds
//! ```

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::qcow2::Header;
use crate::blocking;
use crate::domain::id::{BuildNo, Digest, DiskId};
use crate::engine::ports::PortError;

const BASE: &str = "base-";

/// The directories of one driver.
#[derive(Clone, Debug)]
pub(super) struct Disks {
    state: PathBuf,
}

impl Disks {
    /// Makes the directories.
    pub(super) fn open(state: &Path) -> Result<Self, PortError> {
        let disks = Self { state: state.to_owned() };
        for name in ["bases", "checkpoints", "images", "machines", "work"] {
            let directory = state.join(name);
            std::fs::create_dir_all(&directory).map_err(|error| trouble("made", &directory, &error))?;
        }
        Ok(disks)
    }

    pub(super) fn bases(&self) -> PathBuf {
        self.state.join("bases")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.state.join("work")
    }

    pub(super) fn machines(&self) -> PathBuf {
        self.state.join("machines")
    }

    /// The directory of a build's machines and temporary files.
    pub(super) fn of_build(&self, build: BuildNo) -> PathBuf {
        self.machines().join(build.0.to_string())
    }

    /// Removes a directory of a build, and the build's own with the last one. Doing it twice is success.
    pub(super) fn remove_of_build(&self, directory: &Path) -> Result<(), PortError> {
        remove_directory(directory)?;
        let build = directory.parent().filter(|build| build.parent() == Some(&self.machines()));
        // Another machine of the build may be in it, or it is gone already.
        let _not_empty = build.map(std::fs::remove_dir);
        Ok(())
    }

    /// The id of a base image.
    pub(super) fn base_id(sha256: &Digest) -> DiskId {
        DiskId::new(format!("{BASE}{}", sha256.hex()))
    }

    /// The file of a base image.
    pub(super) fn base_file(&self, sha256: &Digest) -> PathBuf {
        self.bases().join(format!("{}.qcow2", sha256.hex()))
    }

    /// Where an image is published.
    pub(super) fn image_file(&self, disk: &DiskId) -> Result<PathBuf, PortError> {
        Ok(self.state.join("images").join(file_name(disk)?))
    }

    fn checkpoint_file(&self, disk: &DiskId) -> Result<PathBuf, PortError> {
        Ok(self.state.join("checkpoints").join(file_name(disk)?))
    }

    /// The file of a disk, whether it is there or not.
    pub(super) fn file(&self, disk: &DiskId) -> Result<PathBuf, PortError> {
        let name = file_name(disk)?;
        if let Some(sum) = name.strip_prefix(BASE) {
            return Ok(self.bases().join(sum));
        }
        let image = self.image_file(disk)?;
        if image.exists() { Ok(image) } else { self.checkpoint_file(disk) }
    }

    /// The file and the header of a disk that must be there.
    pub(super) fn existing(&self, disk: &DiskId) -> Result<(PathBuf, Header), PortError> {
        let file = self.file(disk)?;
        if !file.is_file() {
            return Err(PortError::failed(format!("the disk {disk} is not there"))
                .help("it was removed by hand or by retention: build again with `--no-cache`"));
        }
        let header = Header::read(&file)?;
        Ok((file, header))
    }

    /// Refuses to write a disk over another.
    pub(super) fn refuse_if_there(&self, disk: &DiskId) -> Result<(), PortError> {
        match self.file(disk)?.exists() {
            true => Err(PortError::refused(format!("a disk {disk} is there already, and disks are never overwritten"))),
            false => Ok(()),
        }
    }

    /// A disk and everything that it lies on, itself first.
    pub(super) fn chain(&self, disk: &DiskId) -> Result<Vec<DiskId>, PortError> {
        let mut chain = vec![disk.clone()];
        let mut backing = self.existing(disk)?.1.backing;
        while let Some(file) = backing.take() {
            let disk = self.id_of(Path::new(&file)).ok_or_else(|| {
                PortError::failed(format!("the disk {disk} lies on {file}, which is not a disk of this driver"))
                    .help("the state directory was moved, or the disk was written by something else")
            })?;
            backing = self.existing(&disk)?.1.backing;
            chain.push(disk);
        }
        Ok(chain)
    }

    fn id_of(&self, file: &Path) -> Option<DiskId> {
        let stem = file.file_stem()?.to_str()?;
        let directory = file.parent()?;
        if directory == self.bases() {
            return Some(DiskId::new(format!("{BASE}{stem}"))).filter(DiskId::is_ours);
        }
        let ours = directory == self.state.join("checkpoints") || directory == self.state.join("images");
        ours.then(|| DiskId::new(stem))
    }

    /// Whether a disk is there and its head is whole.
    pub(super) fn has(&self, disk: &DiskId) -> Result<bool, PortError> {
        let file = self.file(disk)?;
        Ok(file.is_file() && Header::read(&file).is_ok())
    }

    /// All disks with what they take, sorted by id.
    pub(super) fn all(&self) -> Result<Vec<(DiskId, u64)>, PortError> {
        let mut all = Vec::new();
        for name in ["bases", "checkpoints", "images"] {
            let directory = self.state.join(name);
            let entries = std::fs::read_dir(&directory).map_err(|error| trouble("listed", &directory, &error))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                let is_disk = path.extension().is_some_and(|extension| extension == "qcow2");
                if let (true, Some(id), Ok(found)) = (is_disk, self.id_of(&path), path.metadata()) {
                    all.push((id, found.blocks() * 512));
                }
            }
        }
        all.sort();
        Ok(all)
    }

    /// What each build has under way takes in bytes. What goes while it is looked at counts no more.
    pub(super) fn written(&self) -> Result<Vec<(BuildNo, u64)>, PortError> {
        let machines = self.machines();
        let entries = std::fs::read_dir(&machines).map_err(|error| trouble("listed", &machines, &error))?;
        let build = |entry: std::fs::DirEntry| Some((BuildNo(entry.file_name().to_str()?.parse().ok()?), entry.path()));
        Ok(entries.flatten().filter_map(build).map(|(build, directory)| (build, taken(&directory, 3))).collect())
    }

    /// Removes a disk; one that is not there is no error.
    pub(super) fn remove(&self, disk: &DiskId) -> Result<(), PortError> {
        let file = self.file(disk)?;
        for file in [file.with_extension("json"), file] {
            match std::fs::remove_file(&file) {
                Ok(()) => sync_directory_of(&file)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(trouble("removed", &file, &error)),
            }
        }
        Ok(())
    }

    /// Keeps the layer of a machine that has ended; returns what it takes in bytes.
    pub(super) async fn keep_layer(&self, layer: &Path, disk: &DiskId) -> Result<u64, PortError> {
        let (layer, kept) = (layer.to_owned(), self.checkpoint_file(disk)?);
        blocking::run(move || {
            keep(&layer, &kept)?;
            kept.metadata().map(|found| found.blocks() * 512).map_err(|error| trouble("read", &kept, &error))
        })
        .await
    }
}

/// Gives finished bytes their place: synced, read-only, renamed, the directory synced. Blocks.
///
/// A sync that fails is not tried again: the kernel has forgotten by then what was not written.
pub(super) fn keep(file: &Path, place: &Path) -> Result<(), PortError> {
    let opened = File::open(file).map_err(|error| trouble("opened", file, &error))?;
    opened.sync_all().map_err(|error| not_durable(file, &error))?;
    opened.set_permissions(Permissions::from_mode(0o444)).map_err(|error| trouble("made read-only", file, &error))?;
    std::fs::rename(file, place).map_err(|error| trouble("renamed", file, &error))?;
    sync_directory_of(place)
}

/// Writes a small file whole or not at all. Blocks.
pub(in crate::machine) fn write_whole(file: &Path, content: &[u8]) -> Result<(), PortError> {
    let part = file.with_extension("part");
    std::fs::write(&part, content).map_err(|error| trouble("written", &part, &error))?;
    let synced = File::open(&part).and_then(|opened| opened.sync_all());
    synced.map_err(|error| not_durable(&part, &error))?;
    std::fs::rename(&part, file).map_err(|error| trouble("renamed", &part, &error))?;
    sync_directory_of(file)
}

/// The sum and the size of what can be read. Blocks.
pub(super) fn sum(mut reader: impl Read) -> std::io::Result<(Digest, u64)> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok((Digest(hash.finalize().into()), size)),
            read => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// The sum and the size of a file. Blocks.
pub(super) fn sum_of(file: &Path) -> Result<(Digest, u64), PortError> {
    File::open(file).and_then(sum).map_err(|error| trouble("read", file, &error))
}

/// Removes a file of ours; one that is not there is no error. Blocks: that of a large file takes its time.
pub(super) fn remove_file(file: &Path) -> Result<(), PortError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble("removed", file, &error)),
        _ => Ok(()),
    }
}

/// The same, from where nothing may block.
pub(super) async fn discard(file: &Path) -> Result<(), PortError> {
    let file = file.to_owned();
    blocking::run(move || remove_file(&file)).await
}

/// Removes a directory with all that is in it; one that is not there is no error.
pub(in crate::machine) fn remove_directory(directory: &Path) -> Result<(), PortError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble("removed", directory, &error)),
        _ => Ok(()),
    }
}

/// What the files below a directory take in bytes, so many levels deep. Links are not followed.
fn taken(directory: &Path, levels: u32) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        let below = if found.is_dir() && levels > 1 { taken(&entry.path(), levels - 1) } else { 0 };
        Some(found.blocks() * 512 + below)
    });
    sizes.sum()
}

/// An error of the file system, with what to do about it.
pub(in crate::machine) fn trouble(what: &str, path: &Path, error: &std::io::Error) -> PortError {
    let told = PortError::unavailable(format!("{} can't be {what}: {error}", path.display()));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => told.help("free space: `factoryd gc`, or a larger disk"),
        ErrorKind::PermissionDenied => told.help("the state directory must belong to the user that the daemon runs as"),
        _ => told,
    }
}

fn sync_directory_of(file: &Path) -> Result<(), PortError> {
    let Some(directory) = file.parent() else { return Ok(()) };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| not_durable(directory, &error))
}

fn not_durable(path: &Path, error: &std::io::Error) -> PortError {
    PortError::not_durable(format!("{} could not be made durable: {error}", path.display()))
        .help("see to the disk, then restart factoryd, which verifies first")
}

fn file_name(disk: &DiskId) -> Result<String, PortError> {
    let id = disk.as_str();
    let good = id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if id.is_empty() || id.len() > 200 || !good {
        return Err(PortError::refused(format!(
            "{id:?} can't be the id of a disk: it is lower-case letters, digits and `-`"
        )));
    }
    Ok(format!("{id}.qcow2"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::engine::ports::PortErrorKind;

    fn create(file: &Path, backing: Option<&Path>) {
        let mut made = Command::new("qemu-img");
        made.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            made.args(["-F", "qcow2", "-b"]).arg(backing);
        }
        let made = made.arg(file).arg("8M").status().expect("qemu-img is there: run `scripts/setup run`");
        assert!(made.success());
    }

    #[tokio::test]
    async fn a_layer_is_kept_listed_chained_and_removed() {
        let state = tempfile::tempdir().expect("a directory");
        let disks = Disks::open(state.path()).expect("made");
        let base = Disks::base_id(&Digest::of(b"base"));
        create(&disks.file(&base).expect("a file"), None);
        let (layer, sealed) = (state.path().join("machines/layer.qcow2"), DiskId::new("sealed-1"));
        create(&layer, Some(&disks.file(&base).expect("a file")));
        assert!(!disks.has(&sealed).expect("looked"));
        assert_eq!(disks.written().expect("a list"), [], "nothing is under way");
        let under_way = disks.of_build(BuildNo(7)).join("provision");
        std::fs::create_dir_all(&under_way).expect("made");
        std::fs::write(under_way.join("disk.qcow2"), [1; 1 << 16]).expect("written");
        let written = disks.written().expect("a list");
        assert!(matches!(written[..], [(BuildNo(7), bytes)] if bytes >= 1 << 16), "{written:?}");
        assert!(disks.keep_layer(&layer, &sealed).await.expect("kept") > 0);
        assert!(disks.has(&sealed).expect("looked"));
        assert!(disks.refuse_if_there(&sealed).is_err());
        assert_eq!(disks.chain(&sealed).expect("a chain"), [sealed.clone(), base.clone()]);
        let ids: Vec<DiskId> = disks.all().expect("a list").into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [base, sealed.clone()]);
        disks.remove(&sealed).expect("removed");
        disks.remove(&sealed).expect("twice is success");
        assert!(disks.existing(&sealed).expect_err("gone").message.contains("is not there"));
    }

    #[test]
    fn copies_that_somebody_made_of_disks_are_told_from_those() {
        let state = tempfile::tempdir().expect("a directory");
        let disks = Disks::open(state.path()).expect("made");
        let sum = Digest::of(b"base").hex();
        let (image, sealed) = ("image-1b4e28ba-2fa1-41d2-883f-0016d3cca427", "sealed-7-0123456789abcdef");
        for (name, copy) in [("bases", sum.as_str()), ("images", image), ("checkpoints", sealed)] {
            for file in [format!("{copy}.qcow2"), format!("{copy}.bak.qcow2"), format!("{copy}-before-test.qcow2")] {
                std::fs::write(state.path().join(name).join(file), "a disk").expect("written");
            }
        }
        let all = disks.all().expect("a list").into_iter().map(|(id, _)| id);
        let ours: Vec<DiskId> = all.filter(DiskId::is_ours).collect();
        assert_eq!(ours, [Disks::base_id(&Digest::of(b"base")), image.into(), sealed.into()]);
    }

    #[test]
    fn a_disk_whose_sync_fails_is_kept_nowhere_and_says_that_nothing_is_known_of_it() {
        let state = tempfile::tempdir().expect("a directory");
        let place = state.path().join("kept.qcow2");
        // A file that the kernel makes up can't be synced.
        let error = keep(Path::new("/proc/self/status"), &place).expect_err("refused");
        assert_eq!(error.kind, PortErrorKind::NotDurable);
        assert!(error.message.starts_with("/proc/self/status could not be made durable: "), "{error}");
        assert!(!place.exists());
    }

    #[test]
    fn ids_that_are_paths_are_refused() {
        let state = tempfile::tempdir().expect("a directory");
        let disks = Disks::open(state.path()).expect("made");
        for id in ["", "../x", "a/b", "A", "a.b", "a b"] {
            assert!(disks.has(&DiskId::new(id)).is_err(), "{id:?} was taken");
        }
    }
}
