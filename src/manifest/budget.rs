//! What one reading of a repository may take, so that no repository makes the daemon slow or large.

use std::fmt;

/// The most files and directories that one bundle's inputs may lie among.
const BUNDLE_ENTRIES: usize = 100_000;

/// The same for a whole repository.
const READING_ENTRIES: usize = 500_000;

/// The most bytes of vars, of what expressions expand to, and of a template, that are looked at in one reading.
const READING_BYTES: usize = 96 * 1024 * 1024;

/// What one bundle took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    entries: usize,
    bytes: usize,
}

/// What is left for a reading.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cost,
    bundle: Cost,
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// One bundle's files.
    Bundle,
    /// The repository's files.
    Entries,
    /// The repository's vars and templates.
    Bytes,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle => write!(f, "its stages would read more than {BUNDLE_ENTRIES} files"),
            Self::Entries => write!(f, "the bundles of this repository read more than {READING_ENTRIES} files"),
            Self::Bytes => {
                let limit = READING_BYTES / 1024 / 1024;
                write!(f, "the vars and templates of this repository are larger than {limit} MiB")
            }
        }
    }
}

impl Budget {
    /// The whole budget.
    pub(super) fn new() -> Self {
        Self { left: Cost { entries: READING_ENTRIES, bytes: READING_BYTES }, bundle: Cost::default() }
    }

    /// Begins a bundle, and forgets what the one before took.
    pub(super) fn begin(&mut self) {
        self.bundle = Cost::default();
    }

    /// What the bundle took so far.
    pub(super) fn cost(&self) -> Cost {
        self.bundle
    }

    /// Counts one entry of a directory.
    pub(super) fn entry(&mut self) -> Result<(), Exceeded> {
        self.take(Cost { entries: 1, bytes: 0 })
    }

    /// Counts bytes.
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.take(Cost { entries: 0, bytes })
    }

    /// Counts what is known to cost this much: what is kept from an earlier reading costs the same again, so that two
    /// readings of one tree say the same.
    pub(super) fn take(&mut self, cost: Cost) -> Result<(), Exceeded> {
        self.bundle.entries += cost.entries;
        self.bundle.bytes += cost.bytes;
        if self.bundle.entries > BUNDLE_ENTRIES {
            return Err(Exceeded::Bundle);
        }
        let left = (self.left.entries.checked_sub(cost.entries), self.left.bytes.checked_sub(cost.bytes));
        // Nothing is left once a limit was reached, so that what fits does not depend on what was kept before.
        self.left = Cost { entries: left.0.unwrap_or(0), bytes: left.1.unwrap_or(0) };
        left.0.ok_or(Exceeded::Entries)?;
        left.1.ok_or(Exceeded::Bytes)?;
        Ok(())
    }
}
