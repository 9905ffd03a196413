//! What a build's host steps may use: secrets, and the whole network.
//!
//! Both come from the configuration and from the pipelines of the default branch, never from the branch under build: who
//! may push to another branch that publishes does not thereby read every secret.

use std::collections::BTreeSet;

use super::Engine;
use super::failure::Stop;
use super::planner::PlanError;
use super::ports::Secret;
use crate::domain::build::Order;
use crate::domain::id::Branch;
use crate::domain::pipeline::{Network, Pipeline, Step};
use crate::manifest::reading::Buildable;

/// What a build's host steps may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    secrets: BTreeSet<String>,
    full_network: bool,
    /// Why there is nothing, or no more.
    because: String,
}

impl Engine {
    /// What the default branch lets a build's host steps use.
    pub(super) async fn grants(&self, order: &Order, buildable: &Buildable) -> Result<Grants, PlanError> {
        if !order.tracked {
            let because = "a branch that does not publish is given no secret and no network".to_owned();
            return Ok(Grants { because, ..Grants::default() });
        }
        let key = &order.key;
        let (tips, head) = self.tips(&key.repository).await?;
        let head = head.unwrap_or_else(|| key.branch.clone());
        if head == key.branch {
            return Ok(self.granted_by(&buildable.pipeline, order, &head));
        }
        let nothing = Grants { because: format!("{head} has no such bundle"), ..Grants::default() };
        let Some(tip) = tips.iter().find(|tip| tip.branch == head) else { return Ok(nothing) };
        let reading = self.read(&key.repository, tip.commit.clone()).await?.reading;
        let bundle = reading.bundles.iter().find(|bundle| bundle.path == key.path);
        let there = bundle.and_then(|bundle| bundle.verdict.as_ref().ok());
        Ok(there.map_or(nothing, |there| self.granted_by(&there.pipeline, order, &head)))
    }

    fn granted_by(&self, pipeline: &Pipeline, order: &Order, head: &Branch) -> Grants {
        let steps = || pipeline.steps().map(|(_, step)| step);
        let file = pipeline.file.as_ref().map(ToString::to_string).unwrap_or_default();
        let policy = self.policy().repository(&order.key.repository);
        let may = policy.is_some_and(|policy| policy.network_full.contains(&file));
        Grants {
            secrets: steps().flat_map(|step| step.secrets.iter().cloned()).collect(),
            full_network: may && steps().any(|step| step.network == Network::Full),
            because: format!("{file} on {head} does not ask for it, or the configuration does not allow it"),
        }
    }
}

impl Grants {
    /// Whether a step may use the network that it asks for.
    ///
    /// # Errors
    /// When it may not, with what to do.
    pub(super) fn check_network(&self, step: &Step) -> Result<(), Stop> {
        if step.network != Network::Full || self.full_network {
            return Ok(());
        }
        Err(Stop::failed(
            format!("the step may not use `network: full`: {}", self.because),
            "name the pipeline in network_full of its repository in the configuration; only branches that publish may use it",
        ))
    }

    /// The secrets that a step asks for.
    ///
    /// # Errors
    /// When it may not have one, or the configuration has none of that name.
    pub(super) fn secrets(&self, known: &[(String, Secret)], step: &Step) -> Result<Vec<(String, Secret)>, Stop> {
        let find = |name: &String| {
            if !self.secrets.contains(name) {
                let message = format!("the step is not given the secret {name}: {}", self.because);
                return Err(Stop::failed(message, "ask for it in the pipeline on the default branch first"));
            }
            let found = known.iter().find(|(known, _)| known == name).cloned();
            found.ok_or_else(|| Stop::failed(format!("no secret is called {name}"), "add it to [secrets]"))
        };
        step.secrets.iter().map(find).collect()
    }
}
