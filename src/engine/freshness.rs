//! Whether the images that serve are those that their branches want, told wherever an image stands: a shared change may
//! leave images stale for long, and nobody who looks at one should have to ask for a plan.

use std::collections::{HashMap, HashSet};

use super::views::plan_is_fresh;
use super::{Engine, unpoisoned};
use crate::domain::id::{Fingerprint, ImageId, RepoName};
use crate::domain::image::Freshness;
use crate::store::StoreError;

/// Why an image is stale whose disk grew old. It starts nothing: what apt installs changes every day.
pub(super) const EXPIRED: &str =
    "its disk is older than `expire` of its pipeline; factoryd build --no-cache makes a new one";

impl Engine {
    /// The declared fingerprints of a repository's sealed disks that have expired.
    pub(super) async fn expired_disks(&self, repository: &RepoName) -> Result<HashSet<Fingerprint>, StoreError> {
        self.store().expired_disks(repository, &self.policy().driver, self.clock().now()).await
    }

    /// Whether each image is fresh that serves a bundle of a planned branch. One that serves several is stale as soon as
    /// one of them wants another; those that serve nothing are missing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn freshness(&self) -> Result<HashMap<ImageId, Freshness>, StoreError> {
        let plans = unpoisoned(&self.shared.plans).clone();
        let mut found = HashMap::new();
        for ((repository, branch), plan) in &plans {
            let wanted = self.wanted_on(repository, branch);
            let expired = self.expired_disks(repository).await?;
            let bundles = &plan.plan.bundles;
            for (path, served) in self.store().served(repository, branch).await? {
                let Ok(place) = bundles.binary_search_by(|bundle| bundle.bundle.cmp(&path)) else { continue };
                let wanted = wanted.get(&path);
                let is_served = wanted.is_some_and(|wanted| wanted.prints().eq(served.stages.iter().copied()));
                if plan_is_fresh(bundles[place].action, is_served) {
                    if served.stages.iter().any(|(_, print)| expired.contains(print)) {
                        found.insert(served.image, Freshness::Stale(EXPIRED.to_owned()));
                    } else {
                        found.entry(served.image).or_insert(Freshness::Fresh);
                    }
                } else {
                    found.insert(served.image, Freshness::Stale(bundles[place].reason.clone().into_owned()));
                }
            }
        }
        Ok(found)
    }
}
