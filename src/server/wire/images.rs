//! The catalogue of images.

use serde::{Deserialize, Serialize};

use crate::domain::image::Freshness;
use crate::engine::memory::ImageRecord;

/// Images of the catalogue, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImagesView {
    /// The images.
    pub images: Vec<ImageView>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its id.
    pub image: String,
    /// Its name.
    pub name: String,
    /// `candidate`, `published`, `deprecated` or `revoked`.
    pub state: String,
    /// The sum of its file.
    pub sha256: String,
    /// The size of its file in bytes.
    pub size: u64,
    /// The bundle it was built from.
    pub bundle: String,
    /// The build that made it.
    pub build: u64,
    /// Its properties.
    pub properties: serde_json::Map<String, serde_json::Value>,
    /// Where it is.
    pub copies: Vec<CopyView>,
    /// The smallest disk it fits on, in GiB.
    pub min_disk: u64,
    /// The sum of the base image.
    pub base: String,
    /// The commit it was built from.
    pub commit: String,
    /// Whether retention leaves it alone.
    pub pinned: bool,
    /// Whether it is served for a bundle.
    pub served: bool,
    /// Whether it is what its branch wants; `null` where it serves no bundle of a planned branch.
    #[serde(default)]
    pub freshness: Option<FreshnessView>,
    /// When it was made, in milliseconds since 1970.
    #[serde(default)]
    pub made: i64,
}

/// Whether an image that serves is what its branch wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessView {
    /// `fresh` or `stale`.
    pub state: String,
    /// Why it is stale; empty where it is fresh.
    pub reason: String,
}

impl From<&Freshness> for FreshnessView {
    fn from(freshness: &Freshness) -> Self {
        let (state, reason) = match freshness {
            Freshness::Fresh => ("fresh", ""),
            Freshness::Stale(reason) => ("stale", reason.as_str()),
        };
        Self { state: state.to_owned(), reason: reason.to_owned() }
    }
}

impl FreshnessView {
    /// Whether it is stale.
    pub fn is_stale(&self) -> bool {
        self.state == "stale"
    }
}

/// One driver's copy of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// The driver.
    pub driver: String,
    /// Where in that driver's world.
    pub region: String,
    /// What the driver calls it: `result_img_id`.
    pub id: String,
    /// The state, as the image's.
    pub state: String,
}

impl ImageView {
    /// An image, and whether it is what its branch wants.
    pub fn new(record: &ImageRecord, freshness: Option<&Freshness>) -> Self {
        let image = &record.image;
        let state = image.state.word().to_owned();
        Self {
            image: image.id.to_string(),
            name: image.name.clone(),
            sha256: image.sha256.to_string(),
            size: image.size,
            bundle: image.lineage.bundle.to_string(),
            build: image.lineage.build.0,
            properties: image.properties.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
            copies: image
                .copies
                .iter()
                .map(|copy| CopyView {
                    driver: copy.driver.to_string(),
                    region: copy.region.clone(),
                    id: copy.id.clone(),
                    state: state.clone(),
                })
                .collect(),
            min_disk: image.min_disk,
            base: image.lineage.base.to_string(),
            commit: image.lineage.commit.to_string(),
            pinned: image.pinned,
            served: record.served,
            freshness: freshness.map(FreshnessView::from),
            made: record.made.0,
            state,
        }
    }
}
