//! What stands outside of builds that are over.

use serde::{Deserialize, Serialize};

use crate::domain::id::DriverName;
use crate::engine::outside::Orphans;
use crate::engine::ports::Orphan;

/// What was found of builds that are over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphansView {
    /// What is left.
    pub orphans: Vec<OrphanView>,
    /// What was there and was removed.
    pub removed: Vec<OrphanView>,
    /// The drivers that could not be asked: what they have is not among these.
    #[serde(default)]
    pub away: Vec<AwayView>,
}

/// A driver that could not be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwayView {
    /// Its name in the configuration.
    pub driver: String,
    /// Why.
    pub reason: String,
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
        let away = |(driver, reason): (DriverName, String)| AwayView { driver: driver.to_string(), reason };
        let away = found.away.into_iter().map(away).collect();
        Self { orphans: all(found.left), removed: all(found.removed), away }
    }
}

impl From<Orphan> for OrphanView {
    fn from(orphan: Orphan) -> Self {
        Self { build: orphan.build.0, kind: orphan.kind.to_owned(), id: orphan.id, name: orphan.name }
    }
}
