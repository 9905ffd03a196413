//! What a change outside of bundles does to those that read it: `mark`, `canary`, `rebuild`.
//!
//! Nothing is remembered for this. Which change was tried is read off what is known already: it is proven once a bundle
//! that has it passed, and failed while a bundle that has it is not repeated because it failed. So a canary survives
//! restarts, force pushes and its own deletion without a row of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, BundlePlan, Candidate, Facts, StageState, differences};
use crate::domain::inputs::{Difference, Input, Inputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::SharedChange;

/// One thing outside of bundles that is not what it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    subject: String,
    /// What it is now; `None` where it is gone.
    after: Option<Input>,
}

impl Change {
    fn of(difference: &Difference) -> Self {
        Self { subject: difference.subject.clone(), after: difference.after.clone() }
    }

    /// The bundle whose disk it is, where it is another disk below.
    fn base(&self) -> Option<&RepoPath> {
        match &self.after {
            Some(Input::Base { bundle, .. }) => Some(bundle),
            _ => None,
        }
    }
}

/// How far a change has been tried.
#[derive(Clone, Copy)]
enum Trial {
    /// A bundle that has it passed.
    Proven,
    /// This bundle goes first.
    Canary(usize),
    /// This bundle went first and did not pass.
    Failed(usize),
    /// Whoever has it waits for this base.
    Behind(usize),
}

/// Holds back the bundles that only a shared change touches, as their pipelines say.
pub(super) fn hold(candidates: &[Candidate<'_>], facts: &Facts, plans: &mut [BundlePlan]) {
    let pending = plans.iter().enumerate().filter_map(|(index, plan)| {
        let is_held = plan.action.is_work()
            && candidates[index].policy != SharedChange::Rebuild
            && facts.served.contains_key(&plan.bundle);
        let changes = only_shared(plan).filter(|_| is_held)?;
        (!moved_by_itself(&candidates[index], facts)).then_some((index, changes))
    });
    let pending: BTreeMap<usize, BTreeSet<Change>> = pending.collect();
    if pending.is_empty() {
        return;
    }
    let mut look = Look { candidates, facts, plans, pending, chosen: BTreeSet::new() };
    look.free_bases();
    let trials = look.trials();
    let Look { pending, chosen, .. } = look;
    for (index, changes) in pending.iter().filter(|(index, _)| !chosen.contains(index)) {
        if let Some(reason) = reason(candidates, plans, *index, changes, &trials) {
            stall(&mut plans[*index], &reason);
        }
    }
    let awaited = trials.values().filter_map(|trial| match trial {
        Trial::Canary(index) => Some(*index),
        _ => None,
    });
    for index in awaited.chain(chosen).collect::<BTreeSet<_>>() {
        plans[index].canary = true;
    }
}

/// The changes of a bundle that differs in nothing but shared things; `None` of any other.
fn only_shared(plan: &BundlePlan) -> Option<BTreeSet<Change>> {
    let mut differences = plan.stages.iter().flat_map(|stage| &stage.differences).peekable();
    differences.peek()?;
    differences.map(|difference| difference.is_shared().then(|| Change::of(difference))).collect()
}

/// Whether anything of the bundle's own differs, also where another bundle's result is a hit for it.
fn moved_by_itself(candidate: &Candidate<'_>, facts: &Facts) -> bool {
    let last = facts.last.get(candidate.bundle).map(Vec::as_slice).unwrap_or_default();
    let needs = candidate.stages.iter().flatten();
    needs.flat_map(|need| differences(need, last)).any(|difference| !difference.is_shared())
}

struct Look<'a> {
    candidates: &'a [Candidate<'a>],
    facts: &'a Facts,
    plans: &'a [BundlePlan],
    /// Bundles that only shared changes touch, with those.
    pending: BTreeMap<usize, BTreeSet<Change>>,
    /// Those of them that go first.
    chosen: BTreeSet<usize>,
}

