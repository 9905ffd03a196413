//! The bytes of images: uploaded, staged, imported, downloaded; and the disks of guests that are packed into them.
//!
//! A disk is a directory. An image of it is an empty qcow2 as qemu-img makes it, with the directory as a tar archive
//! behind; whoever looks at it as qcow2 sees one of 1 GiB. Other bytes boot into a disk with nothing on it.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use sha2::{Digest, Sha512};

use super::Inner;
use super::faults::ImageFate;
use super::glance::{QUICK, refused};
use super::http::{Answer, Request, Service};
use super::state::{Event, Image, State};

/// What stands before the archive.
const MARK: &[u8] = b"the fake cloud's disk\n";
/// The largest image that it takes.
const LARGEST: usize = 1 << 30;

/// Whether a request brings an image's bytes.
pub(crate) fn is_upload(request: &Request) -> bool {
    request.service == Service::Glance
        && request.method == "PUT"
        && matches!(request.parts().as_slice(), ["images", _, "file" | "stage"])
}

/// Takes an upload; with `cut` the connection ends after so many bytes.
pub(crate) async fn upload(
    inner: &Arc<Inner>,
    request: &Request,
    mut body: Incoming,
    cut: Option<usize>,
) -> io::Result<Answer> {
    let parts: Vec<String> = request.parts().into_iter().map(str::to_owned).collect();
    let (id, staging) = (&parts[1], parts[2] == "stage");
    if let Some(refused) = begin(&mut inner.settled(), request, id, staging) {
        return Ok(refused);
    }
    let mut bytes = Vec::new();
    loop {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(error)) => return Err(abandon(&mut inner.settled(), id, &error.to_string())),
        }
        if cut.is_some_and(|cut| bytes.len() >= cut) {
            // The image stays in `saving`: this Glance did not live to put it back.
            return Err(io::Error::other("the upload is cut"));
        }
        if bytes.len() > LARGEST {
            return Ok(refused(413, "Image exceeds the storage quota"));
        }
    }
    Ok(finish(&mut inner.settled(), id, staging, bytes.into()))
}

fn begin(state: &mut State, request: &Request, id: &str, staging: bool) -> Option<Answer> {
    if request.header("content-type") != Some("application/octet-stream") {
        state.violation(format!("PUT {} is not sent as application/octet-stream", request.path));
        return Some(refused(415, "Unsupported Media Type"));
    }
    let Some((origin, owner)) = state.images.get(id).map(|image| (image.origin, image.owner.clone())) else {
        return Some(super::glance::not_found(id));
    };
    state.touch(request, origin, &format!("the image {id}"));
    if owner != request.project {
        return Some(refused(403, "You are not permitted to modify this image."));
    }
    if staging && !state.settings.import {
        return Some(refused(404, "The resource could not be found."));
    }
    let image = state.images.get_mut(id).expect("it is there");
    if image.status != "queued" {
        return Some(refused(409, &format!("Image status transition from {} to saving is not allowed", image.status)));
    }
    if image.disk_format.is_none() || image.container_format.is_none() {
        return Some(refused(400, "Properties disk_format, container_format must be set prior to saving data."));
    }
    image.status = if staging { "uploading" } else { "saving" };
    None
}

/// A client that went away: Glance puts the image back.
fn abandon(state: &mut State, id: &str, error: &str) -> io::Error {
    if let Some(image) = state.images.get_mut(id) {
        image.status = "queued";
    }
    io::Error::other(error.to_owned())
}

fn finish(state: &mut State, id: &str, staging: bool, bytes: Bytes) -> Answer {
    let Some(image) = state.images.get_mut(id) else { return super::glance::not_found(id) };
    if image.disk_format.as_deref() == Some("qcow2") && !bytes.starts_with(b"QFI\xfb") {
        // Glance takes it; nobody could boot it.
        let what = format!("{} bytes are uploaded as qcow2 that are not", bytes.len());
        state.violation(what);
    }
    let image = state.images.get_mut(id).expect("it is there");
    if staging {
        image.staged = Some(bytes);
        return Answer::empty(204);
    }
    image.data = Some(bytes);
    match image.fate {
        ImageFate::Well | ImageFate::Corrupted | ImageFate::LateToAppear(_) => state.later_active(id, true),
        _ => state.later_active(id, false),
    }
    Answer::empty(204)
}

