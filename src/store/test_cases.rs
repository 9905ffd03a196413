//! The test cases that a build's reports tell of.

use std::sync::Arc;

use rusqlite::Transaction;

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::{Col, Text};
use crate::domain::id::BuildNo;

/// How a test case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CaseOutcome {
    /// It passed.
    Passed,
    /// What it checks is not so.
    Failed,
    /// It did not run.
    Skipped,
    /// It could not be run to its end.
    Error,
}

impl CaseOutcome {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Error => "error",
        }
    }
}

impl Text for CaseOutcome {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        self.word().into()
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Passed, Self::Failed, Self::Skipped, Self::Error].into_iter().find(|outcome| outcome.word() == text)
    }
}

/// A test case.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    /// The suite or class it belongs to; many share one.
    pub suite: Arc<str>,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: CaseOutcome,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it said when it did not pass.
    pub message: String,
}

impl Store {
    /// The test cases of a build, in the order of its reports.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn test_cases(&self, build: BuildNo) -> Result<Vec<TestCase>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT suite, name, outcome, seconds, message FROM test_case WHERE build = ?1 ORDER BY number",
            )?;
            let mut suite: Arc<str> = Arc::default();
            let rows = statement.query_map([Col(build)], |row| {
                let Col(outcome) = row.get(2)?;
                let name = row.get_ref(0)?.as_str()?;
                if *suite != *name {
                    suite = Arc::from(name);
                }
                Ok(TestCase {
                    suite: Arc::clone(&suite),
                    name: row.get(1)?,
                    outcome,
                    seconds: row.get(3)?,
                    message: row.get(4)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list test cases", work).await
    }
}

pub(super) fn insert_cases(tx: &Transaction<'_>, build: BuildNo, cases: &[TestCase]) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM test_case WHERE build = ?1")?.execute([Col(build)])?;
    let mut statement = tx.prepare_cached(
        "INSERT INTO test_case (build, number, suite, name, outcome, seconds, message)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (number, case) in (1_u64..).zip(cases) {
        // SQLite takes what is not a number for NULL.
        let seconds = if case.seconds.is_finite() { case.seconds } else { 0.0 };
        statement.execute((
            Col(build),
            Col(number),
            &case.suite,
            &case.name,
            Col(&case.outcome),
            seconds,
            &case.message,
        ))?;
    }
    Ok(())
}
