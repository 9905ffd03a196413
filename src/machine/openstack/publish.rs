//! An image gets the name, the properties and the visibility that it is published with.
//!
//! The image that was tested is the image that is published: nothing is copied, it is only named. Where it is published
//! already, or is the base of others, a second image of the same bytes is made.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;

use super::Cloud;
use super::bytes::{OfDriver, OfImage, Passing};
use super::glance::{Change, GlanceImage};
use super::images::{HEAD, Upload};
use super::marks::{self, BUILD, Marks, OURS, SHA256};
use crate::domain::id::{Digest, DiskId};
use crate::domain::image::{ImageCopy, ImageState};
use crate::engine::ports::{Driver, ImageOrder, Lines, PortError, PublishedCopy, Wait};
use crate::machine::qemu::qcow2::Header;

/// What an image keeps of those it came from, as the factory has always kept it.
const INHERITED: [&str; 3] = ["cw_os", "cw_origin", "hw_rng_model"];

impl Cloud {
    pub(super) async fn publish_disk(
        &self,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.refuse_if_there(keep).await?;
        let image = self.image_of(disk).await?;
        let is_only_sealed = disk.as_str().starts_with("sealed-") && Marks::disks(&image) == [disk.clone()];
        let (image, sha256, size) = match is_only_sealed {
            true => {
                let read = self.read_again(&image, wait).await?;
                (image, read.sha256(), read.size)
            }
            false => self.copy_of(&image, keep, order, lines, wait).await?,
        };
        let virtual_size = self.virtual_size(&image).await?;
        let marks = [marks_of(keep, order), vec![(SHA256.to_owned(), sha256.hex())]].concat();
        let labelled = self.label(&image, order, &marks).await;
        if labelled.is_err() && !is_only_sealed {
            self.remove_disk(keep).await?;
        }
        labelled?;
        Ok(PublishedCopy { copy: self.copy(image.id, keep), sha256, size, virtual_size })
    }

