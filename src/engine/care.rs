//! Care: retention and garbage collection. Rows go first, files after; what is needed is decided in
//! `domain::retention`, from what is served, pinned, published or under way.

use std::collections::{BTreeSet, HashSet};

use thiserror::Error;
use tracing::info;

use super::ports::PortError;
use super::{Engine, reaper, unpoisoned};
use crate::domain::id::{BuildNo, DiskId};
use crate::domain::retention::{Decision, KeptImage, KeptResult, Needed, Retention, decide};
use crate::store::{BuildRecord, OpenBuild, Payload, ResultNo, StageResult, StoreError};

/// What was deprecated, removed and freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images that are deprecated now, by id.
    pub deprecated: Vec<String>,
    /// Disks that were removed.
    pub disks: usize,
    /// Files of the store that were removed.
    pub blobs: usize,
    /// Bytes that are free now and were not.
    pub freed: u64,
}

/// Why care could not be taken to its end.
#[derive(Debug, Error)]
pub enum CareError {
    /// The database or the files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The driver.
    #[error("{0}")]
    Driver(#[from] PortError),
}

impl Engine {
    /// Deprecates and removes what retention no longer keeps, then frees what nothing refers to.
    ///
    /// # Errors
    /// When the database, a file or the driver fails. What was done until then stays done.
    pub async fn collect(&self) -> Result<Collected, CareError> {
        // No build is queued meanwhile, so that nothing becomes needed between the decision and the removal.
        let _one_at_a_time = self.shared.planning.lock().await;
        let decision = self.decide_retention().await?;
        for image in &decision.deprecate {
            self.deprecate(image).await?;
        }
        for image in &decision.remove {
            self.store().remove_image(image).await?;
        }
        self.store().forget(decision.drop.clone()).await?;
        let (disks, disk_bytes) = self.drop_unreferenced().await?;
        let (mut begun, mut begun_bytes) = (0, 0);
        for driver in self.drivers() {
            let (things, bytes) = driver.tidy().await?;
            (begun, begun_bytes) = (begun + things, begun_bytes + bytes);
        }
        let freed = self.store().gc(HashSet::new()).await?;
        reaper::sweep(self).await;
        let deprecated = decision.deprecate.iter().map(ToString::to_string).collect();
        info!(disks, begun, blobs = freed.blobs.len(), "collected garbage");
        Ok(Collected { deprecated, disks, blobs: freed.blobs.len(), freed: freed.bytes + disk_bytes + begun_bytes })
    }

    async fn decide_retention(&self) -> Result<Decision<ResultNo>, StoreError> {
        let unfinished = self.store().open_builds().await?;
        let results = self.store().all_results().await?;
        let mut kept = Vec::with_capacity(results.len());
        for result in results {
            if let Some(maker) = self.store().build(result.build).await? {
                kept.push(kept_result(result, &maker));
            }
        }
        let images: Vec<KeptImage> = self.store().images().await?.into_iter().map(kept_image).collect();
        let policy = self.policy();
        let retention = Retention {
            keep: policy.keep,
            age: policy.keep_for.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        };
        Ok(decide(&images, &kept, &self.needed(&unfinished).await?, retention, self.clock().now()))
    }

    async fn needed(&self, unfinished: &[OpenBuild]) -> Result<Needed, StoreError> {
        let mut needed = Needed {
            builds: unfinished.iter().map(|build| build.number).collect::<BTreeSet<BuildNo>>(),
            ..Needed::default()
        };
        for declared in self.store().declared_unfinished().await?.values() {
            needed.awaited.extend(declared.iter().map(|(_, declared)| *declared));
        }
        // Known also before the first plan, which says what is wanted.
        needed.fingerprints.extend(self.store().all_served_prints().await?);
        for wanted in unpoisoned(&self.shared.wanted).values().flat_map(|wanted| wanted.values()) {
            needed.fingerprints.extend(wanted.prints().map(|(_, declared)| declared));
        }
        Ok(needed)
    }

    /// Removes the drivers' disks that no row refers to; never one that factoryd did not name.
    async fn drop_unreferenced(&self) -> Result<(usize, u64), CareError> {
        let mut dropped = (0, 0);
        for driver in self.drivers() {
            let known = self.store().referenced_disks(driver.name()).await?;
            for (disk, bytes) in driver.disks().await? {
                if disk.is_ours() && !known.contains(&disk) && !self.backs(&disk).await? {
                    driver.remove(&disk).await.map_err(|error| self.heeded(error))?;
                    dropped = (dropped.0 + 1, dropped.1 + bytes);
                }
            }
        }
        Ok(dropped)
    }

    /// Whether a build that runs may use a disk that no row names yet.
    async fn backs(&self, disk: &DiskId) -> Result<bool, StoreError> {
        // While anything runs, bases stay: a build may be about to boot from one.
        let unfinished = self.store().open_builds().await?;
        Ok(!unfinished.is_empty() && disk.as_str().starts_with("base-"))
    }
}

fn kept_image(record: crate::store::ImageRecord) -> KeptImage {
    let image = record.image;
    KeptImage {
        id: image.id,
        key: record.key,
        state: image.state,
        pinned: image.pinned,
        served: record.served,
        made: record.made,
        build: image.lineage.build,
        disks: image.copies.into_iter().map(|copy| copy.disk).collect(),
    }
}

fn kept_result(result: StageResult, maker: &BuildRecord) -> KeptResult<ResultNo> {
    let image = match &result.payload {
        Payload::Snapshot { image } => Some(image.clone()),
        _ => None,
    };
    KeptResult {
        number: result.number.unwrap_or(ResultNo(0)),
        key: maker.order.key.clone(),
        stage: result.stage,
        declared: result.declared,
        build: result.build,
        made: result.made,
        expires: result.expires,
        image,
        disks: result.payload.disks().into_iter().cloned().collect(),
    }
}
