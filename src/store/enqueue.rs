//! New builds: a plan becomes rows in one transaction, or not at all.

use std::sync::Arc;

use rusqlite::Transaction;

use super::Store;
use super::bundles::bundle_id;
use super::error::{Fault, StoreError};
use super::inputs::keep_inputs;
use super::journal::Open;
use super::journal_shape::BuildJson;
use super::shape::{Col, Json, Word};
use crate::domain::build::{Build, BuildState, Event, Moment, Order, Outcome};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, CommitId, Fingerprint, RepoName};
use crate::domain::inputs::Inputs;
use crate::domain::pipeline::Stage;

/// What one plan changes.
#[derive(Clone, Debug, Default)]
pub struct Enqueue {
    /// The builds to make.
    pub new: Vec<NewBuild>,
    /// Queued builds that they make pointless, each with the reason: `superseded by a newer push`. One that is no longer
    /// queued is left alone.
    pub supersede: Vec<(BuildNo, String)>,
    /// The commit of a branch that this plan was made from.
    pub planned: Option<(RepoName, Branch, CommitId)>,
    /// Now.
    pub at: Moment,
}

/// A build that has no number yet.
#[derive(Clone, Debug)]
pub struct NewBuild {
    /// What is built.
    pub key: BundleKey,
    /// The commit it is built from.
    pub commit: CommitId,
    /// Why, in words that a person can read.
    pub reason: String,
    /// Who asked: a user's name, `push` or `poll`.
    pub by: String,
    /// The first stage that runs even if its result is known.
    pub from: Option<Stage>,
    /// The last stage that runs.
    pub until: Option<Stage>,
    /// Whether no kept result is used.
    pub no_cache: bool,
    /// Whether it may publish.
    pub tracked: bool,
    /// Its pipeline's stages.
    pub stages: Vec<Stage>,
    /// What each stage depends on, and the declared fingerprint it hashes to.
    pub inputs: Vec<(Stage, Fingerprint, Inputs)>,
}

impl NewBuild {
    fn declared(&self) -> Arc<[(Stage, Fingerprint)]> {
        self.inputs.iter().map(|(stage, declared, _)| (*stage, *declared)).collect()
    }
}

impl Store {
    /// Gives builds their numbers and writes down what a plan said, in one transaction. The orders come in the order of
    /// [`Enqueue::new`].
    ///
    /// # Errors
    /// When the database refuses; nothing is changed then.
    pub async fn enqueue(&self, batch: Enqueue) -> Result<Vec<Order>, StoreError> {
        let superseded: Vec<BuildNo> = batch.supersede.iter().map(|(build, _)| *build).collect();
        let (open, moved) = (Arc::clone(&self.inner.open), self.moved());
        // The end of a build takes away what it failed in before it was sent back to the queue.
        let tells = !superseded.is_empty();
        let after = move || {
            open.forget();
            if tells {
                moved();
            }
        };
        let declared: Vec<Arc<[_]>> = batch.new.iter().map(NewBuild::declared).collect();
        let orders = self.db().write_then("queue builds", move |tx| enqueue(tx, &batch), after).await?;
        self.inner.declared.add(&orders.iter().map(|order| order.number).zip(declared).collect());
        for build in superseded {
            self.end_log_if_finished(build).await?;
        }
        Ok(orders)
    }
}

fn enqueue(tx: &Transaction<'_>, batch: &Enqueue) -> Result<Vec<Order>, Fault> {
    for (build, reason) in &batch.supersede {
        supersede(tx, *build, reason, batch.at)?;
    }
    if let Some((repository, branch, commit)) = &batch.planned {
        tx.prepare_cached(
            "INSERT INTO planned (repository, branch, commit_id, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET commit_id = excluded.commit_id, at = excluded.at",
        )?
        .execute((Col(repository), Col(branch), Col(commit), batch.at.0))?;
    }
    batch.new.iter().map(|new| insert(tx, new, batch.at)).collect()
}

fn supersede(tx: &Transaction<'_>, build: BuildNo, reason: &str, at: Moment) -> Result<(), Fault> {
    let mut open = Open::load(tx, build)?;
    if open.build.state != BuildState::Queued {
        return Ok(());
    }
    let end = Event::Finished { outcome: Outcome::Superseded, failure: None, reason: reason.to_owned() };
    open.write(tx, at, &end)
}

fn insert(tx: &Transaction<'_>, new: &NewBuild, at: Moment) -> Result<Order, Fault> {
    let bundle = bundle_id(tx, &new.key)?;
    let stages: Vec<Word<Stage>> = new.stages.iter().map(|stage| Word(*stage)).collect();
    let build = Build::queued(new.stages.iter().copied(), at);
    let fold = BuildJson(build.clone());
    tx.prepare_cached(
        "INSERT INTO build (bundle, commit_id, reason, asked_by, from_stage, until_stage, no_cache, tracked, stages,
           fold, state, queued)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(rusqlite::params![
        bundle,
        Col(&new.commit),
        new.reason,
        new.by,
        new.from.map(Stage::word),
        new.until.map(Stage::word),
        new.no_cache,
        new.tracked,
        Json(&stages),
        Json(&fold),
        Col(&BuildState::Queued),
        at.0,
    ])?;
    let number = BuildNo(tx.last_insert_rowid().unsigned_abs());
    tx.prepare_cached("UPDATE bundle SET last_build = ?2 WHERE id = ?1")?.execute((bundle, Col(number)))?;
    for (stage, declared, inputs) in &new.inputs {
        keep_inputs(tx, number, *stage, *declared, inputs)?;
    }
    let repository = new.key.repository.clone();
    Open { number, bundle, repository, tracked: new.tracked, build }.write(tx, at, &Event::Queued)?;
    Ok(Order {
        number,
        key: new.key.clone(),
        commit: new.commit.clone(),
        reason: new.reason.clone(),
        by: new.by.clone(),
        from: new.from,
        until: new.until,
        no_cache: new.no_cache,
        tracked: new.tracked,
    })
}
