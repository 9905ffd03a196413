//! Verification: is everything that is remembered, and everything that rows name, what it was?
//!
//! The store looks at its rows and its own files; here the driver's disks follow. Nothing is repaired, and a disk that is
//! wrong stops nothing: a build that needs it makes it again or fails with its name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

use super::Engine;
use super::ports::PortError;
use crate::blocking;
use crate::domain::id::{Digest, DiskId, ImageId};
use crate::domain::image::{Image, ImageCopy};
use crate::store::{Problem, Report, ResultNo, StageResult, StoreError};

/// Bytes of a disk that are read and summed at once.
const PIECE: usize = 1 << 20;

/// How far a verification has come, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What was read.
    pub bytes: u64,
    /// What there is to read.
    pub of: u64,
}

/// What a problem is about. Garbage collection may take it while we look, and then it is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Image(ImageId),
    Result(ResultNo),
}

impl Engine {
    /// Looks whether everything that is remembered is whole: rows against journals, every file of the store and every image
    /// against its sum, and whether the disks of kept results are there. Takes as long as reading all of it does; builds go
    /// on meanwhile.
    ///
    /// # Errors
    /// When the database can't be read at all. What is read and wrong is in the report.
    pub async fn verify(&self, progress: &watch::Sender<Looked>) -> Result<Report, StoreError> {
        let images: Vec<Image> = self.store().images().await?.into_iter().map(|record| record.image).collect();
        let of = self.store().stored_bytes().await? + images.iter().map(|image| image.size).sum::<u64>();
        progress.send_modify(|looked| looked.of = of);
        let seen = progress.clone();
        let mut report = self.store().verify_telling(move |size| add(&seen, size)).await?;
        let mut wrong = BTreeMap::new();
        for image in &images {
            for copy in &image.copies {
                report.disks += 1;
                if let Err(what) = self.verify_copy(image, copy, progress).await {
                    let what = format!("the image {} ({}) {what}", image.name, image.id);
                    wrong.insert(Subject::Image(image.id.clone()), (what, PUBLISH_AGAIN));
                }
            }
        }
        self.verify_results(&mut report, &mut wrong).await?;
        self.forget_collected(&mut wrong).await?;
        let problem = |(what, help): (String, &str)| Problem { what, help: help.to_owned(), stops_writing: false };
        report.problems.extend(wrong.into_values().map(problem));
        Ok(report)
    }

    /// Reads a published file; an error says what is wrong with it.
    async fn verify_copy(
        &self,
        image: &Image,
        copy: &ImageCopy,
        progress: &watch::Sender<Looked>,
    ) -> Result<(), String> {
        // A driver that is configured no more can't be asked.
        let Some(driver) = self.driver_named(&copy.driver) else { return Ok(()) };
        let cant = |error: PortError| format!("can't be read from {}: {error}", copy.disk);
        if !driver.has(&copy.disk).await.map_err(cant)? {
            return Err(format!("has lost its file {}, or the file's head is broken", copy.disk));
        }
        let reader = driver.read(&copy.disk).await.map_err(cant)?;
        let sum = summed(reader, progress).await.map_err(|error| cant(PortError::unavailable(error.to_string())))?;
        if sum == image.sha256 {
            return Ok(());
        }
        Err(format!("has other bytes in {}: they sum to {sum}, and {} was published", copy.disk, image.sha256))
    }

    /// Looks whether the disks of kept results are there. Of results that say the same the newest counts: an older one may
    /// have lost its disk, which is why there is a newer.
    async fn verify_results(
        &self,
        report: &mut Report,
        wrong: &mut BTreeMap<Subject, (String, &'static str)>,
    ) -> Result<(), StoreError> {
        let (mut keys, mut disks) = (HashSet::new(), HashSet::<(String, DiskId)>::new());
        for result in self.store().all_results().await?.into_iter().rev() {
            let StageResult { repository, stage, declared, driver: driver_name, build, .. } = &result;
            let (Some(number), Some(driver)) = (result.number, self.driver_named(driver_name)) else { continue };
            if !keys.insert((repository.clone(), *stage, *declared, driver_name.clone(), result.tracked)) {
                continue;
            }
            for disk in result.payload.disks() {
                if !disks.insert((driver_name.to_string(), disk.clone())) {
                    continue;
                }
                report.disks += 1;
                // An error of the driver's is one of the disk's: it can't be used.
                if !driver.has(disk).await.unwrap_or(false) {
                    let what = format!("the disk {disk}, kept from {stage} of {build}, is not there or broken");
                    wrong.insert(Subject::Result(number), (what, MAKE_AGAIN));
                }
            }
        }
        Ok(())
    }

    async fn forget_collected(&self, wrong: &mut BTreeMap<Subject, (String, &'static str)>) -> Result<(), StoreError> {
        if wrong.is_empty() {
            return Ok(());
        }
        let images = self.store().images().await?.into_iter().map(|record| Subject::Image(record.image.id));
        let results = self.store().all_results().await?;
        let there: BTreeSet<Subject> =
            images.chain(results.into_iter().filter_map(|result| result.number).map(Subject::Result)).collect();
        wrong.retain(|subject, _| there.contains(subject));
        Ok(())
    }
}

const PUBLISH_AGAIN: &str =
    "put the file back from a backup, or build the bundle again: factoryd build BUNDLE --no-cache";
const MAKE_AGAIN: &str = "a build that needs it makes it again; look for what removes files from the state directory";

fn add(progress: &watch::Sender<Looked>, bytes: u64) {
    progress.send_modify(|looked| looked.bytes += bytes);
}

/// The sum of what can be read. Summing a piece takes longer than an async thread may be held up.
async fn summed(
    mut reader: Box<dyn AsyncRead + Send + Unpin>,
    progress: &watch::Sender<Looked>,
) -> std::io::Result<Digest> {
    let mut hash = Sha256::new();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut reader).take(PIECE as u64).read_to_end(&mut piece).await?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        hash = blocking::run(move || hash.chain_update(&piece)).await;
        add(progress, read as u64);
    }
}
