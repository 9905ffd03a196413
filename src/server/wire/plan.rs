//! Plans.

use serde::{Deserialize, Serialize};

use super::path_bytes;
use crate::domain::plan::{BundlePlan, Plan};

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// The commit it is for.
    pub commit: String,
    /// The commit it was compared with.
    pub base: Option<String>,
    /// Every bundle, sorted by the bytes of their paths.
    pub bundles: Vec<BundlePlanView>,
    /// Bundles that were there and are not.
    pub removed: Vec<String>,
    /// Seconds that its work is likely to take in all, as far as `about` of its bundles is known; `null` without history.
    #[serde(default)]
    pub about: Option<f64>,
    /// The faults of the commit's pipelines, as a terminal shows them; a bundle that they hide is in no plan.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// One bundle of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundlePlanView {
    /// Its directory; what is not UTF-8 stands as U+FFFD.
    pub bundle: String,
    /// The directory's bytes in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// `build`, `render`, `publish`, `unchanged`, `stale` or `unbuildable`.
    pub action: String,
    /// Whether it goes first, for the others that the same shared change touches.
    pub canary: bool,
    /// Why.
    pub reason: String,
    /// Its stages.
    pub stages: Vec<StagePlanView>,
    /// Seconds that its work is likely to take; `null` without history, or where there is no work.
    #[serde(default)]
    pub about: Option<f64>,
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagePlanView {
    /// `boot`, `provision`, `test`, `snapshot` or `render`.
    pub stage: String,
    /// `hit`, `changed`, `miss` or `skipped`.
    pub state: String,
    /// The declared fingerprint.
    pub fingerprint: Option<String>,
    /// Why.
    pub reason: String,
    /// What differs from the last result, one line each.
    #[serde(default)]
    pub differences: Vec<String>,
}

impl PlanView {
    /// What a plan says besides its bundles.
    pub(in crate::server) fn without_bundles(plan: &Plan) -> Self {
        Self {
            commit: plan.commit.to_string(),
            base: plan.base.as_ref().map(ToString::to_string),
            bundles: Vec::new(),
            removed: plan.removed.iter().map(ToString::to_string).collect(),
            about: None,
            faults: Vec::new(),
        }
    }
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        Self { bundles: plan.bundles.iter().map(BundlePlanView::from).collect(), ..Self::without_bundles(plan) }
    }
}

impl From<&BundlePlan> for BundlePlanView {
    fn from(bundle: &BundlePlan) -> Self {
        let stages = bundle.stages.iter().map(|stage| StagePlanView {
            stage: stage.stage.word().to_owned(),
            state: stage.state.word().to_owned(),
            fingerprint: Some(stage.fingerprint.to_string()),
            reason: stage.reason.clone().into_owned(),
            differences: stage.differences.iter().map(ToString::to_string).collect(),
        });
        Self {
            bundle: bundle.bundle.to_string(),
            path_bytes: path_bytes(&bundle.bundle),
            action: bundle.action.word().to_owned(),
            canary: bundle.canary,
            reason: bundle.reason.clone().into_owned(),
            stages: stages.collect(),
            about: None,
        }
    }
}
