//! Which image of the cloud is which disk of the factory, and how images come and go.
//!
//! A disk has its id before there is an image; the image carries the id as a property, and is found by it. One image can
//! be two disks: the sealed one that was tested, and the published one. It goes with the last of them.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Cloud;
use super::bytes::{self, Passed, Passing, passed};
use super::client::Opens;
use super::error::{ApiError, Fate, Service};
use super::glance::{Change, GlanceImage};
use super::marks::{self, FACTORY, Marks, OURS};
use crate::domain::id::DiskId;
use crate::engine::ports::{Lines, PortError, Wait};
use crate::machine::qemu::qcow2::Header;

/// How much of an image is looked at for its header.
pub(super) const HEAD: u64 = 64 * 1024;
/// How often an upload is begun that breaks off.
const UPLOADS: u32 = 3;

/// An image to be uploaded.
pub(super) struct Upload<'a> {
    pub(super) disk: &'a DiskId,
    pub(super) name: &'a str,
    pub(super) row: Map<String, Value>,
    pub(super) bytes: &'a dyn Opens,
    pub(super) passing: &'a Passing,
}

impl Cloud {
    /// All images that these hold of, hidden or not.
    async fn images_with(&self, filter: &[(&str, &str)]) -> Result<Vec<GlanceImage>, ApiError> {
        let mut all: Vec<GlanceImage> = Vec::new();
        // Glance leaves out what is hidden and what is the community's, where it is not asked for.
        let community: &[&[(&str, &str)]] = match self.settings.visibility == super::Visibility::Community {
            true => &[&[], &[("visibility", "community")]],
            false => &[&[]],
        };
        for more in community {
            for hidden in ["false", "true"] {
                let filter = [filter, more, &[("os_hidden", hidden)]].concat();
                for image in self.client.images(&filter).await? {
                    if all.iter().all(|known| known.id != image.id) {
                        all.push(image);
                    }
                }
            }
        }
        Ok(all)
    }

    /// The factory's images.
    pub(super) async fn our_images(&self) -> Result<Vec<GlanceImage>, ApiError> {
        let mut images = self.images_with(&[(FACTORY, self.marks.factory())]).await?;
        let project = self.client.session(0, Duration::ZERO).await?.project.clone();
        images.retain(|image| self.marks.is_our_image(image) && image.owner == project);
        Ok(images)
    }

    /// The images that are a disk: one, unless an answer was lost.
    pub(super) async fn images_of(&self, disk: &DiskId) -> Result<Vec<GlanceImage>, ApiError> {
        if let Some(image) = marks::foreign_image(disk) {
            return Ok(self.client.image(image).await?.into_iter().collect());
        }
        let Some(property) = marks::property(disk) else { return Ok(Vec::new()) };
        let mut images = self.images_with(&[(&property, disk.as_str())]).await?;
        images.retain(|image| self.marks.is_our_image(image));
        images.sort_by_key(|image| !image.is_active());
        Ok(images)
    }

    /// The image that is a disk, which must be there and whole.
    pub(super) async fn image_of(&self, disk: &DiskId) -> Result<GlanceImage, PortError> {
        match self.images_of(disk).await?.into_iter().next() {
            Some(image) if image.is_active() => Ok(image),
            Some(image) => Err(PortError::failed(format!(
                "the disk {disk} is the image {}, which is `{}` and can't be used",
                image.id, image.status
            ))
            .help("build again with `--no-cache`")),
            None => Err(PortError::failed(format!("the cloud has no image for the disk {disk}"))
                .help("it was removed by hand or by retention: build again with `--no-cache`")),
        }
    }

    /// Refuses to make a disk that is there.
    pub(super) async fn refuse_if_there(&self, disk: &DiskId) -> Result<(), PortError> {
        match self.images_of(disk).await?.first() {
            None => Ok(()),
            Some(image) => Err(PortError::refused(format!(
                "the disk {disk} is there already, as the image {}, and disks are never overwritten",
                image.id
            ))),
        }
    }

