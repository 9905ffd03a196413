//! What a plan must know besides the commit, looked up for those bundles that are not simply unchanged.
//!
//! While thousands of builds are queued, thousands of bundles are not unchanged in any plan. So what was looked up for a
//! tracked branch is remembered, as long as nothing moved that it was read from, and the next plan asks for what is new.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::build::{Moment, Order};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, Fingerprint, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::SharedChange;
use crate::domain::plan::{Facts, Kept, ServedPrints, StagePlan, plan_bundle};
use crate::engine::{Engine, unpoisoned};
use crate::manifest::reading::{Buildable, Reading};
use crate::store::StoreError;

/// A bundle to look up.
type Asked<'r> = (&'r RepoPath, &'r Arc<Buildable>);

/// What was looked up for a branch.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Known {
    /// [`crate::store::Store::moves`] before it was looked up.
    moves: u64,
    /// When the first of the results expires that could be used.
    until: Option<Moment>,
    /// Whether it says how long each bundle takes, which few plans must know.
    timed: bool,
    /// The bundles it is about, as they were read.
    asked: HashMap<RepoPath, Arc<Buildable>>,
    facts: Facts,
}

impl From<Facts> for Known {
    fn from(facts: Facts) -> Self {
        Self { facts, ..Self::default() }
    }
}

impl Known {
    /// What was looked up.
    pub(in crate::engine) fn facts(&self) -> &Facts {
        &self.facts
    }

    fn holds(&self, moves: u64, now: Moment) -> bool {
        // What was asked of bundles as they are no more only takes room: rather than all of it, none is kept.
        let is_full = self.facts.kept.len() + self.facts.failed.len() > 20 * self.asked.len() + 1000;
        self.moves == moves && self.until.is_none_or(|until| now < until) && !is_full
    }

    fn add(&mut self, bundles: &[Asked<'_>], found: Facts, until: Option<Moment>) {
        self.until = self.until.into_iter().chain(until).min();
        self.asked.extend(bundles.iter().map(|(path, buildable)| ((*path).clone(), Arc::clone(buildable))));
        let facts = &mut self.facts;
        facts.kept.extend(found.kept);
        facts.failed.extend(found.failed);
        facts.last.extend(found.last);
        facts.durations.extend(found.durations);
    }
}

impl Engine {
    /// What is known about the bundles of a reading. An untracked branch is compared with what the default branch serves.
    pub(super) async fn facts(
        &self,
        repository: &RepoName,
        branch: &Branch,
        tracked: bool,
        head: Option<&Branch>,
        reading: &Reading,
        mut known: Known,
    ) -> Result<Known, StoreError> {
        let serving = if tracked { branch } else { head.unwrap_or(branch) };
        let timed = head != Some(branch) || has_canaries(reading);
        if timed && !known.timed {
            known = Known { moves: known.moves, ..Known::default() };
        }
        known.timed = timed;
        let served = self.store().served_prints(repository, serving).await?;
        // What is served as it should be needs no further look: usually that is nearly everything.
        let bundles = reading.bundles.iter();
        let new: Vec<Asked<'_>> = bundles
            .filter_map(|bundle| Some((&bundle.path, bundle.verdict.as_ref().ok()?)))
            .filter(|(path, buildable)| {
                let is_served = |prints: &Vec<_>| buildable.prints().eq(prints.iter().copied());
                let is_known = |known| Arc::ptr_eq(known, *buildable);
                !served.get(*path).is_some_and(is_served) && !known.asked.get(*path).is_some_and(is_known)
            })
            .collect();
        if !new.is_empty() {
            let (found, until) = self.look_up(repository, serving, tracked, &new).await?;
            known.add(&new, found, until);
            if timed {
                let paths = new.iter().map(|(path, _)| (*path).clone()).collect();
                known.facts.durations.extend(self.store().last_durations(repository, paths).await?);
            }
        }
        known.facts.served = served;
        let open = self.store().open_builds().await?;
        let ours = open.iter().filter(|build| build.key.repository == *repository && build.key.branch == *serving);
        known.facts.active = ours.map(|build| build.key.path.clone()).collect();
        Ok(known)
    }

