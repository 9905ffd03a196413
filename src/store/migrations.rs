//! How the database came to be what it is: named steps, each in a transaction with its own row.
//!
//! Append only. A step that was released is never changed: databases in the field have its effect, not its text.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::error::{Fault, StoreError};

/// Name and SQL of every step, in order.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("builds", BUILDS),
    ("inputs and results", RESULTS),
    ("images", IMAGES),
    ("what builds leave", LEFT),
    ("deliveries", DELIVERIES),
    ("shared inputs", SHARED_INPUTS),
    ("warnings", WARNINGS),
    ("expired results", EXPIRED),
];

/// `AUTOINCREMENT` is what keeps a number from being used twice, even after its build is deleted.
/// `fold` is the build as its journal tells it; it and `state` to `image` are projections. It is last, so that lists need
/// not read past it.
const BUILDS: &str = "
CREATE TABLE bundle (
  id INTEGER PRIMARY KEY,
  repository TEXT NOT NULL,
  branch TEXT NOT NULL,
  path BLOB NOT NULL,
  last_build INTEGER,
  last_finished INTEGER,
  UNIQUE (repository, branch, path)
) STRICT;
CREATE INDEX bundle_path ON bundle (repository, path);

CREATE TABLE build (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  bundle INTEGER NOT NULL REFERENCES bundle (id),
  commit_id TEXT NOT NULL,
  reason TEXT NOT NULL,
  asked_by TEXT NOT NULL,
  from_stage TEXT,
  until_stage TEXT,
  no_cache INTEGER NOT NULL,
  tracked INTEGER NOT NULL,
  stages TEXT NOT NULL,
  state TEXT NOT NULL,
  outcome TEXT,
  queued INTEGER NOT NULL,
  started INTEGER,
  ended INTEGER,
  image TEXT,
  fold TEXT NOT NULL
) STRICT;
CREATE INDEX build_bundle ON build (bundle, number);
CREATE INDEX build_unfinished ON build (number) WHERE state <> 'finished';

