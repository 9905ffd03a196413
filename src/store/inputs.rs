//! What each stage of each build depended on: for "why", and for making fingerprints again under another scheme.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use serde::{Deserialize, Deserializer, Serialize};

use super::Store;
use super::bundles::find_bundle;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json, path, shared_text, word};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, Digest, Fingerprint, Oid};
use crate::domain::inputs::{From as Origin, Input, Inputs, SharedInputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::pool::Pool;
use crate::domain::tree::EntryKind;

/// The declared fingerprints that builds were queued for, in the order of the stages.
pub type Declared = HashMap<BuildNo, Arc<[(Stage, Fingerprint)]>>;

/// Those of unfinished builds, once they were read or written.
#[derive(Debug, Default)]
pub(super) struct DeclaredMemory(Mutex<Declared>);

impl DeclaredMemory {
    /// What is known of these builds, and of which nothing is; of others all is forgotten.
    fn split(&self, builds: impl Iterator<Item = BuildNo>) -> (Declared, Vec<BuildNo>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut missing) = (Declared::with_capacity(known.len()), Vec::new());
        for build in builds {
            match known.remove(&build) {
                Some(declared) => drop(found.insert(build, declared)),
                None => missing.push(build),
            }
        }
        known.clone_from(&found);
        (found, missing)
    }

    /// Remembers what builds were queued for.
    pub(super) fn add(&self, more: &Declared) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(more.iter().map(|(build, declared)| (*build, Arc::clone(declared))));
    }
}

impl Store {
    /// The inputs of a build's stages with their declared fingerprints, in the order of the stages.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn inputs(&self, build: BuildNo) -> Result<Vec<(Stage, Fingerprint, Inputs)>, StoreError> {
        self.db().read("read inputs", move |tx| read_inputs(tx, build)).await
    }

    /// The declared fingerprints that every unfinished build was queued for, in the order of the stages. A build's never
    /// change, so they are read once.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn declared_unfinished(&self) -> Result<Declared, StoreError> {
        let open = self.open_builds().await?;
        let (declared, missing) = self.inner.declared.split(open.iter().map(|build| build.number));
        if missing.is_empty() {
            return Ok(declared);
        }
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("SELECT stage, declared FROM build_input WHERE build = ?1")?;
            let mut read = |build: BuildNo| {
                let rows = statement.query_map([Col(build)], |row| {
                    let (Col(stage), Col(declared)) = (row.get(0)?, row.get(1)?);
                    Ok((stage, declared))
                })?;
                let mut stages = rows.collect::<rusqlite::Result<Vec<(Stage, Fingerprint)>>>()?;
                stages.sort();
                Ok((build, stages.into()))
            };
            missing.into_iter().map(&mut read).collect::<Result<Declared, Fault>>()
        };
        let read = self.db().read("read declared fingerprints", work).await?;
        self.inner.declared.add(&read);
        Ok(declared.into_iter().chain(read).collect())
    }

    /// The inputs to compare a bundle's with: of its newest build that passed, else of the build that made what is
    /// served; empty where there is neither.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_inputs(&self, key: &BundleKey) -> Result<Vec<(Stage, Inputs)>, StoreError> {
        let key = key.clone();
        self.db().read("read the last inputs", move |tx| last_inputs(tx, &mut Reader::new(tx), &key, &[])).await
    }

    /// [`Store::last_inputs`] of many bundles in one go, each beside the inputs that it has now; bundles without any are
    /// left out. Inputs that are the same as now are not read: they are those that were given, in the same memory.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_inputs_of(
        &self,
        now: Vec<(BundleKey, Vec<(Stage, Inputs)>)>,
    ) -> Result<HashMap<BundleKey, Vec<(Stage, Inputs)>>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let (mut found, mut reader) = (HashMap::new(), Reader::new(tx));
            for (key, now) in now {
                let inputs = last_inputs(tx, &mut reader, &key, &now)?;
                if !inputs.is_empty() {
                    found.insert(key, inputs);
                }
            }
            Ok(found)
        };
        self.db().read("read the last inputs of many bundles", work).await
    }
}

fn last_inputs(
    tx: &Transaction<'_>,
    reader: &mut Reader<'_>,
    key: &BundleKey,
    now: &[(Stage, Inputs)],
) -> Result<Vec<(Stage, Inputs)>, Fault> {
    let Some(bundle) = find_bundle(tx, key)? else { return Ok(Vec::new()) };
    let passed = tx
        .prepare_cached(
            "SELECT number FROM build WHERE bundle = ?1 AND outcome = 'passed' ORDER BY number DESC LIMIT 1",
        )?
        .query_row([bundle], |row| row.get::<_, Col<BuildNo>>(0))
        .optional()?;
    let last = match passed {
        Some(build) => Some(build),
        None => tx
            .prepare_cached("SELECT build FROM served WHERE bundle = ?1")?
            .query_row([bundle], |row| row.get::<_, Col<BuildNo>>(0))
            .optional()?,
    };
    let Some(Col(build)) = last else { return Ok(Vec::new()) };
    Ok(reader.inputs(build, now)?.into_iter().map(|(stage, _, inputs)| (stage, inputs)).collect())
}

