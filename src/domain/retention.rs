//! What may go: which images to deprecate and remove, which kept results to drop.
//!
//! It takes one step at a time: an image is deprecated in one run and removed in a later one, so that a person can pin
//! it in between. Never touched: what is served, what is pinned, the newest published images of each bundle and branch,
//! and whatever a running build may use.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Moment;
use super::bundle::BundleKey;
use super::id::{BuildNo, DiskId, Fingerprint, ImageId};
use super::image::ImageState;
use super::pipeline::Stage;

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest published images, and of the newest results of a stage, each bundle and branch keeps.
    pub keep: usize,
    /// How old, in milliseconds, a deprecated image or a result that nothing needs may grow; `None` is for ever.
    pub age: Option<u64>,
}

/// An image, as far as it matters here.
#[derive(Clone, Debug)]
pub struct KeptImage {
    /// Its id.
    pub id: ImageId,
    /// The bundle and branch it was made for.
    pub key: BundleKey,
    /// Where it is in its life.
    pub state: ImageState,
    /// Whether somebody pinned it.
    pub pinned: bool,
    /// Whether it serves any bundle.
    pub served: bool,
    /// When it was made.
    pub made: Moment,
    /// The build that made it.
    pub build: BuildNo,
    /// The disks its copies live in.
    pub disks: Vec<DiskId>,
}

/// A kept result, as far as it matters here.
#[derive(Clone, Debug)]
pub struct KeptResult<R> {
    /// What the store calls it.
    pub number: R,
    /// The bundle and branch of the build that made it.
    pub key: BundleKey,
    /// The stage.
    pub stage: Stage,
    /// The declared fingerprint.
    pub declared: Fingerprint,
    /// The build that made it.
    pub build: BuildNo,
    /// When it was made.
    pub made: Moment,
    /// When it must no longer be used.
    pub expires: Option<Moment>,
    /// The image that it is.
    pub image: Option<ImageId>,
    /// Its disk and those that back it.
    pub disks: Vec<DiskId>,
}