CREATE TABLE journal (
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  at INTEGER NOT NULL,
  version INTEGER NOT NULL,
  event TEXT NOT NULL,
  PRIMARY KEY (build, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE stage_time (
  bundle INTEGER NOT NULL REFERENCES bundle (id),
  stage TEXT NOT NULL,
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  millis INTEGER NOT NULL,
  PRIMARY KEY (bundle, stage, build)
) STRICT, WITHOUT ROWID;
CREATE INDEX stage_time_build ON stage_time (build);

CREATE TABLE planned (
  repository TEXT NOT NULL,
  branch TEXT NOT NULL,
  commit_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (repository, branch)
) STRICT, WITHOUT ROWID;
";

/// The same inputs are stored once, however many builds have them.
const RESULTS: &str = "
CREATE TABLE input_set (
  digest TEXT PRIMARY KEY,
  inputs TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE build_input (
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  stage TEXT NOT NULL,
  declared TEXT NOT NULL,
  input_set TEXT NOT NULL REFERENCES input_set (digest),
  PRIMARY KEY (build, stage)
) STRICT, WITHOUT ROWID;
CREATE INDEX build_input_set ON build_input (input_set);

CREATE TABLE result (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repository TEXT NOT NULL,
  stage TEXT NOT NULL,
  declared TEXT NOT NULL,
  resolved TEXT NOT NULL,
  driver TEXT NOT NULL,
  build INTEGER NOT NULL REFERENCES build (number),
  tracked INTEGER NOT NULL,
  made INTEGER NOT NULL,
  expires INTEGER,
  image TEXT,
  payload TEXT NOT NULL
) STRICT;
CREATE INDEX result_declared ON result (repository, declared, driver, made);
CREATE INDEX result_image ON result (image) WHERE image IS NOT NULL;
CREATE INDEX result_build ON result (build);

CREATE TABLE failure (
  repository TEXT NOT NULL,
  declared TEXT NOT NULL,
  tracked INTEGER NOT NULL,
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  PRIMARY KEY (repository, declared, tracked)
) STRICT, WITHOUT ROWID;
CREATE INDEX failure_build ON failure (build);
";

const IMAGES: &str = "
CREATE TABLE image (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  min_disk INTEGER NOT NULL,
  properties TEXT NOT NULL,
  base TEXT NOT NULL,
  commit_id TEXT NOT NULL,
  path BLOB NOT NULL,
  build INTEGER NOT NULL REFERENCES build (number),
  disk TEXT NOT NULL,
  pinned INTEGER NOT NULL,
  made INTEGER NOT NULL
) STRICT;
CREATE INDEX image_name ON image (name);
CREATE INDEX image_build ON image (build);

CREATE TABLE image_copy (
  image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
  driver TEXT NOT NULL,
  region TEXT NOT NULL,
  id TEXT NOT NULL,
  disk TEXT NOT NULL,
  PRIMARY KEY (image, driver, region)
) STRICT, WITHOUT ROWID;

CREATE TABLE served (
  bundle INTEGER PRIMARY KEY REFERENCES bundle (id),
  image TEXT NOT NULL REFERENCES image (id),
  build INTEGER NOT NULL REFERENCES build (number),
  commit_id TEXT NOT NULL,
  at INTEGER NOT NULL,
  stages TEXT NOT NULL
) STRICT;
CREATE INDEX served_image ON served (image);
CREATE INDEX served_build ON served (build);
";

const LEFT: &str = "
CREATE TABLE artifact (
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  path BLOB NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (build, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE test_case (
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  suite TEXT NOT NULL,
  name TEXT NOT NULL,
  outcome TEXT NOT NULL,
  seconds REAL NOT NULL,
  message TEXT NOT NULL,
  PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
  build INTEGER PRIMARY KEY REFERENCES build (number) ON DELETE CASCADE,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  lines INTEGER NOT NULL
) STRICT;
";

const DELIVERIES: &str = "
CREATE TABLE delivery (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  repository TEXT NOT NULL,
  kind TEXT NOT NULL,
  sent_by TEXT NOT NULL,
  what TEXT NOT NULL,
  at INTEGER NOT NULL,
  became TEXT
) STRICT;
";

/// What several sets of inputs have in common is a set of its own, stored once.
const SHARED_INPUTS: &str = "
CREATE TABLE input_part (
  input_set TEXT NOT NULL REFERENCES input_set (digest) ON DELETE CASCADE,
  part TEXT NOT NULL REFERENCES input_set (digest),
  PRIMARY KEY (input_set, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX input_part_part ON input_part (part);
";

/// What looked wrong in a build's outputs.
const WARNINGS: &str = "
CREATE TABLE warning (
  build INTEGER NOT NULL REFERENCES build (number) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  warning TEXT NOT NULL,
  PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;
";

/// What has expired is asked for whenever somebody looks how bundles stand.
const EXPIRED: &str = "CREATE INDEX result_expires ON result (expires) WHERE expires IS NOT NULL;";

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS migration (
  position INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  factoryd TEXT NOT NULL
) STRICT";

/// Takes the steps that are still missing.
pub(super) fn run(connection: &mut Connection) -> Result<(), Fault> {
    apply(connection, MIGRATIONS)
}

pub(super) fn apply(connection: &mut Connection, steps: &[(&str, &str)]) -> Result<(), Fault> {
    connection.execute_batch(TABLE)?;
    refuse_unknown(connection)?;
    for (position, (name, sql)) in (1_i64..).zip(steps) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done =
            transaction.query_row("SELECT 1 FROM migration WHERE name = ?1", [name], |_| Ok(())).optional()?.is_some();
        if !done {
            transaction.execute_batch(sql)?;
            transaction.execute(
                "INSERT INTO migration (position, name, factoryd) VALUES (?1, ?2, ?3)",
                (position, name, env!("CARGO_PKG_VERSION")),
            )?;
            transaction.commit()?;
            tracing::info!(migration = name, "the database took the migration {name:?}");
        }
    }
    Ok(())
}

/// A database that a newer factoryd changed must not be written by this one.
fn refuse_unknown(connection: &Connection) -> Result<(), Fault> {
    let mut statement = connection.prepare("SELECT name FROM migration ORDER BY position")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    for name in names {
        let name = name?;
        if !MIGRATIONS.iter().any(|(known, _)| *known == name) {
            return Err(StoreError::Newer { migration: name }.into());
        }
    }
    Ok(())
}
