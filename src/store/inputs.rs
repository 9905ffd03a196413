//! What each stage of each build depended on: for "why", and for making fingerprints again under another scheme.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Store;
use super::bundles::find_bundle;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json, path, word};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, Digest, Fingerprint, Oid};
use crate::domain::inputs::{From as Origin, Input, Inputs};
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
        self.db().read("read the last inputs", move |tx| last_inputs(tx, &key)).await
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
            let mut found = HashMap::new();
            for key in keys {
                let inputs = last_inputs(tx, &key)?;
                if !inputs.is_empty() {
                    found.insert(key, inputs);
                }
            }
            Ok(found)
        };
        self.db().read("read the last inputs of many bundles", work).await
    }
}

fn last_inputs(tx: &Transaction<'_>, key: &BundleKey) -> Result<Vec<(Stage, Inputs)>, Fault> {
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
    Ok(read_inputs(tx, build)?.into_iter().map(|(stage, _, inputs)| (stage, inputs)).collect())
}

/// The sum is one of the stored text, since [`Inputs::digest`] leaves out what does not count.
pub(super) fn keep_inputs(
    tx: &Transaction<'_>,
    build: BuildNo,
    stage: Stage,
    declared: Fingerprint,
    inputs: &Inputs,
) -> Result<(), Fault> {
    let text = serde_json::to_string(&InputsJson(inputs.clone()))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let digest = Digest::of(text.as_bytes());
    tx.prepare_cached("INSERT OR IGNORE INTO input_set (digest, inputs) VALUES (?1, ?2)")?
        .execute((Col(&digest), &text))?;
    tx.prepare_cached("INSERT INTO build_input (build, stage, declared, input_set) VALUES (?1, ?2, ?3, ?4)")?
        .execute((Col(build), Col(&stage), Col(&declared), Col(&digest)))?;
    Ok(())
}

pub(super) fn read_inputs(connection: &Connection, build: BuildNo) -> Result<Vec<(Stage, Fingerprint, Inputs)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT build_input.stage, build_input.declared, input_set.inputs
         FROM build_input JOIN input_set ON input_set.digest = build_input.input_set WHERE build_input.build = ?1",
    )?;
    let rows = statement.query_map([Col(build)], |row| {
        let (Col(stage), Col(declared), Json(InputsJson(inputs))) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((stage, declared, inputs))
    })?;
    let mut inputs = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    inputs.sort_by_key(|(stage, ..)| *stage);
    Ok(inputs)
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

/// A stage's inputs, from which its fingerprint can be made again.
struct InputsJson(Inputs);

impl Serialize for InputsJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().cloned().map(InputJson))
    }
}

impl<'de> Deserialize<'de> for InputsJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let inputs = Vec::<InputJson>::deserialize(deserializer)?;
        Ok(Self(Inputs::new(inputs.into_iter().map(|input| input.0).collect())))
    }
}
