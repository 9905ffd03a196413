//! Where people find what a build leaves: the paths at which Jenkins archived it, from a bundle's directory and its names.

use super::path::RepoPath;

/// The build's log, at the root.
pub const LATEST_LOG: &str = "packer.latest.log";

/// The directories of a bundle's log and outputs: `images/target/bundle-web` for `images/bundle-web`,
/// `os/target/debian` for `os/debian`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<RepoPath>);

impl Places {
    /// The directory of a bundle, and one more where its vars call it by another name than its directory's: scripts may
    /// know either. A name that is no single part of a path is no directory.
    pub fn of(bundle: &RepoPath, called: Option<&str>) -> Self {
        let called = called
            .map(str::as_bytes)
            .filter(|name| RepoPath::new(name).is_some_and(|path| !path.is_root() && path.name() == *name));
        let mut places = Vec::new();
        for name in [Some(bundle.name()), called].into_iter().flatten() {
            let place = bundle.parent().join("target").and_then(|target| target.join(name));
            places.extend(place.filter(|place| !places.contains(place)));
        }
        Self(places)
    }

    /// The paths of a rendered file.
    pub fn output(&self, file: &RepoPath) -> Vec<RepoPath> {
        self.all(|place| place.join("output")?.join(file.as_bytes()))
    }

    /// The paths of the log of the build that makes an image of this name.
    pub fn stamped_log(&self, image: &str) -> Vec<RepoPath> {
        self.all(|place| place.join(format!("packer.{}.log", image.replace('/', "-"))))
    }

    /// The directories.
    pub fn directories(&self) -> &[RepoPath] {
        &self.0
    }

    fn all(&self, path: impl Fn(&RepoPath) -> Option<RepoPath>) -> Vec<RepoPath> {
        self.0.iter().filter_map(path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(bundle: &str, called: Option<&str>) -> Vec<String> {
        let Places(places) = Places::of(&RepoPath::new(bundle).expect("a path"), called);
        places.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bundle_has_its_place_beside_the_others_of_its_directory() {
        assert_eq!(places("images/bundle-web", Some("bundle-web")), ["images/target/bundle-web"]);
        assert_eq!(places("os/debian-jessie", Some("debian-jessie")), ["os/target/debian-jessie"]);
        assert_eq!(places("web", None), ["target/web"]);
    }

    #[test]
    fn a_bundle_of_two_names_has_two_places() {
        let webmail = ["images/target/bundle-webmail-antispam", "images/target/bundle-webmail"];
        assert_eq!(places("images/bundle-webmail-antispam", Some("bundle-webmail")), webmail);
        assert_eq!(places("os/xenial", Some("Ubuntu 16.04"))[1], "os/target/Ubuntu 16.04");
    }

    #[test]
    fn no_name_leads_out_of_its_place() {
        for name in ["", ".", "..", "../../packer.latest.log", "a/b", "a/", "a\0b"] {
            assert_eq!(places("images/web", Some(name)), ["images/target/web"], "{name:?}");
        }
        let log = Places::of(&RepoPath::new("images/web").expect("a path"), None).stamped_log("../../../web");
        assert_eq!(log[0].to_string(), "images/target/web/packer...-..-..-web.log");
    }
}