impl Look<'_> {
    /// Whoever is built whatever the policy needs its base, and that one its own.
    fn free_bases(&mut self) {
        let going: Vec<usize> = (0..self.plans.len()).filter(|index| self.goes(*index)).collect();
        for mut index in going {
            while let Some(base) = self.base_of(index).filter(|base| self.pending.remove(base).is_some()) {
                index = base;
            }
        }
    }

    fn goes(&self, index: usize) -> bool {
        self.plans[index].action.is_work() && !self.pending.contains_key(&index)
    }

    fn base_of(&self, index: usize) -> Option<usize> {
        let boot = self.candidates[index].stages.as_ref().ok()?.first()?;
        let base = boot.own.own().iter().find_map(|input| match input {
            Input::Base { bundle, .. } => Some(bundle),
            _ => None,
        })?;
        self.index_of(base)
    }

    fn index_of(&self, bundle: &RepoPath) -> Option<usize> {
        self.candidates.binary_search_by(|candidate| candidate.bundle.cmp(bundle)).ok()
    }

    /// How far each change has been tried that a bundle waits for. Bases come last: they may be canaries themselves.
    fn trials(&mut self) -> BTreeMap<Change, Trial> {
        let canaries = self.pending.iter().filter(|(index, _)| self.candidates[**index].policy == SharedChange::Canary);
        let changes: BTreeSet<Change> = canaries.flat_map(|(_, changes)| changes.iter().cloned()).collect();
        let (bases, others): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| change.base().is_some());
        let mut trials = BTreeMap::new();
        for change in others.into_iter().chain(bases) {
            let trial = match change.base() {
                Some(base) => self.try_base(base, &change),
                None => self.try_change(&change),
            };
            trials.insert(change, trial);
        }
        trials
    }

    fn try_base(&self, base: &RepoPath, change: &Change) -> Trial {
        let (Some(Input::Base { fingerprint, .. }), Some(index)) = (&change.after, self.index_of(base)) else {
            return Trial::Proven;
        };
        let is_served =
            self.facts.served.get(base).is_some_and(|served| served.iter().any(|(_, have)| have == fingerprint));
        match self.plans[index].action {
            _ if is_served => Trial::Proven,
            Action::Stale => Trial::Failed(index),
            action if action.is_work() && (self.goes(index) || self.chosen.contains(&index)) => Trial::Canary(index),
            action if action.is_work() => Trial::Behind(index),
            _ => Trial::Proven,
        }
    }

    fn try_change(&mut self, change: &Change) -> Trial {
        let has = |index: &usize| {
            let differences = self.plans[*index].stages.iter().flat_map(|stage| &stage.differences);
            differences.clone().any(|difference| Change::of(difference) == *change)
        };
        let all = || (0..self.plans.len()).filter(has);
        if self.is_proven(change) {
            return Trial::Proven;
        }
        if let Some(going) =
            all().filter(|index| self.goes(*index) || self.chosen.contains(index)).min_by_key(|index| self.cost(*index))
        {
            return Trial::Canary(going);
        }
        if let Some(failed) = all().find(|index| self.plans[*index].action == Action::Stale) {
            return Trial::Failed(failed);
        }
        let is_free = |index: &usize| self.base_of(*index).is_none_or(|base| !self.pending.contains_key(&base));
        let waiting = || all().filter(|index| self.may_go_first(*index));
        match waiting().filter(is_free).min_by_key(|index| self.cost(*index)) {
            Some(first) => {
                self.chosen.insert(first);
                Trial::Canary(first)
            }
            None => waiting().find_map(|index| self.base_of(index)).map_or(Trial::Proven, Trial::Behind),
        }
    }

    fn may_go_first(&self, index: usize) -> bool {
        self.pending.contains_key(&index) && self.candidates[index].policy == SharedChange::Canary
    }

    /// The one that is under way goes first, then the cheapest by its last duration, then the first by path.
    fn cost(&self, index: usize) -> (bool, u64, usize) {
        let bundle = self.candidates[index].bundle;
        let duration = self.facts.durations.get(bundle).copied().unwrap_or(u64::MAX);
        (!self.facts.active.contains(bundle), duration, index)
    }

    /// Whether a bundle that has this change passed: it is served as it should be, or passed last with it.
    fn is_proven(&self, change: &Change) -> bool {
        let Some(input) = &change.after else { return self.is_gone_elsewhere(&change.subject) };
        let company = self.company(change, input);
        let has = |all: &[&Inputs]| {
            let is_there = |input: &&Input| all.iter().any(|inputs| inputs.contains(input));
            is_there(&input) && company.iter().all(is_there)
        };
        self.unchanged().any(|needs| has(&needs.iter().map(|need| need.own).collect::<Vec<_>>()))
            || self.facts.last.values().any(|last| has(&last.iter().map(|(_, inputs)| inputs).collect::<Vec<_>>()))
    }

    /// What a value stands among, in one that waits: the shared values beside it that it does not wait for. A file is known
    /// by its path, but a value may be an old one of another pipeline or template, which proves nothing for this one.
    fn company(&self, change: &Change, input: &Input) -> Vec<&Input> {
        let waiting = self.pending.iter().find(|(_, changes)| changes.contains(change));
        let (Some((index, changes)), Input::Value { .. }) = (waiting, input) else { return Vec::new() };
        let Ok(needs) = &self.candidates[*index].stages else { return Vec::new() };
        let awaited = |input: &Input| changes.iter().any(|change| change.after.as_ref() == Some(input));
        let values = needs.iter().flat_map(|need| need.own.iter());
        values.filter(|value| matches!(value, Input::Value { .. }) && value.is_shared() && !awaited(value)).collect()
    }

    /// What is gone can't be found anywhere. It is proven by a bundle that has what is left in common with one that waits.
    fn is_gone_elsewhere(&self, subject: &str) -> bool {
        let waits = |changes: &BTreeSet<Change>| changes.iter().any(|change| change.subject == subject);
        let Some(waiting) = self.pending.iter().find(|(_, changes)| waits(changes)).map(|(index, _)| *index) else {
            return true;
        };
        let Ok(wanted) = &self.candidates[waiting].stages else { return true };
        let common = |needs: &[super::StageNeed<'_>]| -> Vec<Input> {
            let inputs = needs.iter().flat_map(|need| need.own.own().iter());
            inputs.filter(|input| matches!(input, Input::Value { .. }) && input.is_shared()).cloned().collect()
        };
        let wanted = common(wanted);
        self.unchanged().any(|needs| common(needs) == wanted)
    }

    fn unchanged(&self) -> impl Iterator<Item = &[super::StageNeed<'_>]> {
        self.candidates.iter().zip(self.plans).filter_map(|(candidate, plan)| {
            let needs = candidate.stages.as_ref().ok()?;
            (plan.action == Action::Unchanged).then_some(needs.as_slice())
        })
    }
}

