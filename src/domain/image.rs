//! Published results: the images of the catalogue, their copies, and where they come from.

use super::id::{BuildNo, CommitId, Digest, DiskId, DriverName, Fingerprint, ImageId};
use super::path::RepoPath;

/// Where an image is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageState {
    /// It is there and not yet to be used.
    Candidate,
    /// It may be used.
    Published,
    /// It still works, and nobody should begin to use it.
    Deprecated,
    /// It must not be used.
    Revoked,
}

impl ImageState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Candidate, Self::Published, Self::Deprecated, Self::Revoked];

    /// The word for it, as the store and every output have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Published => "published",
            Self::Deprecated => "deprecated",
            Self::Revoked => "revoked",
        }
    }

    /// The state that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// Whether an image that serves is the one that its branch wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was made of what the branch has.
    Fresh,
    /// The branch has something else by now; why that is not built, or what builds it.
    Stale(String),
}

/// One driver's copy of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCopy {
    /// The driver that has it.
    pub driver: DriverName,
    /// Where in that driver's world; empty where it has but one place.
    pub region: String,
    /// What the driver calls it: `result_img_id`.
    pub id: String,
    /// How the driver finds the bits again.
    pub disk: DiskId,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The sum of the base image's bytes.
    pub base: Digest,
    /// The commit it was built from.
    pub commit: CommitId,
    /// The bundle's directory.
    pub bundle: RepoPath,
    /// The build that made it.
    pub build: BuildNo,
    /// The fingerprint of the disk: two images with the same one hold the same bits.
    pub disk: Fingerprint,
}

/// A published result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Our id.
    pub id: ImageId,
    /// Its name, not necessarily unique.
    pub name: String,
    /// Where it is in its life.
    pub state: ImageState,
    /// The sum of its file.
    pub sha256: Digest,
    /// The size of its file in bytes.
    pub size: u64,
    /// The smallest disk that it fits on, in GiB.
    pub min_disk: u64,
    /// Properties, sorted by name.
    pub properties: Vec<(String, String)>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Retention leaves pinned images alone.
    pub pinned: bool,
    /// Where it is.
    pub copies: Vec<ImageCopy>,
}
