//! Base images: from a file, a download, the catalogue or a recipe, each ending as one read-only qcow2 file on nothing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Qemu;
use super::disks::{Disks, discard, keep, trouble, write_whole};
use super::download::Download;
use super::qcow2::Header;
use crate::blocking;
use crate::domain::id::Digest;
use crate::domain::pipeline::DiskFormat;
use crate::engine::ports::{Base, BaseSource, Lines, PortError, Wait};
use crate::machine::lines::Nowhere;
use crate::machine::making::Making;
use crate::machine::process::{Program, Tag};

/// A file as it was when it was summed: if none of this changed, neither did its bytes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

impl Qemu {
    pub(in crate::machine) async fn make_base(
        &self,
        source: &BaseSource,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Base, PortError> {
        match source {
            BaseSource::File { path, format } => self.base_of_file(path, *format, wait).await,
            BaseSource::Download { url, sha256, format } => self.base_of_url(url, *sha256, *format, lines, wait).await,
            BaseSource::Image { disk, sha256 } => {
                let (_, header) = self.disks.existing(disk)?;
                Ok(Base { disk: disk.clone(), sha256: *sha256, virtual_size: header.virtual_size })
            }
            BaseSource::Named(name) => Err(PortError::failed(format!("no image, bundle or alias is called `{name}`"))
                .help(format!(
                    "give it a meaning in [base] of the configuration (\"{name}\" = …), or look at factoryd images"
                ))),
            BaseSource::Recipe(recipe) => self.base_of_recipe(recipe, lines, wait).await,
        }
    }

    /// The base of a sum, if it is there.
    pub(super) fn made(&self, sha256: Digest) -> Result<Option<Base>, PortError> {
        let file = self.disks.base_file(&sha256);
        if !file.exists() {
            return Ok(None);
        }
        let virtual_size = Header::read(&file)?.virtual_size;
        Ok(Some(Base { disk: Disks::base_id(&sha256), sha256, virtual_size }))
    }

    async fn base_of_file(&self, path: &Path, format: DiskFormat, wait: &Wait) -> Result<Base, PortError> {
        let index = self.index(path, format);
        let (_, now) = self.look(path)?;
        if let Some(base) = self.recall(&index, &now)? {
            return Ok(base);
        }
        let _turn = self.making.turn(format!("file {}", index.display()), wait).await?;
        let (file, seen) = self.look(path)?;
        if let Some(base) = self.recall(&index, &seen)? {
            return Ok(base);
        }
        if format == DiskFormat::Qcow2 {
            // Before gigabytes are copied. What counts is the look at the copy, which nobody can change any more.
            Header::read(path)?.stand_alone(&path.display().to_string())?;
        }
        self.room.require(seen.size, &format!("a copy of {}", path.display()))?;
        let copy = self.disks.work().join(format!("copy-{}", uuid::Uuid::new_v4().simple()));
        let (to, limit) = (copy.clone(), wait.clone());
        let summed = blocking::run(move || copy_summed(file, &to, &limit)).await;
        let base = match summed {
            Ok(sha256) => self.adopt_summed(&copy, format, sha256, &path.display().to_string(), wait).await,
            Err(error) => Err(error),
        };
        // Adopted, it has moved away.
        let cleared = discard(&copy).await;
        let base = base?;
        cleared?;
        let seen = Seen { sha256: base.sha256.hex(), ..seen };
        blocking::run(move || remember(&index, &seen)).await?;
        Ok(base)
    }

    async fn base_of_url(
        &self,
        url: &str,
        sha256: Digest,
        format: DiskFormat,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Base, PortError> {
        if let Some(base) = self.made(sha256)? {
            return Ok(base);
        }
        let _turn = self.making.turn(Making::of_sum(&sha256), wait).await?;
        if let Some(base) = self.made(sha256)? {
            return Ok(base);
        }
        let (largest, allow_private) = (self.settings.largest_base, &self.settings.private_downloads);
        let part = self.disks.work().join(format!("{}.part", sha256.hex()));
        let download = Download { url, sha256, largest, allow_private, room: &self.room };
        wait.run(&format!("downloading {url}"), download.fetch(&part, lines)).await?;
        let base = self.adopt(&part, format, sha256, url, wait).await;
        if base.is_err() {
            // It sums to what was declared and still can't be used: keeping it would help nobody.
            let _swept_later = discard(&part).await;
        }
        base
    }

    async fn adopt_summed(
        &self,
        file: &Path,
        format: DiskFormat,
        sha256: Digest,
        what: &str,
        wait: &Wait,
    ) -> Result<Base, PortError> {
        let _turn = self.making.turn(Making::of_sum(&sha256), wait).await?;
        self.adopt(file, format, sha256, what, wait).await
    }

    /// Takes a file of ours as the base image of a sum, by whoever has the turn to. Nothing but its declared format says how it is read.
    async fn adopt(
        &self,
        file: &Path,
        format: DiskFormat,
        sha256: Digest,
        what: &str,
        wait: &Wait,
    ) -> Result<Base, PortError> {
        if let Some(base) = self.made(sha256)? {
            discard(file).await?;
            return Ok(base);
        }
        let place = self.disks.base_file(&sha256);
        match format {
            DiskFormat::Qcow2 => {
                Header::read(file)?.stand_alone(what)?;
                place_it(file.to_owned(), place).await?;
            }
            DiskFormat::Raw => {
                let size = file.metadata().map_err(|error| trouble("read", file, &error))?.len();
                self.room.require(size, &format!("the base image of {what}"))?;
                let converted = file.with_extension("qcow2");
                let placed = match self.convert_raw(file, &converted, wait).await {
                    Ok(()) => place_it(converted.clone(), place).await,
                    Err(error) => Err(error),
                };
                if placed.is_err() {
                    let _swept_later = discard(&converted).await;
                }
                placed?;
                discard(file).await?;
            }
        }
        self.made(sha256)?
            .ok_or_else(|| PortError::unavailable(format!("the base image made from {what} has vanished")))
    }

    /// Makes a qcow2 file of a bare disk, leaving out zeroes.
    pub(super) async fn convert_raw(&self, raw: &Path, qcow2: &Path, wait: &Wait) -> Result<(), PortError> {
        let tag = Tag::shared(&self.settings.state_dir);
        let convert = Program::new("qemu-img", &tag).args(["convert", "-f", "raw", "-O", "qcow2", "-m", "16", "-W"]);
        convert.arg(raw).arg(qcow2).check(&(Arc::new(Nowhere) as Lines), wait).await
    }

    /// A file that is to be a base image, and what it is now.
    fn look(&self, path: &Path) -> Result<(File, Seen), PortError> {
        let file = open(path, self.settings.largest_base)?;
        let seen = seen(&file, path)?;
        Ok((file, seen))
    }

    fn index(&self, path: &Path, format: DiskFormat) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let key = [path.as_os_str().as_bytes(), b"\0", format.word().as_bytes()].concat();
        self.disks.bases().join(format!("file-{}.json", Digest::of(&key).hex()))
    }

    fn recall(&self, index: &Path, now: &Seen) -> Result<Option<Base>, PortError> {
        let Some(seen) = std::fs::read(index).ok().and_then(|text| serde_json::from_slice::<Seen>(&text).ok()) else {
            return Ok(None);
        };
        let Ok(sha256) = seen.sha256.parse() else { return Ok(None) };
        if (Seen { sha256: String::new(), ..seen }) != *now {
            return Ok(None);
        }
        self.made(sha256)
    }
}

async fn place_it(file: PathBuf, place: PathBuf) -> Result<(), PortError> {
    blocking::run(move || keep(&file, &place)).await
}

fn remember(index: &Path, seen: &Seen) -> Result<(), PortError> {
    let text = serde_json::to_vec(seen).map_err(|error| PortError::failed(format!("no JSON of {seen:?}: {error}")))?;
    write_whole(index, &text)
}

/// Opens a regular file of at most so many bytes; a pipe or a device does not hold us up.
fn open(path: &Path, largest: u64) -> Result<File, PortError> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = opened.map_err(|error| {
        PortError::failed(format!("the base image {} can't be opened: {error}", path.display()))
            .help("look at `boot.image`, or at [base] of the configuration, and whether the daemon's user may read it")
    })?;
    let found = file.metadata().map_err(|error| trouble("read", path, &error))?;
    if !found.is_file() {
        return Err(PortError::refused(format!("the base image {} is not a regular file", path.display())));
    }
    if found.len() > largest {
        return Err(PortError::refused(format!(
            "the base image {} is larger than {} MiB",
            path.display(),
            largest >> 20
        ))
        .help("no larger base image is taken: name a smaller one, such as a compressed qcow2 file"));
    }
    Ok(file)
}

