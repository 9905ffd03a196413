//! Plans that somebody asks to see. They create nothing.

use super::{Known, PlanError, Planned, planned};
use crate::domain::id::{Branch, RepoName};
use crate::domain::range::may_be_branch;
use crate::engine::Engine;

impl Engine {
    /// The plan of a revision against what is known; creates nothing.
    ///
    /// # Errors
    /// When the revision does not exist, or something can't be read.
    pub async fn plan_revision(&self, repository: &RepoName, revision: &str) -> Result<Planned, PlanError> {
        let heads = self.tips(repository).await?;
        let (tips, head) = &heads;
        let commit = self.resolve(repository, revision).await?;
        let branch = tips
            .iter()
            .find(|tip| may_be_branch(revision) && tip.branch.as_str() == revision)
            .map(|tip| tip.branch.clone());
        let branch = branch.or_else(|| head.clone()).unwrap_or_else(|| Branch::from("HEAD"));
        let tracked = self.tracked(repository, head.as_ref()).contains(&branch);
        let read = self.read(repository, commit).await?;
        let known = if tracked { self.copy_known(repository, &branch) } else { Known::default() };
        let known = self.facts(repository, &branch, tracked, head.as_ref(), &read.reading, known).await?;
        let policies = self.policies(repository, Some(&branch), &heads).await;
        let (read, plan, _) = planned(read, None, known, policies).await;
        Ok(Planned {
            repository: repository.clone(),
            branch,
            tracked,
            info: read.info,
            plan,
            faults: read.reading.faults,
            queued: Vec::new(),
        })
    }

    /// The plan from one revision to another, as if every bundle of the first had been built; creates nothing. Where the
    /// first names no commit, a deleted branch say, everything is new.
    ///
    /// # Errors
    /// When the second revision does not exist, or something can't be read.
    pub async fn plan_range(&self, repository: &RepoName, from: Option<&str>, to: &str) -> Result<Planned, PlanError> {
        let base = match from {
            Some(from) => self.resolve(repository, from).await.ok(),
            None => None,
        };
        let known = match &base {
            Some(base) => Known::from(self.read(repository, base.clone()).await?.reading.as_built()),
            None => Known::default(),
        };
        let commit = self.resolve(repository, to).await?;
        let read = self.read(repository, commit).await?;
        let policies = self.policies(repository, None, &self.tips(repository).await?).await;
        let (read, plan, _) = planned(read, base, known, policies).await;
        Ok(Planned {
            repository: repository.clone(),
            branch: Branch::from(to),
            tracked: false,
            info: read.info,
            plan,
            faults: read.reading.faults,
            queued: Vec::new(),
        })
    }
}
