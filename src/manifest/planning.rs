//! From a reading to a plan: what `domain::plan` is asked, and what a build of everything would leave known.

use std::sync::Arc;

use super::reading::{Buildable, Reading};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::SharedChange;
use crate::domain::plan::{Candidate, Facts, Kept, ServedPrints, StageNeed};

impl Reading {
    /// The bundles as a plan asks for them.
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        let bundles = self.bundles.iter().map(|bundle| match &bundle.verdict {
            Ok(buildable) => buildable.candidate(&bundle.path),
            Err(unbuildable) => {
                Candidate { bundle: &bundle.path, policy: SharedChange::default(), stages: Err(&unbuildable.reason) }
            }
        });
        bundles.collect()
    }

    /// What would be known if every bundle of this reading had been built, and nothing else.
    pub fn as_built(&self) -> Facts {
        let mut facts = Facts::default();
        let mut served = ServedPrints::new();
        for bundle in &self.bundles {
            let Ok(buildable) = &bundle.verdict else {
                facts.unbuildable.push(bundle.path.clone());
                continue;
            };
            let prints = buildable.stages.iter().map(|stage| (stage.stage, stage.declared));
            facts.kept.extend(prints.clone().map(|(_, declared)| (declared, Kept::Usable)));
            served.insert(bundle.path.clone(), prints.collect());
            facts.last.insert(bundle.path.clone(), buildable.own());
        }
        Facts { served: Arc::new(served), ..facts }
    }
}

impl Buildable {
    /// This bundle as a plan asks for it, under its path.
    pub fn candidate<'a>(&'a self, bundle: &'a RepoPath) -> Candidate<'a> {
        let needs = self.stages.iter().map(|stage| StageNeed {
            stage: stage.stage,
            declared: stage.declared,
            own_digest: stage.own_digest,
            own: &stage.own,
        });
        Candidate { bundle, policy: self.pipeline.on_shared_change, stages: Ok(needs.collect()) }
    }
}