/// Why a bundle waits; `None` where it need not.
fn reason(
    candidates: &[Candidate<'_>],
    plans: &[BundlePlan],
    index: usize,
    changes: &BTreeSet<Change>,
    trials: &BTreeMap<Change, Trial>,
) -> Option<String> {
    let told = |change: &Change| {
        let differences = plans[index].stages.iter().flat_map(|stage| &stage.differences);
        differences.clone().find(|difference| Change::of(difference) == *change).map(ToString::to_string)
    };
    if candidates[index].policy == SharedChange::Mark {
        let first = changes.first().and_then(told).unwrap_or_default();
        return Some(format!("marked by a shared change: {first}"));
    }
    changes.iter().find_map(|change| {
        let why = match *trials.get(change)? {
            Trial::Proven => return None,
            Trial::Canary(first) => format!("waits for canary {}", plans[first].bundle),
            Trial::Failed(first) => format!("canary {} did not pass, {}", plans[first].bundle, plans[first].reason),
            Trial::Behind(base) => format!("waits for its base {}", plans[base].bundle),
        };
        Some(format!("{why}: {}", told(change).unwrap_or_default()))
    })
}

/// Turns a plan into one that runs nothing.
pub(super) fn stall(plan: &mut BundlePlan, reason: &str) {
    plan.action = Action::Stale;
    plan.reason = reason.to_owned().into();
    for stage in plan.stages.iter_mut().filter(|stage| stage.state != StageState::Hit) {
        stage.state = StageState::Skipped;
        stage.reason = reason.to_owned().into();
    }
}

#[cfg(test)]
mod tests;
