//! `on_shared_change` in the daemon: whose word counts, and the look that follows each build, since what a canary proved
//! lets others go.

use std::collections::HashMap;

use tracing::warn;

use super::planner::{Heads, Read};
use super::{Engine, unpoisoned};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::SharedChange;
use crate::domain::plan::Action;

/// What a change outside of each bundle does, as the default branch says; `None` where the branch speaks for itself.
pub(super) type Policies = Option<HashMap<RepoPath, SharedChange>>;

impl Engine {
    /// The policies for a branch: those of the default one, which nobody can change by pushing elsewhere.
    pub(super) async fn policies(&self, repository: &RepoName, branch: Option<&Branch>, heads: &Heads) -> Policies {
        let (tips, head) = heads;
        let head = head.as_ref()?;
        if branch == Some(head) {
            return None;
        }
        let tip = tips.iter().find(|tip| tip.branch == *head)?;
        match self.read(repository, tip.commit.clone()).await {
            Ok(Read { reading, .. }) => {
                let bundles = reading.bundles.iter();
                let policy = bundles.filter_map(|bundle| {
                    Some((bundle.path.clone(), bundle.verdict.as_ref().ok()?.pipeline.on_shared_change))
                });
                Some(policy.collect())
            }
            Err(error) => {
                warn!(%error, "the default branch can't be read, so each branch speaks for itself");
                None
            }
        }
    }

    /// Plans again after a build where bundles wait for what it may have shown.
    pub(super) async fn look_again(&self, key: &BundleKey) {
        let plan = unpoisoned(&self.shared.plans).get(&(key.repository.clone(), key.branch.clone())).cloned();
        let waits = plan.is_some_and(|last| last.plan.bundles.iter().any(|bundle| bundle.action == Action::Stale));
        if waits && let Err(error) = self.plan_repository(&key.repository).await {
            warn!(%error, "what waits for the build is planned later");
        }
    }

    /// Whether a build runs, or ends just now.
    pub fn is_busy(&self) -> bool {
        !self.running().is_empty()
    }
}
