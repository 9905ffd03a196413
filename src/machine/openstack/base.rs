//! Base images in the cloud: one that is there by its id or name, one of the catalogue, or one that is made on this host,
//! looked at, and uploaded once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::Cloud;
use super::bytes::{OfFile, Passing};
use super::glance::GlanceImage;
use super::images::Upload;
use super::marks;
use crate::blocking;
use crate::domain::id::{Digest, DiskId};
use crate::engine::ports::{Base, BaseSource, Lines, PortError, Wait};
use crate::machine::making::Making;
use crate::machine::qemu::disks::write_whole;

/// What an image of somebody else's summed to. An image's bytes never change, and what Glance sums them to is part of it.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    theirs: String,
    sha256: String,
}

impl Cloud {
    pub(super) async fn make_base(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        match source {
            BaseSource::Image { disk, sha256 } => {
                let image = self.image_of(disk).await?;
                Ok(Base { disk: disk.clone(), sha256: *sha256, virtual_size: self.virtual_size(&image).await? })
            }
            BaseSource::Named(name) => self.base_of_image(name, lines, wait).await,
            BaseSource::Download { sha256, .. } => match self.uploaded_base(*sha256).await? {
                Some(base) => Ok(base),
                None => self.base_of_host(source, lines, wait).await,
            },
            BaseSource::File { .. } | BaseSource::Recipe(_) => self.base_of_host(source, lines, wait).await,
        }
    }

    /// The base of a sum, if it is in the cloud.
    async fn uploaded_base(&self, sha256: Digest) -> Result<Option<Base>, PortError> {
        let disk = base_id(&sha256);
        match self.images_of(&disk).await?.into_iter().find(GlanceImage::is_active) {
            Some(image) => Ok(Some(Base { virtual_size: self.virtual_size(&image).await?, disk, sha256 })),
            None => Ok(None),
        }
    }

    /// Makes the image on this host, as the embedded driver does, with every look that it takes at a stranger's file; then
    /// uploads it.
    async fn base_of_host(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        let made = self.maker.make_base(source, lines, wait).await?;
        if self.uploaded_base(made.sha256).await?.is_some() {
            return Ok(made);
        }
        let _turn = self.making.turn(Making::of_sum(&made.sha256), wait).await?;
        if self.uploaded_base(made.sha256).await?.is_some() {
            return Ok(made);
        }
        for broken in self.images_of(&made.disk).await? {
            // Of an upload that was cut off: it is our turn, so nobody goes on with it.
            self.client.delete_image(&broken.id).await?;
        }
        let name = format!("factoryd-base-{}", &made.sha256.hex()[..16]);
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(name));
        row.insert("disk_format".to_owned(), json!("qcow2"));
        row.insert("container_format".to_owned(), json!("bare"));
        row.insert("visibility".to_owned(), json!("private"));
        row.insert("tags".to_owned(), json!([self.marks.tag()]));
        row.extend(self.marks.of_upload(&made.disk, None).into_iter().map(|(key, value)| (key, json!(value))));
        let passing = Passing::default();
        let file = OfFile { path: self.maker.file_of(&made.disk)?, passing: passing.clone() };
        let upload = Upload { disk: &made.disk, name: &name, row, bytes: &file, passing: &passing };
        wait.run("uploading the base image", self.uploaded(&upload, lines)).await?;
        if matches!(source, BaseSource::Download { .. }) {
            // The cloud has it now. What was copied or made here stays, so that it need not be summed or made again.
            self.maker.drop_base(&made.disk).await?;
        }
        Ok(made)
    }

    /// An image that is there by its id or name: exactly one, or it is said which there are.
    async fn base_of_image(&self, name: &str, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        let image = self.the_image(name).await?;
        let virtual_size = self.virtual_size(&image).await?;
        let sha256 = match image.property(marks::SHA256).parse().ok().filter(|_| self.marks.is_our_image(&image)) {
            Some(sha256) => sha256,
            None => self.sum_of(&image, lines, wait).await?,
        };
        Ok(Base { disk: marks::foreign(&image.id), sha256, virtual_size })
    }

    async fn the_image(&self, name: &str) -> Result<GlanceImage, PortError> {
        let by_id = if uuid::Uuid::parse_str(name).is_ok() { self.client.image(name).await? } else { None };
        let found = match by_id {
            Some(image) => vec![image],
            None => self.client.images(&[("name", name)]).await?,
        };
        match found.as_slice() {
            [image] if image.is_active() => Ok(image.clone()),
            [image] => Err(PortError::failed(format!(
                "the image `{name}` ({}) is `{}`, and only an active one can be booted from",
                image.id, image.status
            ))),
            [] => {
                Err(PortError::failed(format!("no image, bundle or alias is called `{name}`, and the cloud has none"))
                    .help("look at `openstack image list`, or give the name a meaning in [base] of the configuration"))
            }
            several => {
                let ids: Vec<&str> = several.iter().map(|image| image.id.as_str()).collect();
                let told = format!("{} images of the cloud are called `{name}`: {}", ids.len(), ids.join(", "));
                Err(PortError::failed(told).help("name one by its id"))
            }
        }
    }

    /// The sum of an image's bytes, read once and remembered.
    async fn sum_of(&self, image: &GlanceImage, lines: &Lines, wait: &Wait) -> Result<Digest, PortError> {
        let file = self.sums().join(format!("{}.json", image.id));
        let theirs = image.hash.as_ref().map(|(_, sum)| sum.clone()).unwrap_or_default();
        // Several builds may want it at once: one reads it.
        let _turn = self.making.turn(format!("image {}", image.id), wait).await?;
        if let Some(sha256) = known_sum(&file, &theirs) {
            return Ok(sha256);
        }
        let size = image.size.unwrap_or(0) >> 20;
        lines.line(format!("reading the image {} once, for the sum of its {size} MiB", image.name).as_bytes());
        let sha256 = self.read_again(image, wait).await?.sha256();
        let known = Known { theirs, sha256: sha256.hex() };
        let text = serde_json::to_vec(&known).map_err(|error| PortError::failed(format!("no JSON: {error}")))?;
        blocking::run(move || write_whole(&file, &text)).await?;
        Ok(sha256)
    }

    /// Where sums of other people's images are remembered.
    pub(super) fn sums(&self) -> PathBuf {
        self.directory.join("sums")
    }

    /// Removes bases of cut uploads, and what the host's part began.
    pub(super) async fn tidy_all(&self) -> Result<(usize, u64), PortError> {
        let making = self.making.clone();
        let abandoned = |image: &GlanceImage| {
            let sum = image.property("factoryd_base").strip_prefix("base-").and_then(|sum| sum.parse().ok());
            sum.is_some_and(|sum| making.free_turn(Making::of_sum(&sum)).is_some())
        };
        let (images, bytes) = self.remove_unfinished(abandoned).await?;
        let (files, more) = crate::engine::ports::Driver::tidy(&*self.maker).await?;
        Ok((images + files, bytes + more))
    }
}

/// The sum that was remembered of an image that Glance sums to this.
fn known_sum(file: &Path, theirs: &str) -> Option<Digest> {
    let known = serde_json::from_slice::<Known>(&std::fs::read(file).ok()?).ok()?;
    let is_it = known.theirs == theirs && !theirs.is_empty();
    known.sha256.parse().ok().filter(|_| is_it)
}

fn base_id(sha256: &Digest) -> DiskId {
    DiskId::new(format!("base-{}", sha256.hex()))
}

/// Whoever makes base images on this host.
pub(super) type Maker = Arc<crate::machine::qemu::Qemu>;