/// What must stay, whatever its age.
#[derive(Clone, Debug, Default)]
pub struct Needed {
    /// Builds that are queued or running.
    pub builds: BTreeSet<BuildNo>,
    /// Declared fingerprints that something is served with or is wanted with.
    pub fingerprints: BTreeSet<Fingerprint>,
    /// Declared fingerprints of builds that are queued or running: what is kept under them, images too, may be used and
    /// served again at any moment.
    pub awaited: BTreeSet<Fingerprint>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<R> {
    /// Images that nobody should begin to use any more.
    pub deprecate: Vec<ImageId>,
    /// Images to remove, with their copies.
    pub remove: Vec<ImageId>,
    /// Results to drop.
    pub drop: Vec<R>,
    /// Disks that become free by that: of what goes, and of nothing that stays.
    pub disks: Vec<DiskId>,
}

/// Decides what may go.
pub fn decide<R: Clone>(
    images: &[KeptImage],
    results: &[KeptResult<R>],
    needed: &Needed,
    retention: Retention,
    now: Moment,
) -> Decision<R> {
    let too_old = |made: Moment| retention.age.is_some_and(|age| now.since(made) > age);
    let newest = newest_published(images, retention.keep);
    let awaited: BTreeSet<&ImageId> = results
        .iter()
        .filter(|result| needed.awaited.contains(&result.declared))
        .filter_map(|result| result.image.as_ref())
        .collect();
    let safe = |image: &KeptImage| {
        image.served || image.pinned || needed.builds.contains(&image.build) || awaited.contains(&image.id)
    };
    let deprecate: Vec<ImageId> = images
        .iter()
        .filter(|image| image.state == ImageState::Published && !safe(image) && !newest.contains(&image.id))
        .map(|image| image.id.clone())
        .collect();
    let removed = |image: &KeptImage| image.state != ImageState::Published && !safe(image) && too_old(image.made);
    let (gone, kept): (Vec<&KeptImage>, Vec<&KeptImage>) = images.iter().partition(|image| removed(image));

    let gone_ids: BTreeSet<&ImageId> = gone.iter().map(|image| &image.id).collect();
    let ranks = ranks(results);
    let dropped = |rank: usize, result: &KeptResult<R>| {
        if result.image.as_ref().is_some_and(|image| gone_ids.contains(image)) {
            return true;
        }
        // An image in the catalogue is kept or dropped as an image.
        let needed = needed.builds.contains(&result.build)
            || needed.fingerprints.contains(&result.declared)
            || needed.awaited.contains(&result.declared)
            || result.image.is_some();
        let expired = result.expires.is_some_and(|expires| expires <= now);
        !needed && (expired || rank >= retention.keep || too_old(result.made))
    };
    let (dropped, stay): (Vec<_>, Vec<_>) =
        ranks.into_iter().zip(results).partition(|(rank, result)| dropped(*rank, result));

    let in_use: BTreeSet<&DiskId> =
        kept.iter().flat_map(|image| &image.disks).chain(stay.iter().flat_map(|(_, result)| &result.disks)).collect();
    let disks: BTreeSet<&DiskId> = gone
        .iter()
        .flat_map(|image| &image.disks)
        .chain(dropped.iter().flat_map(|(_, result)| &result.disks))
        .collect();
    Decision {
        deprecate,
        remove: gone.iter().map(|image| image.id.clone()).collect(),
        drop: dropped.iter().map(|(_, result)| result.number.clone()).collect(),
        disks: disks.difference(&in_use).map(|disk| (*disk).clone()).collect(),
    }
}

fn newest_published(images: &[KeptImage], keep: usize) -> BTreeSet<ImageId> {
    let mut of_bundle: BTreeMap<&BundleKey, Vec<&KeptImage>> = BTreeMap::new();
    for image in images.iter().filter(|image| image.state == ImageState::Published) {
        of_bundle.entry(&image.key).or_default().push(image);
    }
    let newest = of_bundle.into_values().flat_map(|mut images| {
        images.sort_by_key(|image| std::cmp::Reverse((image.made, image.build)));
        images.into_iter().take(keep)
    });
    newest.map(|image| image.id.clone()).collect()
}

/// For each result, how many newer ones its bundle and stage have.
fn ranks<R>(results: &[KeptResult<R>]) -> Vec<usize> {
    let mut of_stage: BTreeMap<(&BundleKey, Stage), Vec<usize>> = BTreeMap::new();
    for (index, result) in results.iter().enumerate() {
        of_stage.entry((&result.key, result.stage)).or_default().push(index);
    }
    let mut ranks = vec![0; results.len()];
    for mut indices in of_stage.into_values() {
        indices.sort_by_key(|index| std::cmp::Reverse((results[*index].made, results[*index].build)));
        for (rank, index) in indices.into_iter().enumerate() {
            ranks[index] = rank;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Digest;
    use crate::domain::path::RepoPath;

    fn key(bundle: &str) -> BundleKey {
        let path = RepoPath::new(bundle).expect("a path");
        BundleKey { repository: "factory".into(), branch: "main".into(), path }
    }

    fn image(id: &str, made: i64) -> KeptImage {
        KeptImage {
            id: id.into(),
            key: key("images/a"),
            state: ImageState::Published,
            pinned: false,
            served: false,
            made: Moment(made),
            build: BuildNo(made.unsigned_abs()),
            disks: vec![DiskId::new(format!("image-{id}"))],
        }
    }

    fn sealed(number: u32, made: i64, disks: &[&str]) -> KeptResult<u32> {
        KeptResult {
            number,
            key: key("images/a"),
            stage: Stage::Provision,
            declared: print(number),
            build: BuildNo(u64::from(number)),
            made: Moment(made),
            expires: None,
            image: None,
            disks: disks.iter().map(|disk| (*disk).into()).collect(),
        }
    }

    fn print(number: u32) -> Fingerprint {
        Fingerprint(Digest::of(&number.to_be_bytes()))
    }

    fn run(images: &[KeptImage], results: &[KeptResult<u32>], needed: &Needed) -> Decision<u32> {
        decide(images, results, needed, Retention { keep: 2, age: Some(100) }, Moment(1000))
    }

    fn ids(ids: &[ImageId]) -> Vec<&str> {
        ids.iter().map(ImageId::as_str).collect()
    }

    #[test]
    fn old_images_are_deprecated_first_and_removed_later() {
        let mut images: Vec<KeptImage> = (1..=6).map(|n| image(&n.to_string(), n)).collect();
        images[0].served = true;
        images[1].pinned = true;
        let first = run(&images, &[], &Needed::default());
        assert_eq!(ids(&first.deprecate), ["3", "4"], "the served, the pinned and the two newest stay");
        assert!(first.remove.is_empty() && first.disks.is_empty());

        images[2].state = ImageState::Deprecated;
        images[3].state = ImageState::Deprecated;
        images[3].made = Moment(950);
        let second = run(&images, &[], &Needed::default());
        assert_eq!(ids(&second.remove), ["3"], "the other one is not old enough");
        assert_eq!(second.disks, ["image-3".into()]);
        assert!(second.deprecate.is_empty());
    }

    #[test]
    fn each_bundle_and_branch_keeps_its_own_newest() {
        let mut images: Vec<KeptImage> = (1..=4).map(|n| image(&n.to_string(), n)).collect();
        images[0].key = key("images/b");
        images[1].key.branch = "stable".into();
        assert!(run(&images, &[], &Needed::default()).deprecate.is_empty());
    }

    #[test]
    fn a_result_goes_when_it_is_old_superfluous_or_expired_and_nothing_needs_it() {
        let mut results = vec![
            sealed(1, 990, &["one"]),
            sealed(2, 991, &["two"]),
            sealed(3, 992, &["three"]),
            sealed(4, 993, &["four"]),
        ];
        assert_eq!(run(&[], &results, &Needed::default()).drop, [1, 2]);

        let needed = Needed {
            builds: BTreeSet::from([BuildNo(1)]),
            fingerprints: BTreeSet::from([print(2)]),
            ..Needed::default()
        };
        assert!(run(&[], &results, &needed).drop.is_empty());

        results[3].expires = Some(Moment(1000));
        results[2].made = Moment(800);
        assert_eq!(run(&[], &results, &needed).drop, [3, 4]);
    }

    #[test]
    fn the_backing_of_what_stays_stays() {
        let results = [sealed(1, 10, &["old", "base"]), sealed(2, 999, &["new", "base"])];
        let decision = run(&[], &results, &Needed::default());
        assert_eq!(decision.drop, [1]);
        assert_eq!(decision.disks, ["old".into()]);
    }

    #[test]
    fn an_image_that_a_waiting_build_will_serve_again_stays_as_it_is() {
        let mut images: Vec<KeptImage> = (1..=4).map(|n| image(&n.to_string(), n)).collect();
        images[0].state = ImageState::Deprecated;
        let mut results = [sealed(1, 1, &[]), sealed(2, 2, &[])];
        for (result, image) in results.iter_mut().zip(["1", "2"]) {
            (result.stage, result.image) = (Stage::Snapshot, Some(image.into()));
        }
        let decision = run(&images, &results, &Needed::default());
        assert_eq!((ids(&decision.remove), ids(&decision.deprecate)), (vec!["1"], vec!["2"]));
        let needed = Needed { awaited: BTreeSet::from([print(1), print(2)]), ..Needed::default() };
        let decision = run(&images, &results, &needed);
        assert!(decision.remove.is_empty() && decision.deprecate.is_empty() && decision.drop.is_empty());
    }

    #[test]
    fn a_snapshot_s_result_lives_as_long_as_its_image() {
        let mut images = vec![image("1", 1)];
        let mut result = sealed(1, 1, &[]);
        (result.stage, result.image) = (Stage::Snapshot, Some("1".into()));
        assert!(run(&images, &[result.clone()], &Needed::default()).drop.is_empty());
        images[0].state = ImageState::Revoked;
        assert_eq!(run(&images, &[result], &Needed::default()).drop, [1]);
    }
}
