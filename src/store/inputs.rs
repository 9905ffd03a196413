//! What each stage of each build depended on: for "why", and for making fingerprints again under another scheme.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use serde::{Deserialize, Deserializer, Serialize};

use super::Store;
use super::bundles::find_bundle;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json, path, word};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, Digest, Fingerprint, Oid};
use crate::domain::inputs::{From as Origin, Input, Inputs, SharedInputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::tree::EntryKind;

impl Store {
    /// The inputs of a build's stages with their declared fingerprints, in the order of the stages.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn inputs(&self, build: BuildNo) -> Result<Vec<(Stage, Fingerprint, Inputs)>, StoreError> {
        self.db().read("read inputs", move |tx| read_inputs(tx, build)).await
    }

    /// The declared fingerprints that every unfinished build was queued for, in the order of the stages.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn declared_unfinished(&self) -> Result<HashMap<BuildNo, Vec<(Stage, Fingerprint)>>, StoreError> {
        let work = |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT build, stage, declared FROM build_input
                 WHERE build IN (SELECT number FROM build WHERE state <> 'finished')",
            )?;
            let rows = statement.query_map([], |row| {
                let (Col(build), Col(stage), Col(declared)) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok((build, (stage, declared)))
            })?;
            let mut found: HashMap<BuildNo, Vec<(Stage, Fingerprint)>> = HashMap::new();
            for row in rows {
                let (build, stage) = row?;
                found.entry(build).or_default().push(stage);
            }
            found.values_mut().for_each(|stages| stages.sort());
            Ok(found)
        };
        self.db().read("read declared fingerprints", work).await
    }

    /// The inputs to compare a bundle's with: of its newest build that passed, else of the build that made what is
    /// served; empty where there is neither.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_inputs(&self, key: &BundleKey) -> Result<Vec<(Stage, Inputs)>, StoreError> {
        let key = key.clone();
        self.db().read("read the last inputs", move |tx| last_inputs(tx, &mut Reader::new(tx), &key)).await
    }

    /// [`Store::last_inputs`] of many bundles in one go; bundles without any are left out.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_inputs_of(
        &self,
        keys: Vec<BundleKey>,
    ) -> Result<HashMap<BundleKey, Vec<(Stage, Inputs)>>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let (mut found, mut reader) = (HashMap::new(), Reader::new(tx));
            for key in keys {
                let inputs = last_inputs(tx, &mut reader, &key)?;
                if !inputs.is_empty() {
                    found.insert(key, inputs);
                }
            }
            Ok(found)
        };
        self.db().read("read the last inputs of many bundles", work).await
    }
}

fn last_inputs(tx: &Transaction<'_>, reader: &mut Reader<'_>, key: &BundleKey) -> Result<Vec<(Stage, Inputs)>, Fault> {
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
    Ok(reader.inputs(build)?.into_iter().map(|(stage, _, inputs)| (stage, inputs)).collect())
}

/// The sum of a set is one of the stored text, since [`Inputs::digest`] leaves out what does not count.
pub(super) fn keep_inputs(
    tx: &Transaction<'_>,
    build: BuildNo,
    stage: Stage,
    declared: Fingerprint,
    inputs: &Inputs,
) -> Result<(), Fault> {
    let text = text(inputs.own())?;
    let mut named = text.clone().into_bytes();
    inputs.shared().iter().for_each(|part| named.extend(part.digest().0));
    let digest = Digest::of(&named);
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
    Reader::new(connection).inputs(build)
}

/// Reads inputs of many builds, and what they share once.
struct Reader<'c> {
    connection: &'c Connection,
    parts: HashMap<Digest, SharedInputs>,
}

impl<'c> Reader<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, parts: HashMap::new() }
    }

    fn inputs(&mut self, build: BuildNo) -> Result<Vec<(Stage, Fingerprint, Inputs)>, Fault> {
        let mut statement = self.connection.prepare_cached(
            "SELECT build_input.stage, build_input.declared, input_set.inputs, input_set.digest
             FROM build_input JOIN input_set ON input_set.digest = build_input.input_set WHERE build_input.build = ?1",
        )?;
        let rows = statement.query_map([Col(build)], |row| {
            let (Col(stage), Col(declared), Json(Own(own)), Col(set)) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, Col<Digest>>(3)?);
            Ok((stage, declared, own, set))
        })?;
        let mut inputs = Vec::new();
        for row in rows {
            let (stage, declared, own, set) = row?;
            inputs.push((stage, declared, own.with_shared(self.parts_of(set)?)));
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
        let mut statement = self.connection.prepare_cached("SELECT inputs FROM input_set WHERE digest = ?1")?;
        let Json(Own(inputs)) = statement.query_row([Col(&digest)], |row| row.get(0))?;
        let part = SharedInputs::new(inputs);
        self.parts.insert(digest, part.clone());
        Ok(part)
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
        name: String,
        text: String,
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
