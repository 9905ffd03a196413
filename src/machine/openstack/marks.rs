//! How the factory knows its own in a cloud that it shares: by marks that nobody else makes, and never by a name.
//!
//! Nova gives the properties of an image to every snapshot of a server that booted from it. So a snapshot that somebody
//! makes of a server on one of our images carries our properties, and is theirs. What it does not carry is our tag, nor
//! that the server it is of is the one that we made it of: one of the two must hold.

use std::collections::BTreeMap;

use super::glance::GlanceImage;
use super::nova::Server;
use crate::domain::id::{BuildNo, DiskId};

/// The factory's id, on servers and images.
pub(super) const FACTORY: &str = "factoryd_factory";
/// The build's number, on servers and images.
pub(super) const BUILD: &str = "factoryd_build";
/// Which of the build's machines a server is.
pub(super) const ROLE: &str = "factoryd_role";
/// One asking for a server: how it is found again where the answer was lost.
pub(super) const ORDER: &str = "factoryd_order";
/// The server that an image was made of.
pub(super) const SERVER: &str = "factoryd_server";
/// The sum of an image's bytes.
pub(super) const SHA256: &str = "factoryd_sha256";
/// The server that Nova says an image was made of.
pub(super) const INSTANCE: &str = "instance_uuid";
/// Every property of ours begins so.
pub(super) const OURS: &str = "factoryd_";
/// What an image can be to the factory, each with a property that holds the disk's id.
pub(super) const KINDS: [&str; 3] = ["sealed", "image", "base"];
/// How the disk of an image begins that is somebody else's.
const FOREIGN: &str = "glance-";

/// The marks of one factory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    factory: String,
}

/// Which property holds the id of a disk.
pub(super) fn property(disk: &DiskId) -> Option<String> {
    let (kind, _) = disk.as_str().split_once('-')?;
    KINDS.contains(&kind).then(|| format!("{OURS}{kind}"))
}

/// The disk of an image that is somebody else's.
pub(super) fn foreign(image: &str) -> DiskId {
    DiskId::new(format!("{FOREIGN}{image}"))
}

/// The image of somebody else that a disk is.
pub(super) fn foreign_image(disk: &DiskId) -> Option<&str> {
    disk.as_str().strip_prefix(FOREIGN)
}

impl Marks {
    /// Those of the factory with this id.
    pub(super) fn new(factory: impl Into<String>) -> Self {
        Self { factory: factory.into() }
    }

    pub(super) fn factory(&self) -> &str {
        &self.factory
    }

    /// The tag of servers and images.
    pub(super) fn tag(&self) -> String {
        format!("factoryd-{}", self.factory)
    }