    /// Takes what was remembered of a tracked branch, if all of it still holds: for the next plan, which remembers more.
    pub(super) fn take_known(&self, repository: &RepoName, branch: &Branch) -> Known {
        let known = unpoisoned(&self.shared.known).remove(&(repository.clone(), branch.clone()));
        self.if_it_holds(known)
    }

    /// A copy of what was remembered of a tracked branch, if all of it still holds: for a look beside the plans.
    pub(super) fn copy_known(&self, repository: &RepoName, branch: &Branch) -> Known {
        let known = unpoisoned(&self.shared.known).get(&(repository.clone(), branch.clone())).cloned();
        self.if_it_holds(known)
    }

    fn if_it_holds(&self, known: Option<Known>) -> Known {
        let (moves, now) = (self.store().moves(), self.clock().now());
        known.filter(|known| known.holds(moves, now)).unwrap_or_else(|| Known { moves, ..Known::default() })
    }

    /// Remembers for the next plan what was looked up for a tracked branch.
    pub(super) fn remember_known(&self, repository: &RepoName, branch: &Branch, known: Known) {
        unpoisoned(&self.shared.known).insert((repository.clone(), branch.clone()), known);
    }

    /// What a plan says now of each stage of a build, so that the build can say why each one runs.
    pub(in crate::engine) async fn stage_plans(
        &self,
        order: &Order,
        buildable: &Arc<Buildable>,
    ) -> Result<Vec<StagePlan>, StoreError> {
        let (repository, path) = (&order.key.repository, &order.key.path);
        let head = if order.tracked { None } else { self.tips(repository).await.ok().and_then(|(_, head)| head) };
        let serving = head.unwrap_or_else(|| order.key.branch.clone());
        let key = BundleKey { branch: serving.clone(), ..order.key.clone() };
        let served = self.store().served_of(&key).await?.map(|served| (path.clone(), served.stages));
        let served: Arc<ServedPrints> = Arc::new(served.into_iter().collect());
        let (found, _) = self.look_up(repository, &serving, order.tracked, &[(path, buildable)]).await?;
        // Somebody asked for it, whatever failed before.
        let facts = Facts { served, failed: HashMap::new(), ..found };
        Ok(plan_bundle(&buildable.candidate(path), &facts).stages)
    }

    /// What is known of the results and inputs of bundles, and when the first of these results expires.
    async fn look_up(
        &self,
        repository: &RepoName,
        serving: &Branch,
        tracked: bool,
        bundles: &[Asked<'_>],
    ) -> Result<(Facts, Option<Moment>), StoreError> {
        let prints = bundles.iter().flat_map(|(_, buildable)| buildable.prints().map(|(_, print)| print));
        let prints: Vec<Fingerprint> = prints.collect();
        let now = self.clock().now();
        let kept = self.store().kept_until(repository, prints.clone(), &self.policy().driver, tracked).await?;
        let until = kept.values().flatten().filter(|until| **until > now).min().copied();
        let state = |until: Option<Moment>| match until {
            Some(until) if until <= now => Kept::Expired,
            _ => Kept::Usable,
        };
        let kept = kept.into_iter().map(|(print, until)| (print, state(until))).collect();
        let failed = self.store().failures(repository, prints, tracked).await?;
        let key =
            |path: &RepoPath| BundleKey { repository: repository.clone(), branch: serving.clone(), path: path.clone() };
        let now = bundles.iter().map(|(path, buildable)| (key(path), buildable.own())).collect();
        let last = self.store().last_inputs_of(now).await?;
        let last = last.into_iter().map(|(key, inputs)| (key.path, inputs)).collect();
        Ok((Facts { kept, failed, last, ..Facts::default() }, until))
    }
}

/// Whether a plan may have to choose the cheapest bundle. A branch that is not the default one has the policies of that.
fn has_canaries(reading: &Reading) -> bool {
    let mut buildable = reading.bundles.iter().filter_map(|bundle| bundle.verdict.as_ref().ok());
    buildable.any(|buildable| buildable.pipeline.on_shared_change != SharedChange::Rebuild)
}
