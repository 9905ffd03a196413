//! What stands outside in the factory's name: leftovers of builds that are over, and what is shown there of images.

use std::collections::BTreeMap;

use tracing::warn;

use super::care::CareError;
use super::ports::Orphan;
use super::{Engine, reaper};
use crate::domain::build::BuildState;
use crate::domain::id::{BuildNo, ImageId};
use crate::domain::image::{Image, ImageState};
use crate::store::StoreError;

/// What was found of builds that are over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// What is left, by build.
    pub left: Vec<Orphan>,
    /// What was there and is not any more.
    pub removed: Vec<Orphan>,
}

impl Engine {
    /// What carries the number of a build that is over, or of none that is known; removed where that is asked for. What
    /// carries no mark of ours is neither listed nor touched, whatever it is called.
    ///
    /// # Errors
    /// When the driver or the database can't be asked. What could not be removed stays among what is left.
    pub async fn orphans(&self, remove: bool) -> Result<Orphans, CareError> {
        let found = self.of_ended_builds().await?;
        if !remove || found.is_empty() {
            return Ok(Orphans { left: found, removed: Vec::new() });
        }
        let mut builds: Vec<BuildNo> = found.iter().map(|orphan| orphan.build).collect();
        builds.dedup();
        for build in builds {
            reaper::release_tagged(self, build).await;
        }
        let left = self.of_ended_builds().await?;
        let removed = found.into_iter().filter(|orphan| !left.contains(orphan)).collect();
        Ok(Orphans { left, removed })
    }

    async fn of_ended_builds(&self) -> Result<Vec<Orphan>, CareError> {
        let mut found = Vec::new();
        for driver in self.drivers() {
            found.extend(driver.outside().await?);
        }
        let mut over = BTreeMap::new();
        for orphan in &found {
            if let std::collections::btree_map::Entry::Vacant(place) = over.entry(orphan.build) {
                place.insert(self.is_over(orphan.build).await?);
            }
        }
        found.retain(|orphan| over.get(&orphan.build).copied().unwrap_or(false));
        found.sort_by(|a, b| (a.build, a.kind, &a.id).cmp(&(b.build, b.kind, &b.id)));
        Ok(found)
    }

    /// Whether nobody works for a build any more, nor will.
    pub(super) async fn is_over(&self, build: BuildNo) -> Result<bool, StoreError> {
        if self.running().contains_key(&build) {
            return Ok(false);
        }
        let record = self.store().build(build).await?;
        Ok(record.is_none_or(|record| record.build.state == BuildState::Finished))
    }

    /// Deprecates an image, here and where its copies are.
    ///
    /// # Errors
    /// When the database fails. A copy that can't be told is logged: what counts is written here.
    pub async fn deprecate(&self, image: &ImageId) -> Result<(), StoreError> {
        self.store().set_image_state(image, ImageState::Deprecated).await?;
        if let Some(record) = self.store().image(image.as_str()).await? {
            self.show(&record.image, ImageState::Deprecated).await;
        }
        Ok(())
    }

    /// Lets those see an image's state who look where its copies are.
    pub(super) async fn show(&self, image: &Image, state: ImageState) {
        for copy in &image.copies {
            let Some(driver) = self.driver_named(&copy.driver) else { continue };
            if let Err(error) = driver.show(copy, state).await {
                warn!(image = image.id.as_str(), driver = %copy.driver, %error, "the image's state can't be shown");
            }
        }
    }
}
