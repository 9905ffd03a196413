//! A sealed disk becomes an image: one compact file on nothing, summed as it lies on the disk, beside its description.

use std::sync::Arc;

use serde_json::json;

use super::Qemu;
use super::disks::{Disks, keep, sum_of, trouble, write_whole};
use crate::blocking;
use crate::domain::id::DiskId;
use crate::domain::image::ImageCopy;
use crate::engine::ports::{ImageOrder, Lines, PortError, PublishedCopy, Wait};
use crate::machine::lines::Nowhere;
use crate::machine::process::{Program, Tag};

impl Qemu {
    pub(super) async fn publish_disk(
        &self,
        disk: &DiskId,
        place: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.disks.refuse_if_there(place)?;
        let (source, header) = self.disks.existing(disk)?;
        let file = self.disks.image_file(place)?;
        // Below the build's directory: whatever happens, `release` finds it.
        let work = self.disks.of_build(order.build).join(format!("publish-{place}"));
        std::fs::create_dir_all(&work).map_err(|error| trouble("made", &work, &error))?;
        let part = work.join("image.qcow2");
        let tag = Tag::build(&self.settings.state_dir, order.build);
        // Measured: zstd with 16 coroutines, written out of order, is five times as fast as zlib and as small.
        let convert = Program::new("qemu-img", &tag)
            .args(["convert", "-f", "qcow2", "-O", "qcow2", "-m", "16", "-W", "-c", "-o", "compression_type=zstd"])
            .arg(source)
            .arg(&part);
        let converted = convert.check(lines, wait).await;
        let (disks, place_of, described) = (self.disks.clone(), place.clone(), order.clone());
        let kept = match converted {
            Err(error) => Err(error),
            Ok(()) => {
                blocking::run(move || {
                    describe(&disks, &place_of, &described)?;
                    keep(&part, &file)?;
                    sum_of(&file)
                })
                .await
            }
        };
        self.disks.remove_of_build(&work)?;
        let (sha256, size) = kept?;
        let copy = ImageCopy {
            driver: self.settings.name.clone(),
            region: String::new(),
            id: order.image.to_string(),
            disk: place.clone(),
        };
        self.compare(place, wait).await?;
        Ok(PublishedCopy { copy, sha256, size, virtual_size: header.virtual_size })
    }

    /// Lets QEMU look whether what was written is whole.
    async fn compare(&self, place: &DiskId, wait: &Wait) -> Result<(), PortError> {
        let tag = Tag::shared(&self.settings.state_dir);
        let check =
            Program::new("qemu-img", &tag).args(["check", "-q", "-f", "qcow2"]).arg(self.disks.image_file(place)?);
        check.check(&(Arc::new(Nowhere) as Lines), wait).await
    }
}

/// Writes what an image is called beside it, for people who look into the directory; the store is what counts.
pub(super) fn describe(disks: &Disks, disk: &DiskId, order: &ImageOrder) -> Result<(), PortError> {
    let properties: serde_json::Map<String, serde_json::Value> =
        order.properties.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let text = json!({
        "image": order.image.as_str(), "name": order.name, "build": order.build.0, "min_disk": order.min_disk,
        "properties": properties,
    });
    write_whole(&disks.image_file(disk)?.with_extension("json"), format!("{text:#}\n").as_bytes())
}