/// The sum of a set is one of the stored text, since [`Inputs::digest`] leaves out what does not count.
pub(super) fn keep_inputs(
    tx: &Transaction<'_>,
    build: BuildNo,
    stage: Stage,
    declared: Fingerprint,
    inputs: &Inputs,
) -> Result<(), Fault> {
    let (digest, text) = named(inputs)?;
    keep_set(tx, digest, || Ok(text))?;
    for part in inputs.shared() {
        // Known by its own sum, so that its text need not be made to see that it is there.
        keep_set(tx, part.digest(), || self::text(part.inputs().own()))?;
        tx.prepare_cached("INSERT OR IGNORE INTO input_part (input_set, part) VALUES (?1, ?2)")?
            .execute((Col(&digest), Col(&part.digest())))?;
    }
    tx.prepare_cached("INSERT INTO build_input (build, stage, declared, input_set) VALUES (?1, ?2, ?3, ?4)")?
        .execute((Col(build), Col(&stage), Col(&declared), Col(&digest)))?;
    Ok(())
}

/// What a set of inputs is kept under, and the text of what it does not share.
fn named(inputs: &Inputs) -> Result<(Digest, String), Fault> {
    let text = text(inputs.own())?;
    let mut named = text.clone().into_bytes();
    inputs.shared().iter().for_each(|part| named.extend(part.digest().0));
    Ok((Digest::of(&named), text))
}

fn keep_set(tx: &Transaction<'_>, digest: Digest, text: impl FnOnce() -> Result<String, Fault>) -> Result<(), Fault> {
    let is_there = tx.prepare_cached("SELECT 1 FROM input_set WHERE digest = ?1")?.exists([Col(&digest)])?;
    if !is_there {
        tx.prepare_cached("INSERT INTO input_set (digest, inputs) VALUES (?1, ?2)")?
            .execute((Col(&digest), text()?))?;
    }
    Ok(())
}

fn text(inputs: &[Input]) -> Result<String, Fault> {
    let inputs: Vec<InputJson> = inputs.iter().cloned().map(InputJson).collect();
    Ok(serde_json::to_string(&inputs).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?)
}

pub(super) fn read_inputs(connection: &Connection, build: BuildNo) -> Result<Vec<(Stage, Fingerprint, Inputs)>, Fault> {
    Reader::new(connection).inputs(build, &[])
}

/// Reads inputs of many builds, and what they share once.
struct Reader<'c> {
    connection: &'c Connection,
    parts: HashMap<Digest, SharedInputs>,
    pool: Pool,
}

impl<'c> Reader<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, parts: HashMap::new(), pool: Pool::default() }
    }

    /// The inputs of a build; of a stage that has the same ones now, those.
    fn inputs(&mut self, build: BuildNo, now: &[(Stage, Inputs)]) -> Result<Vec<(Stage, Fingerprint, Inputs)>, Fault> {
        let mut statement =
            self.connection.prepare_cached("SELECT stage, declared, input_set FROM build_input WHERE build = ?1")?;
        let rows = statement.query_map([Col(build)], |row| {
            let (Col(stage), Col(declared), Col(set)) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((stage, declared, set))
        })?;
        let mut inputs = Vec::new();
        for row in rows {
            let (stage, declared, set): (Stage, Fingerprint, Digest) = row?;
            let same = match now.iter().find(|(known, _)| *known == stage) {
                Some((_, own)) if named(own)?.0 == set => Some(own.clone()),
                _ => None,
            };
            let own = match same {
                Some(own) => own,
                None => self.set(set)?.with_shared(self.parts_of(set)?),
            };
            inputs.push((stage, declared, own));
        }
        inputs.sort_by_key(|(stage, ..)| *stage);
        Ok(inputs)
    }

    fn parts_of(&mut self, set: Digest) -> Result<Vec<SharedInputs>, Fault> {
        let mut statement = self.connection.prepare_cached("SELECT part FROM input_part WHERE input_set = ?1")?;
        let parts = statement.query_map([Col(&set)], |row| row.get::<_, Col<Digest>>(0))?;
        parts.map(|part| self.part(part?.0)).collect()
    }

    fn part(&mut self, digest: Digest) -> Result<SharedInputs, Fault> {
        if let Some(known) = self.parts.get(&digest) {
            return Ok(known.clone());
        }
        let part = SharedInputs::new(self.set(digest)?);
        self.parts.insert(digest, part.clone());
        Ok(part)
    }

    /// A set without what it shares.
    fn set(&mut self, digest: Digest) -> Result<Inputs, Fault> {
        let mut statement = self.connection.prepare_cached("SELECT inputs FROM input_set WHERE digest = ?1")?;
        let Json(Own(mut inputs)) = statement.query_row([Col(&digest)], |row| row.get(0))?;
        inputs.share(&mut self.pool);
        Ok(inputs)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Origin", rename_all = "kebab-case")]
enum OriginShape {
    Bundle,
    Root,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Input", rename_all = "kebab-case")]
enum InputShape {
    File {
        #[serde(with = "OriginShape")]
        from: Origin,
        #[serde(with = "path")]
        path: RepoPath,
        #[serde(with = "word")]
        kind: EntryKind,
        #[serde(with = "word")]
        oid: Oid,
    },
    Value {
        #[serde(with = "shared_text")]
        name: Arc<str>,
        #[serde(with = "shared_text")]
        text: Arc<str>,
    },
    Base {
        #[serde(with = "path")]
        bundle: RepoPath,
        #[serde(with = "word")]
        fingerprint: Fingerprint,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct InputJson(#[serde(with = "InputShape")] Input);

/// A set of inputs without what it shares.
struct Own(Inputs);

impl<'de> Deserialize<'de> for Own {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let inputs = Vec::<InputJson>::deserialize(deserializer)?;
        Ok(Self(Inputs::new(inputs.into_iter().map(|input| input.0).collect())))
    }
}
