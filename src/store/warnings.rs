//! What looked wrong in a build's outputs, and was no reason to fail.

use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json};
use crate::domain::id::BuildNo;

/// One thing that looked wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The file, relative to the repository's root.
    pub file: String,
    /// The line, counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, counted from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// What kind it is, for programs.
    pub code: String,
    /// What looks wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl Store {
    /// What looked wrong in a build's outputs, in the order of the files.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn warnings(&self, build: BuildNo) -> Result<Vec<Warning>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("SELECT warning FROM warning WHERE build = ?1 ORDER BY number")?;
            let rows = statement.query_map([Col(build)], |row| row.get::<_, Json<Warning>>(0).map(|json| json.0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list warnings", work).await
    }
}

pub(super) fn insert_warnings(tx: &Transaction<'_>, build: BuildNo, warnings: &[Warning]) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM warning WHERE build = ?1")?.execute([Col(build)])?;
    let mut statement = tx.prepare_cached("INSERT INTO warning (build, number, warning) VALUES (?1, ?2, ?3)")?;
    for (number, warning) in (1_u64..).zip(warnings) {
        statement.execute((Col(build), Col(number), Json(warning)))?;
    }
    Ok(())
}
