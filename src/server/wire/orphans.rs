//! What stands outside of builds that are over.

use serde::{Deserialize, Serialize};

use crate::engine::outside::Orphans;
use crate::engine::ports::Orphan;

/// What was found of builds that are over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphansView {
    /// What is left.
    pub orphans: Vec<OrphanView>,
    /// What was there and was removed.
    pub removed: Vec<OrphanView>,
}

/// Something outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanView {
    /// The build whose number it carries.
    pub build: u64,
    /// What it is: `server`, `floating address`, `key pair`, `image`; `machine` on this host.
    pub kind: String,
    /// Its id there.
    pub id: String,
    /// What it is called there.
    pub name: String,
}

impl From<Orphans> for OrphansView {
    fn from(found: Orphans) -> Self {
        let all = |orphans: Vec<Orphan>| orphans.into_iter().map(OrphanView::from).collect();
        Self { orphans: all(found.left), removed: all(found.removed) }
    }
}

impl From<Orphan> for OrphanView {
    fn from(orphan: Orphan) -> Self {
        Self { build: orphan.build.0, kind: orphan.kind.to_owned(), id: orphan.id, name: orphan.name }
    }
}