fn seen(file: &File, path: &Path) -> Result<Seen, PortError> {
    let found = file.metadata().map_err(|error| trouble("read", path, &error))?;
    Ok(Seen {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
        sha256: String::new(),
    })
}

/// Copies and sums at once. Blocks until done or until the wait ends.
fn copy_summed(mut from: File, to: &Path, wait: &Wait) -> Result<Digest, PortError> {
    let broken = |error: std::io::Error| trouble("copied to", to, &error);
    let mut file = File::create(to).map_err(broken)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        let read = from.read(&mut buffer).map_err(broken)?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(broken)?;
        if wait.cancel.is_cancelled() {
            return Err(PortError::cancelled("copying the base image"));
        }
        if wait.deadline <= tokio::time::Instant::now() {
            return Err(PortError::timed_out("copying the base image"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::super::{AcceleratorChoice, QemuSettings};
    use super::*;
    use crate::engine::ports::{Driver as _, PortErrorKind};

    fn qemu(state: &Path) -> Qemu {
        let settings = QemuSettings {
            name: "qemu".into(),
            state_dir: state.to_owned(),
            accelerator: AcceleratorChoice::Tcg,
            private_downloads: super::super::AllowedInside::new(|address| address.is_loopback()),
            largest_base: 1 << 20,
            disk_free: 0,
            run_as: None,
        };
        Qemu::new(settings).expect("the state directory can be used")
    }

    async fn base(qemu: &Qemu, path: &Path, format: DiskFormat) -> Result<Base, PortError> {
        let source = BaseSource::File { path: path.to_owned(), format };
        let wait = super::super::own_wait(Duration::from_secs(30));
        qemu.make_base(&source, &(Arc::new(Nowhere) as Lines), &wait).await
    }

    #[tokio::test]
    async fn a_bare_disk_becomes_a_base_image_that_is_known_again() {
        let state = tempfile::tempdir().expect("a directory");
        let qemu = qemu(&state.path().join("s"));
        let raw = state.path().join("disk.raw");
        std::fs::write(&raw, vec![5; 700_000]).expect("written");
        let made = base(&qemu, &raw, DiskFormat::Raw).await.expect("a base image");
        assert_eq!(made.sha256, Digest::of(&vec![5; 700_000]));
        assert_eq!(made.virtual_size, 700_416, "whole sectors");
        assert_eq!(base(&qemu, &raw, DiskFormat::Raw).await.expect("again"), made);
        assert_eq!(std::fs::read_dir(qemu.disks.work()).expect("a list").count(), 0);
        // The same path with other bytes is another base image.
        std::fs::write(&raw, vec![6; 700_000]).expect("written");
        assert_ne!(base(&qemu, &raw, DiskFormat::Raw).await.expect("another").disk, made.disk);
        assert!(qemu.disks.has(&made.disk).expect("looked"));
    }

    #[tokio::test]
    async fn what_is_no_base_image_is_refused_and_leaves_nothing() {
        let state = tempfile::tempdir().expect("a directory");
        let qemu = qemu(&state.path().join("s"));
        let path = |name: &str| state.path().join(name);
        std::fs::write(path("text.qcow2"), "no disk").expect("written");
        let error = base(&qemu, &path("text.qcow2"), DiskFormat::Qcow2).await.expect_err("no qcow2");
        assert!(error.message.contains("not a usable qcow2 file") && error.help.contains("format: raw"), "{error}");
        std::fs::write(path("large.raw"), vec![0; 2 << 20]).expect("written");
        assert_eq!(
            base(&qemu, &path("large.raw"), DiskFormat::Raw).await.expect_err("large").kind,
            PortErrorKind::Refused
        );
        assert!(
            base(&qemu, &path("none"), DiskFormat::Raw).await.expect_err("missing").message.contains("can't be opened")
        );
        assert!(
            base(&qemu, state.path(), DiskFormat::Raw)
                .await
                .expect_err("a directory")
                .message
                .contains("not a regular file")
        );
        assert!(qemu.disks.all().expect("a list").is_empty());
        assert_eq!(std::fs::read_dir(qemu.disks.work()).expect("a list").count(), 0);
    }

    /// An HTTP server that tells of each request, and answers it when it is let.
    fn slow_server(body: Vec<u8>) -> (String, mpsc::UnboundedReceiver<()>, std::sync::mpsc::Sender<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/disk.raw", listener.local_addr().expect("an address"));
        let (asked, requests) = mpsc::unbounded_channel();
        let (let_go, go) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let _request = stream.read(&mut [0; 2048]).expect("a request");
                if asked.send(()).is_err() || go.recv().is_err() {
                    return;
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).expect("sent");
            }
        });
        (url, requests, let_go)
    }

    #[tokio::test]
    async fn a_slow_base_image_keeps_only_those_waiting_who_want_it() {
        let state = tempfile::tempdir().expect("a directory");
        let qemu = Arc::new(qemu(&state.path().join("s")));
        let ask = |source: BaseSource| {
            let qemu = Arc::clone(&qemu);
            async move {
                let wait = super::super::own_wait(Duration::from_secs(30));
                qemu.base(&source, &(Arc::new(Nowhere) as Lines), &wait).await
            }
        };
        let slow = vec![7; 70_000];
        let (url, mut requests, let_go) = slow_server(slow.clone());
        let source = BaseSource::Download { url, sha256: Digest::of(&slow), format: DiskFormat::Raw };
        let first = tokio::spawn(ask(source.clone()));
        requests.recv().await.expect("it is asked for");
        let second = tokio::spawn(ask(source));

        let raw = state.path().join("disk.raw");
        std::fs::write(&raw, vec![5; 700_000]).expect("written");
        let file = BaseSource::File { path: raw, format: DiskFormat::Raw };
        let made = ask(file.clone()).await.expect("another base image");
        assert_eq!(ask(file).await.expect("one that is there"), made);
        let image = BaseSource::Image { disk: made.disk.clone(), sha256: made.sha256 };
        assert_eq!(ask(image).await.expect("an image of the catalogue"), made);
        assert!(!first.is_finished() && !second.is_finished());

        let_go.send(()).expect("it waits");
        let both = (first.await.expect("no panic"), second.await.expect("no panic"));
        assert_eq!(both.0.expect("downloaded"), both.1.expect("the same"));
        assert!(requests.try_recv().is_err(), "it was downloaded once");
    }
}
