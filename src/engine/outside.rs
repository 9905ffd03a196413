//! What stands outside in the factory's name: leftovers of builds that are over, and what is shown there of images.

use std::collections::BTreeMap;

use tracing::warn;

use super::care::CareError;
use super::ports::Orphan;
use super::{Engine, reaper};
use crate::domain::build::BuildState;
use crate::domain::id::{BuildNo, DriverName, ImageId};
use crate::domain::image::{Image, ImageState};
use crate::store::StoreError;

/// What was found of builds that are over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// What is left, by build.
    pub left: Vec<Orphan>,
    /// What was there and is not any more.
    pub removed: Vec<Orphan>,
    /// The drivers that could not be asked, each with why: what they have is not among these.
    pub away: Vec<(DriverName, String)>,
}

/// What the drivers have of builds that are over.
#[derive(Default)]
struct Found {
    orphans: Vec<(DriverName, Orphan)>,
    away: Vec<(DriverName, String)>,
}

impl Found {
    fn is_away(&self, driver: &DriverName) -> bool {
        self.away.iter().any(|(away, _)| away == driver)
    }
}

impl Engine {
    /// What carries the number of a build that is over, or of none that is known; removed where that is asked for. What
    /// carries no mark of ours is neither listed nor touched, whatever it is called.
    ///
    /// A driver that can't be asked is named, and what the others say is told.
    ///
    /// # Errors
    /// When the database can't be asked. What could not be removed stays among what is left.
    pub async fn orphans(&self, remove: bool) -> Result<Orphans, CareError> {
        let found = self.of_ended_builds().await?;
        if !remove || found.orphans.is_empty() {
            let left = found.orphans.into_iter().map(|(_, orphan)| orphan).collect();
            return Ok(Orphans { left, removed: Vec::new(), away: found.away });
        }
        let mut builds: Vec<BuildNo> = found.orphans.iter().map(|(_, orphan)| orphan.build).collect();
        builds.dedup();
        for build in builds {
            reaper::release_tagged(self, build).await;
        }
        let again = self.of_ended_builds().await?;
        // Of a driver that went away meanwhile nobody knows what became of what it had.
        let (unknown, seen): (Vec<_>, Vec<_>) =
            found.orphans.into_iter().partition(|(driver, _)| again.is_away(driver));
        let removed = seen.into_iter().filter(|orphan| !again.orphans.contains(orphan)).map(|(_, orphan)| orphan);
        let removed = removed.collect();
        let left = again.orphans.into_iter().chain(unknown).map(|(_, orphan)| orphan).collect();
        Ok(Orphans { left, removed, away: again.away })
    }

    async fn of_ended_builds(&self) -> Result<Found, CareError> {
        let mut found = Found::default();
        for driver in self.drivers() {
            match driver.outside().await {
                Ok(outside) => found.orphans.extend(outside.into_iter().map(|orphan| (driver.name().clone(), orphan))),
                Err(error) => found.away.push((driver.name().clone(), error.to_string())),
            }
        }
        let mut over = BTreeMap::new();
        for (_, orphan) in &found.orphans {
            if let std::collections::btree_map::Entry::Vacant(place) = over.entry(orphan.build) {
                place.insert(self.is_over(orphan.build).await?);
            }
        }
        found.orphans.retain(|(_, orphan)| over.get(&orphan.build).copied().unwrap_or(false));
        found.orphans.sort_by(|(_, a), (_, b)| (a.build, a.kind, &a.id).cmp(&(b.build, b.kind, &b.id)));
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