    /// The size of the disk that a guest sees, in bytes: as Glance has it, else from the head of its bytes.
    pub(super) async fn virtual_size(&self, image: &GlanceImage) -> Result<u64, PortError> {
        if let Some(size) = image.virtual_size.filter(|size| *size > 0) {
            return Ok(size);
        }
        if image.disk_format != "qcow2" {
            return Ok(image.size.unwrap_or(0));
        }
        let mut response = self.client.image_bytes(&image.id, Some(HEAD)).await?;
        let mut head = Vec::new();
        let broken = |error: reqwest::Error| ApiError::transport(Service::Image, "GET /images/…/file", &error);
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            head.extend_from_slice(&piece);
            if head.len() as u64 >= HEAD {
                break;
            }
        }
        let header = Header::parse(&head).map_err(|why| {
            PortError::failed(format!(
                "the image {} ({}) says that it is qcow2, and is not: {why}",
                image.name, image.id
            ))
            .help("upload it anew, with the format that it has")
        })?;
        Ok(header.virtual_size)
    }

    /// Waits until an image can be used. Whoever makes it may break off without a word: an image that stays as it is for
    /// too long is given up, unless its server is still busy with it.
    pub(super) async fn active(&self, id: &str, server: &str) -> Result<GlanceImage, PortError> {
        let (mut after, mut last, mut since) = (Instant::now(), String::new(), Instant::now());
        loop {
            let looked = self.image_looks.after(after, async || self.our_images().await).await;
            let images = match looked {
                Ok((at, images)) => {
                    after = at;
                    images
                }
                Err(error) if error.is_in_doubt() || error.is_untouched() => continue,
                Err(error) => return Err(error.into()),
            };
            // Not in the list is not gone: a snapshot of which Nova has only told may not be marked yet.
            let image = match images.iter().find(|image| image.id == id) {
                Some(image) => Some(image.clone()),
                None => self.client.image(id).await?,
            };
            let now = image.as_ref().map(|image| (image.status.clone(), image.updated.clone(), image.size));
            match now.as_ref().map(|(status, ..)| status.as_str()) {
                Some("active") => return image.ok_or_else(|| PortError::unavailable("the image has vanished")),
                Some(bad @ ("error" | "killed" | "deleted" | "pending_delete" | "deactivated")) => {
                    return Err(PortError::unavailable(format!("the image {id} went to `{bad}` while it was made"))
                        .help("the cloud could not keep it; its operator finds why in the logs of Glance and Nova"));
                }
                None if !last.is_empty() => {
                    return Err(PortError::unavailable(format!("the image {id} was deleted while it was made"))
                        .help("the cloud could not keep it, or somebody removed it"));
                }
                _ => {}
            }
            let told = now.map(|now| format!("{now:?}")).unwrap_or_default();
            let pace = self.client.pace;
            if told != last {
                (last, since) = (told, Instant::now());
            } else if since.elapsed() > pace.busy || since.elapsed() > pace.stuck && !self.is_imaging(server).await? {
                return Err(PortError::unavailable(format!(
                    "the image {id} stays as it is, and nothing works on it any more or for too long: {}",
                    if last.is_empty() { "it is not there" } else { &last }
                ))
                .help("the cloud lost it half made; factoryd retry"));
            }
        }
    }

    /// Whether Nova still makes an image of a server.
    async fn is_imaging(&self, server: &str) -> Result<bool, ApiError> {
        let task = self.nova().await?.server(server).await?.and_then(|server| server.task);
        Ok(task.is_some_and(|task| task.starts_with("image_")))
    }

    /// Uploads an image and looks whether what arrived is what was sent. What breaks off is removed and begun again.
    pub(super) async fn uploaded(
        &self,
        upload: &Upload<'_>,
        lines: &Lines,
    ) -> Result<(GlanceImage, Passed), PortError> {
        let mut made = 1;
        loop {
            let row = self.client.create_image_row(Value::Object(upload.row.clone())).await;
            let row = match row {
                Ok(row) => row,
                // It may be there; the search finds it, and nobody else has its disk's id.
                Err(error) if error.is_in_doubt() => match self.images_of(upload.disk).await?.into_iter().next() {
                    Some(row) => row,
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            };
            lines.line(format!("uploading {} as the image {}", upload.name, row.id).as_bytes());
            let error = match self.filled(&row.id, upload).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // Left to itself it would stay half made for ever.
            self.client.delete_image(&row.id).await?;
            if made >= UPLOADS || !(error.is_in_doubt() || error.is_untouched()) {
                return Err(error.into());
            }
            lines.line(format!("the upload broke off and begins again: {error}").as_bytes());
            tokio::time::sleep(self.client.pace.pause(made, error.retry_after)).await;
            made += 1;
        }
    }

    async fn filled(&self, id: &str, upload: &Upload<'_>) -> Result<(GlanceImage, Passed), ApiError> {
        match self.client.upload_image(id, upload.bytes).await {
            Ok(()) => {}
            // Some clouds let nobody write to the store, and take in what was put aside.
            Err(error) if (error.has_status(403) || error.has_status(405)) && !error.is_shortage() => {
                self.client.import_image(id, upload.bytes).await?;
            }
            Err(error) => return Err(error),
        }
        let impossible = |why: String| ApiError::silent(Service::Image, "the upload", Fate::Impossible, why);
        let mut looked = 0;
        let image = loop {
            let image =
                self.client.image(id).await?.ok_or_else(|| impossible(format!("the image {id} has vanished")))?;
            match image.status.as_str() {
                "active" => break image,
                "queued" | "saving" | "importing" | "uploading" => {}
                other => return Err(impossible(format!("the image {id} went to `{other}`"))),
            }
            looked += 1;
            tokio::time::sleep(self.client.pace.pause(looked, None)).await;
        };
        let passed = passed(upload.passing);
        passed.agrees(&image).map_err(|why| impossible(format!("the image {id} did not arrive whole: {why}")))?;
        Ok((image, passed))
    }

    /// Reads an image to its end and compares it with what Glance says of it.
    pub(super) async fn read_again(&self, image: &GlanceImage, wait: &Wait) -> Result<Passed, PortError> {
        let reading = async { Ok(bytes::sum(&self.client, &image.id).await?) };
        let passed = wait.run("reading the image again", reading).await?;
        match passed.agrees(image) {
            Ok(()) if passed.size > 0 => Ok(passed),
            Ok(()) => Err(PortError::unavailable(format!("the image {} is empty", image.id))),
            Err(why) => Err(PortError::unavailable(format!("the image {} can't be read as it is: {why}", image.id))),
        }
    }

    /// Takes a disk away: the image with it, unless it is another disk, too. Doing it twice is success.
    pub(super) async fn remove_disk(&self, disk: &DiskId) -> Result<(), PortError> {
        // Nobody's but the one whose image it is.
        let Some(property) = marks::property(disk) else { return Ok(()) };
        for image in self.images_of(disk).await? {
            if Marks::disks(&image).iter().any(|other| other != disk) {
                let mut changes = vec![Change::Remove(property.clone())];
                if property == format!("{OURS}image") {
                    // What is only the tested disk again is nobody's to boot from.
                    changes.extend([
                        Change::Set("name".to_owned(), json!(image.property(&format!("{OURS}sealed")))),
                        Change::Set("visibility".to_owned(), json!("private")),
                    ]);
                }
                self.client.change_image(&image.id, &changes).await?;
                continue;
            }
            if image.protected {
                self.client.change_image(&image.id, &[Change::Set("protected".to_owned(), json!(false))]).await?;
            }
            self.client.delete_image(&image.id).await?;
        }
        Ok(())
    }

    /// Removes images that were begun and that nobody goes on with.
    pub(super) async fn remove_unfinished(&self, of: impl Fn(&GlanceImage) -> bool) -> Result<(usize, u64), PortError> {
        let mut removed = (0, 0);
        for image in self.our_images().await? {
            if image.is_unfinished() && of(&image) {
                self.client.delete_image(&image.id).await?;
                removed = (removed.0 + 1, removed.1 + image.size.unwrap_or(0));
            }
        }
        Ok(removed)
    }

    /// How long something may take that nobody waits for with a deadline.
    pub(super) fn own_wait(limit: Duration) -> Wait {
        Wait { cancel: tokio_util::sync::CancellationToken::new(), deadline: Instant::now() + limit }
    }
}