    /// What a server is told of itself.
    pub(super) fn of_server(&self, build: BuildNo, role: &str, order: &str) -> BTreeMap<String, String> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        [pair(FACTORY, &self.factory), pair(BUILD, &build.0.to_string()), pair(ROLE, role), pair(ORDER, order)].into()
    }

    /// What an image is told when it is made of a server.
    pub(super) fn of_snapshot(&self, disk: &DiskId, build: BuildNo, server: &str) -> BTreeMap<String, String> {
        // Nova lets the snapshot take over what the image says that the server booted from: none of that holds of it.
        let not_its = KINDS.iter().map(|kind| format!("{OURS}{kind}")).chain([SHA256.to_owned()]);
        let mut marks: BTreeMap<String, String> = not_its.map(|key| (key, String::new())).collect();
        marks.extend(self.of_upload(disk, Some(build)));
        marks.insert(SERVER.to_owned(), server.to_owned());
        marks
    }

    /// What an image is told when it is uploaded.
    pub(super) fn of_upload(&self, disk: &DiskId, build: Option<BuildNo>) -> BTreeMap<String, String> {
        let mut marks: BTreeMap<String, String> = [(FACTORY.to_owned(), self.factory.clone())].into();
        marks.extend(property(disk).map(|property| (property, disk.to_string())));
        marks.extend(build.map(|build| (BUILD.to_owned(), build.0.to_string())));
        marks
    }

    /// The build that a server is of, if it is ours. Whoever lists asks for the tag.
    pub(super) fn server_build(&self, server: &Server) -> Option<BuildNo> {
        let of = |key: &str| server.metadata.get(key);
        (of(FACTORY)? == &self.factory).then_some(())?;
        of(BUILD)?.parse().ok().map(BuildNo)
    }

    /// Whether an image is ours, and not one that only took over what ours says of itself.
    pub(super) fn is_our_image(&self, image: &GlanceImage) -> bool {
        let made_of = image.property(SERVER);
        let is_marked = image.tags.contains(&self.tag()) || !made_of.is_empty() && made_of == image.property(INSTANCE);
        image.property(FACTORY) == self.factory && is_marked
    }

    /// The disks that an image of ours is.
    pub(super) fn disks(image: &GlanceImage) -> Vec<DiskId> {
        let of = |kind: &&str| {
            let disk = DiskId::new(image.property(&format!("{OURS}{kind}")));
            Some(disk).filter(|disk| disk.is_ours() && disk.as_str().starts_with(*kind))
        };
        KINDS.iter().filter_map(of).collect()
    }

    /// The build that an image was made in.
    pub(super) fn image_build(image: &GlanceImage) -> Option<BuildNo> {
        image.property(BUILD).parse().ok().map(BuildNo)
    }

    /// The name of a build's key pair: Nova has no other place for a mark on one.
    pub(super) fn keypair(&self, build: BuildNo, role: &str) -> String {
        format!("{}-{}-{role}", self.tag(), build.0)
    }

    /// The build that a key pair is of, if it is ours.
    pub(super) fn keypair_build(&self, name: &str) -> Option<BuildNo> {
        let (build, role) = name.strip_prefix(&self.tag())?.strip_prefix('-')?.split_once('-')?;
        let number: u64 = build.parse().ok().filter(|_| !role.is_empty())?;
        Some(BuildNo(number))
    }

    /// What a floating address is described as.
    pub(super) fn description(&self, build: BuildNo, role: &str) -> String {
        format!("{} build {} {role}", self.tag(), build.0)
    }

    /// The build that a floating address is of, if it is ours.
    pub(super) fn described_build(&self, description: &str) -> Option<BuildNo> {
        let rest = description.strip_prefix(&self.tag())?.strip_prefix(" build ")?;
        let (build, role) = rest.split_once(' ')?;
        let number: u64 = build.parse().ok().filter(|_| !role.is_empty())?;
        Some(BuildNo(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], properties: &[(&str, &str)]) -> GlanceImage {
        GlanceImage {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..GlanceImage::default()
        }
    }

    #[test]
    fn a_strangers_snapshot_of_a_server_on_our_image_is_theirs() {
        let marks = Marks::new("f1");
        let published = [(FACTORY, "f1"), ("factoryd_image", "image-1"), (SERVER, "ours")];
        assert!(marks.is_our_image(&image(&["factoryd-f1"], &published)));
        let inherited = [published.as_slice(), &[(INSTANCE, "theirs")]].concat();
        assert!(!marks.is_our_image(&image(&[], &inherited)));
        let just_made = [published.as_slice(), &[(INSTANCE, "ours")]].concat();
        assert!(marks.is_our_image(&image(&[], &just_made)), "before it has its tag");
        assert!(!Marks::new("f2").is_our_image(&image(&["factoryd-f1"], &published)), "another factory's");
        assert!(!marks.is_our_image(&image(&["factoryd-f1"], &[])), "a tag alone");
    }

    #[test]
    fn names_like_ours_are_not_ours() {
        let marks = Marks::new("f1");
        assert_eq!(marks.keypair_build(&marks.keypair(BuildNo(7), "test")), Some(BuildNo(7)));
        for name in [
            "factoryd-f1",
            "factoryd-f1-7",
            "factoryd-f1-7-",
            "factoryd-7-test",
            "factoryd-f2-7-test",
            "factoryd-f1-x-test",
        ] {
            assert_eq!(marks.keypair_build(name), None, "{name}");
        }
        assert_eq!(marks.described_build(&marks.description(BuildNo(7), "test")), Some(BuildNo(7)));
        assert_eq!(marks.described_build("factoryd-f1 build of mine"), None);
        let server = Server { name: "factoryd-7-test".to_owned(), ..Server::default() };
        assert_eq!(marks.server_build(&server), None);
    }

    #[test]
    fn an_image_is_the_disks_that_it_says() {
        let sealed = "sealed-7-0123456789abcdef";
        let published = "image-1b4e28ba-2fa1-41d2-883f-0016d3cca427";
        let both = image(&[], &[("factoryd_sealed", sealed), ("factoryd_image", published), ("factoryd_base", "x")]);
        assert_eq!(Marks::disks(&both), [DiskId::new(sealed), DiskId::new(published)]);
        assert_eq!(property(&DiskId::new(sealed)).as_deref(), Some("factoryd_sealed"));
        assert_eq!(property(&foreign("1")), None);
        assert_eq!(foreign_image(&foreign("1")), Some("1"));
    }
}