    /// A second image of the same bytes.
    async fn copy_of(
        &self,
        image: &GlanceImage,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<(GlanceImage, Digest, u64), PortError> {
        let passing = Passing::default();
        let bytes = OfImage { client: &self.client, image: &image.id, passing: passing.clone() };
        let row = self.row(keep, order, &image.disk_format);
        let upload = Upload { disk: keep, name: &order.name, row, bytes: &bytes, passing: &passing };
        let (copy, passed) = wait.run("copying the image", self.uploaded(&upload, lines)).await?;
        // The copy carries on what every image of its line has.
        let inherited = image.properties.iter().filter(|(key, _)| is_inherited(key));
        let changes: Vec<Change> =
            inherited.map(|(key, value)| Change::Set(key.clone(), Value::String(value.clone()))).collect();
        let copy = if changes.is_empty() { copy } else { self.client.change_image(&copy.id, &changes).await? };
        Ok((copy, passed.sha256(), passed.size))
    }

    /// An image of another driver, copied here. Glance would take anything as qcow2: its head is looked at before.
    pub(super) async fn take_copy(
        &self,
        (from, disk): (&dyn Driver, &DiskId),
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.refuse_if_there(keep).await?;
        let mut head = Vec::new();
        let reading = from.read(disk).await?.take(HEAD).read_to_end(&mut head).await;
        reading.map_err(|error| PortError::unavailable(format!("the disk {disk} can't be read: {error}")))?;
        let header = Header::parse(&head)
            .map_err(|why| PortError::failed(format!("the disk {disk} of {} is not qcow2: {why}", from.name())))?;
        header.stand_alone(disk.as_str())?;
        let passing = Passing::default();
        let bytes = OfDriver { driver: from, disk, passing: passing.clone() };
        let row = self.row(keep, order, "qcow2");
        let upload = Upload { disk: keep, name: &order.name, row, bytes: &bytes, passing: &passing };
        let (image, passed) = wait.run("copying the image", self.uploaded(&upload, lines)).await?;
        let (sha256, size) = (passed.sha256(), passed.size);
        let marks = [marks_of(keep, order), vec![(SHA256.to_owned(), sha256.hex())]].concat();
        if let Err(error) = self.label(&image, order, &marks).await {
            self.remove_disk(keep).await?;
            return Err(error);
        }
        Ok(PublishedCopy { copy: self.copy(image.id, keep), sha256, size, virtual_size: header.virtual_size })
    }

    fn copy(&self, id: String, keep: &DiskId) -> ImageCopy {
        let (driver, region) = (self.settings.name.clone(), self.client.region().to_owned());
        ImageCopy { driver, region, id, disk: keep.clone() }
    }

    /// What an image is made with that is to be published.
    pub(super) fn row(&self, keep: &DiskId, order: &ImageOrder, format: &str) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(order.name));
        row.insert("disk_format".to_owned(), json!(format));
        row.insert("container_format".to_owned(), json!("bare"));
        row.insert("visibility".to_owned(), json!("private"));
        row.insert("tags".to_owned(), json!([self.marks.tag()]));
        let marks = self.marks.of_upload(keep, Some(order.build));
        row.extend(marks.into_iter().map(|(key, value)| (key, json!(value))));
        row
    }

    /// Gives an image its name, exactly its properties, and who sees it; then looks whether it has them.
    pub(super) async fn label(
        &self,
        image: &GlanceImage,
        order: &ImageOrder,
        marks: &[(String, String)],
    ) -> Result<(), PortError> {
        let mut wanted: BTreeMap<String, String> = order.properties.iter().cloned().collect();
        wanted.extend(marks.iter().cloned());
        let mut changes = vec![
            Change::Set("name".to_owned(), json!(order.name)),
            Change::Set("min_disk".to_owned(), json!(order.min_disk)),
        ];
        let visibility = self.settings.visibility.word();
        if image.visibility != visibility {
            changes.push(Change::Set("visibility".to_owned(), json!(visibility)));
        }
        let is_kept = |key: &str| wanted.contains_key(key) || key.starts_with(OURS) || is_inherited(key);
        changes.extend(image.properties.keys().filter(|key| !is_kept(key)).cloned().map(Change::Remove));
        let differs = wanted.iter().filter(|(key, value)| image.properties.get(*key) != Some(value));
        changes.extend(differs.map(|(key, value)| Change::Set(key.clone(), json!(value))));
        // First the tag: without the server's id among its properties it is ours by nothing else.
        if !image.tags.contains(&self.marks.tag()) {
            self.client.tag_image(&image.id, &self.marks.tag()).await?;
        }
        let now = self.client.change_image(&image.id, &changes).await?;
        let is_so = now.name == order.name
            && now.min_disk == order.min_disk
            && wanted.iter().all(|(key, value)| now.property(key) == value);
        match is_so {
            true => Ok(()),
            false => Err(PortError::failed(format!("the image {} was not given what it was to have", image.id))
                .help("Glance took the change and kept something else: look at its property protections")),
        }
    }

    pub(super) async fn amend_copy(&self, copy: &ImageCopy, order: &ImageOrder) -> Result<(), PortError> {
        let image = self.image_of(&copy.disk).await?;
        self.label(&image, order, &[]).await
    }

    /// Hides an image from lists that nobody should begin to use, and shows it again.
    pub(super) async fn show_state(&self, copy: &ImageCopy, state: ImageState) -> Result<(), PortError> {
        let hidden = !matches!(state, ImageState::Published | ImageState::Candidate);
        for image in self.images_of(&copy.disk).await? {
            if image.hidden != hidden {
                self.client.change_image(&image.id, &[Change::Set("os_hidden".to_owned(), json!(hidden))]).await?;
            }
        }
        Ok(())
    }
}

fn marks_of(keep: &DiskId, order: &ImageOrder) -> Vec<(String, String)> {
    let disk = marks::property(keep).map(|property| (property, keep.to_string()));
    disk.into_iter().chain([(BUILD.to_owned(), order.build.0.to_string())]).collect()
}

fn is_inherited(key: &str) -> bool {
    INHERITED.iter().any(|kept| key.contains(kept))
}