impl State {
    /// An upload is active when it is answered; an import, and one that goes wrong, a little later.
    fn later_active(&mut self, id: &str, at_once: bool) {
        let after = if at_once { std::time::Duration::ZERO } else { QUICK };
        self.later(after, Event::ImageActive(id.to_owned()));
        let now = self.now;
        self.settle(now);
    }
}

pub(crate) fn import(state: &mut State, request: &Request, id: &str) -> Answer {
    if !state.settings.import {
        return refused(404, "The resource could not be found.");
    }
    let method = &request.json["method"];
    let name = method["name"].as_str().unwrap_or_default().to_owned();
    let image = state.images.get_mut(id).expect("it is there");
    if image.disk_format.is_none() || image.container_format.is_none() {
        return refused(400, "'disk_format' needs to be set before import");
    }
    match (name.as_str(), image.status) {
        ("glance-direct", "uploading") => image.data = image.staged.take(),
        ("web-download", "queued") => {
            // It fetches nothing: whoever asks for that should know what it gets, which it can't.
            state.violation(format!("POST /images/{id}/import lets the cloud download {}", method["uri"]));
            state.images.get_mut(id).expect("it is there").data = Some(made("downloaded\n"));
        }
        ("glance-direct" | "web-download", status) => {
            return refused(
                409,
                &format!("Image needs to be staged before 'glance-direct' method can be used: {status}"),
            );
        }
        _ => return refused(400, &format!("Unknown import method name '{name}'.")),
    }
    state.images.get_mut(id).expect("it is there").status = "importing";
    state.later(QUICK, Event::ImageActive(id.to_owned()));
    Answer::empty(202)
}

pub(crate) fn download(image: &Image, request: &Request) -> Answer {
    let Some(data) = image.data.clone().filter(|_| image.status == "active") else { return Answer::empty(204) };
    let answer = |status, body: Bytes| {
        Answer { status, headers: Vec::new(), body }.with("content-type", "application/octet-stream")
    };
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return answer(200, data).with("content-md5", image.md5.clone());
    };
    let from = from.parse().unwrap_or(0);
    let to = to.parse::<usize>().map_or(data.len(), |to| to + 1).min(data.len());
    if from >= to {
        return refused(416, "Requested Range Not Satisfiable");
    }
    let whole = data.len();
    answer(206, data.slice(from..to)).with("content-range", format!("bytes {from}-{}/{whole}", to - 1))
}

/// Works out an image's sums.
pub(crate) fn sum(image: &mut Image) {
    let data = image.data.clone().unwrap_or_default();
    image.sha512 = Sha512::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    // Not an MD5, which nobody here computes, but as long and as different.
    image.md5 = image.sha512[..32].to_owned();
}

/// The image of a disk that has only a README.
pub(crate) fn made(text: &str) -> Bytes {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("README"), text).expect("written");
    pack(directory.path())
}

/// The image of a disk.
pub(crate) fn pack(disk: &Path) -> Bytes {
    let mut bytes = empty_qcow2().to_vec();
    bytes.extend_from_slice(MARK);
    let mut archive = tar::Builder::new(bytes);
    archive.follow_symlinks(false);
    if disk.is_dir() {
        archive.append_dir_all("", disk).expect("the disk can be read");
    }
    archive.into_inner().expect("into memory").into()
}

/// Makes the disk that an image holds.
pub(crate) fn unpack(data: &Bytes, disk: &Path) {
    std::fs::create_dir_all(disk).expect("made");
    if let Some(archive) = archive(data) {
        tar::Archive::new(archive).unpack(disk).expect("what was packed");
    }
}

/// The text of a file on an image's disk.
pub(crate) fn file_of(data: &Bytes, path: &str) -> Option<String> {
    let mut archive = tar::Archive::new(archive(data)?);
    let entries = archive.entries().ok()?;
    for mut entry in entries.flatten() {
        let found = entry.path().ok()?.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned();
        if found == path.trim_matches('/') {
            return io::read_to_string(&mut entry).ok();
        }
    }
    None
}

fn archive(data: &Bytes) -> Option<&[u8]> {
    data.get(empty_qcow2().len()..)?.strip_prefix(MARK)
}

fn empty_qcow2() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("empty");
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1G").status();
        assert!(made.expect("qemu-img is there: run `scripts/setup run`").success());
        std::fs::read(&path).expect("made")
    })
}
