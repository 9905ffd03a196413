//! What arrived from outside (pushes, polls), and what became of it.

use rusqlite::Transaction;

use super::Store;
use super::error::StoreError;
use super::shape::Col;
use crate::domain::build::Moment;
use crate::domain::id::RepoName;

/// One received push or poll result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number, counted from 1.
    pub id: u64,
    /// The repository.
    pub repository: RepoName,
    /// `push`, `poll`, …
    pub kind: String,
    /// Who sent it.
    pub by: String,
    /// What it said: the refs with their old and new commits.
    pub what: String,
    /// When it arrived.
    pub at: Moment,
    /// What became of it: the builds' numbers, or why there are none; `None` while nobody has looked.
    pub became: Option<String>,
}

impl Store {
    /// Keeps what arrived, before anything is done about it; gives its number.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn deliver(
        &self,
        repository: &RepoName,
        kind: &str,
        by: &str,
        what: &str,
        at: Moment,
    ) -> Result<u64, StoreError> {
        let (repository, kind, by, what) = (repository.clone(), kind.to_owned(), by.to_owned(), what.to_owned());
        let work = move |tx: &Transaction<'_>| {
            tx.prepare_cached(
                "INSERT INTO delivery (repository, kind, sent_by, what, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((Col(&repository), kind, by, what, at.0))?;
            Ok(tx.last_insert_rowid().unsigned_abs())
        };
        self.db().write("keep a delivery", work).await
    }

    /// Writes down what became of a delivery.
    ///
    /// # Errors
    /// When there is no such delivery.
    pub async fn delivered(&self, id: u64, became: &str) -> Result<(), StoreError> {
        let became = became.to_owned();
        let work = move |tx: &Transaction<'_>| {
            let changed =
                tx.prepare_cached("UPDATE delivery SET became = ?2 WHERE id = ?1")?.execute((Col(id), became))?;
            match changed {
                0 => Err(StoreError::no_such(format!("delivery {id}")).into()),
                _ => Ok(()),
            }
        };
        self.db().write("say what became of a delivery", work).await
    }

    /// The newest deliveries, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn deliveries(&self, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT id, repository, kind, sent_by, what, at, became FROM delivery ORDER BY id DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([limit], |row| {
                let (Col(id), Col(repository)) = (row.get(0)?, row.get(1)?);
                Ok(Delivery {
                    id,
                    repository,
                    kind: row.get(2)?,
                    by: row.get(3)?,
                    what: row.get(4)?,
                    at: Moment(row.get(5)?),
                    became: row.get(6)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list deliveries", work).await
    }
}
