//! Checking: from values by key to settings that hold together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::fault::{ConfigError, Fault, Place};
use super::fragment::{Group, Merged, Value};
use super::keys::nearest;
use super::{Base, Download, Limits, Origin, Repository, Sandbox, SecretSource, Server, Settings, units};
use crate::domain::id::{Branch, Digest, DriverName, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::DiskFormat;
use crate::domain::retention::Retention;

/// The settings, or every fault.
pub(super) fn settings(merged: Merged) -> Result<Settings, ConfigError> {
    let Merged { groups, faults } = merged;
    let mut checker = Checker { faults };
    let of = |section: &str| groups.get(section).map(Vec::as_slice).unwrap_or_default();
    let defaults = Settings::default();
    let top = of("").first();
    let mut settings = Settings {
        files: Vec::new(),
        state_directory: path(top, "state_directory").unwrap_or(defaults.state_directory),
        base_directories: paths(top, "base_directories"),
        default_driver: text(top, "default_driver").map_or(defaults.default_driver, |(text, _)| DriverName::new(text)),
        server: server(of("server").first(), defaults.server),
        repositories: of("repository").iter().filter_map(|group| checker.repository(group)).collect(),
        drivers: of("driver").iter().filter_map(|group| checker.driver(group)).collect(),
        bases: of("base").iter().filter_map(|group| checker.base(group)).collect(),
        limits: limits(of("limits").first()),
        retention: retention(of("retention").first(), defaults.retention),
        secrets: of("secrets").iter().filter_map(|group| checker.secret(group)).collect(),
        sandbox: Sandbox { required: true },
        download: checker.download(of("download").first()),
    };
    // Looked at with the tables that are written, since one that has a fault is not among the settings.
    checker.unique(of("repository"));
    if of("repository").is_empty() {
        settings.repositories = defaults.repositories;
    }
    if of("driver").is_empty() {
        settings.drivers = defaults.drivers;
    }
    checker.copies(of("driver"), &settings.drivers);
    let names: BTreeSet<&str> = of("driver").iter().map(|group| group.name.as_str()).collect();
    checker.default_driver(top, &settings, &names);
    settings.sandbox = Sandbox { required: flag(of("sandbox").first(), "required").unwrap_or(true) };
    checker.faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    if checker.faults.is_empty() { Ok(settings) } else { Err(ConfigError::Faults { faults: checker.faults }) }
}

fn found<'g>(group: Option<&'g Group>, key: &str) -> Option<&'g (Value, Place)> {
    group?.values.get(key)
}

pub(super) fn text<'g>(group: Option<&'g Group>, key: &str) -> Option<(&'g str, &'g Place)> {
    match found(group, key) {
        Some((Value::Text(text), place)) => Some((text, place)),
        _ => None,
    }
}

pub(super) fn texts<'g>(group: Option<&'g Group>, key: &str) -> Option<(&'g [String], &'g Place)> {
    match found(group, key) {
        Some((Value::Texts(texts), place)) => Some((texts, place)),
        _ => None,
    }
}

pub(super) fn path(group: Option<&Group>, key: &str) -> Option<PathBuf> {
    match found(group, key) {
        Some((Value::Path(path), _)) => Some(path.clone()),
        _ => None,
    }
}

fn paths(group: Option<&Group>, key: &str) -> Vec<PathBuf> {
    match found(group, key) {
        Some((Value::Paths(paths), _)) => paths.clone(),
        _ => Vec::new(),
    }
}

pub(super) fn count(group: Option<&Group>, key: &str) -> Option<u32> {
    match found(group, key) {
        Some((Value::Count(count), _)) => Some(*count),
        _ => None,
    }
}

pub(super) fn size(group: Option<&Group>, key: &str) -> Option<u64> {
    match found(group, key) {
        Some((Value::Size(size), _)) => Some(*size),
        _ => None,
    }
}

fn time(group: Option<&Group>, key: &str) -> Option<Duration> {
    match found(group, key) {
        Some((Value::Time(time), _)) => Some(*time),
        _ => None,
    }
}

pub(super) fn flag(group: Option<&Group>, key: &str) -> Option<bool> {
    match found(group, key) {
        Some((Value::Flag(flag), _)) => Some(*flag),
        _ => None,
    }
}

fn server(group: Option<&Group>, defaults: Server) -> Server {
    Server {
        socket: path(group, "socket").unwrap_or(defaults.socket),
        group: text(group, "group").map_or(defaults.group, |(text, _)| text.to_owned()),
    }
}

fn limits(group: Option<&Group>) -> Limits {
    let defaults = Limits::default();
    Limits {
        builds: count(group, "builds").unwrap_or(defaults.builds),
        memory: size(group, "memory").or(defaults.memory),
        disk_free: size(group, "disk_free").unwrap_or(defaults.disk_free),
        log: size(group, "log").unwrap_or(defaults.log),
        push: size(group, "push").unwrap_or(defaults.push),
    }
}

fn retention(group: Option<&Group>, defaults: Retention) -> Retention {
    let age = time(group, "age").and_then(|age| u64::try_from(age.as_millis()).ok());
    let keep = count(group, "keep").and_then(|keep| usize::try_from(keep).ok());
    Retention { keep: keep.unwrap_or(defaults.keep), age: age.or(defaults.age) }
}

/// Collects faults while it checks.
pub(super) struct Checker {
    faults: Vec<Fault>,
}

impl Checker {
    pub(super) fn fault(&mut self, place: &Place, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Fault::new(place, key, message, help));
    }

    /// A word out of a few.
    pub(super) fn word<T: Copy>(&mut self, group: &Group, key: &str, known: &[(&str, T)]) -> Option<T> {
        let (word, place) = text(Some(group), key)?;
        if let Some((_, value)) = known.iter().find(|(known, _)| *known == word) {
            return Some(*value);
        }
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        let help = match nearest(word, words.iter().copied()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("write one of {}", words.join(", ")),
        };
        self.fault(place, &format!("{}.{key}", group.title), format!("there is no {word:?}"), help);
        None
    }

    /// Of some keys, exactly one must be there. One whose value was wrong has its fault already, and then more said
    /// would be noise.
    fn one_of(&mut self, group: &Group, keys: &[&str]) -> bool {
        let given: Vec<&&str> = keys.iter().filter(|key| group.values.contains_key(**key)).collect();
        if given.len() == 1 {
            return true;
        }
        let has_fault =
            self.faults.iter().any(|fault| keys.iter().any(|key| fault.key == format!("{}.{key}", group.title)));
        if !has_fault {
            let message = if given.is_empty() { "says too little" } else { "says too much" };
            let help = format!("it needs one of {}, and one only", keys.join(", "));
            self.fault(&group.place, &group.title, message, help);
        }
        false
    }

    pub(super) fn missing(&mut self, group: &Group, key: &str, why: &str) {
        let full = format!("{}.{key}", group.title);
        if !self.faults.iter().any(|fault| fault.key == full) {
            self.fault(&group.place, &group.title, format!("{key} is missing"), why);
        }
    }

    fn repository(&mut self, group: &Group) -> Option<Repository> {
        let g = Some(group);
        let name = match text(g, "name") {
            Some((name, place)) => {
                if !is_name(name) {
                    let help = "a name has letters, digits, `-`, `_` and `.`, begins with a letter or a digit and does not end in .git";
                    self.fault(place, "repository.name", format!("{name:?} is no name"), help);
                }
                Some(RepoName::new(name))
            }
            None => {
                self.missing(group, "name", "builds and the repository's directory are named after it");
                None
            }
        };
        let origin = self.origin(group);
        let branches =
            texts(g, "branches").map(|(texts, _)| texts.iter().map(|text| Branch::from(text.as_str())).collect());
        let poll = time(g, "poll").unwrap_or(Duration::from_secs(60));
        let network_full = self.pipelines(group);
        Some(Repository { name: name?, origin: origin?, branches: branches.unwrap_or_default(), poll, network_full })
    }

    fn origin(&mut self, group: &Group) -> Option<Origin> {
        if let Some((Value::Flag(false), place)) = found(Some(group), "receive") {
            if text(Some(group), "url").is_none() {
                self.fault(
                    place,
                    "repository.receive",
                    "false says too little",
                    "give its url, or set receive to true",
                );
            }
        } else if !self.one_of(group, &["url", "receive"]) {
            return None;
        }
        let Some((url, place)) = text(Some(group), "url") else { return Some(Origin::Receive) };
        if !is_url(url) {
            let help = "write https://…, ssh://…, user@host:path, file:///… or an absolute path";
            self.fault(place, "repository.url", format!("{url:?} can't be fetched from"), help);
        }
        Some(Origin::Url(url.to_owned()))
    }

    fn pipelines(&mut self, group: &Group) -> Vec<RepoPath> {
        let Some((texts, place)) = texts(Some(group), "network_full") else { return Vec::new() };
        let mut paths = Vec::new();
        for text in texts {
            match RepoPath::new(text).filter(|path| !path.is_root() && !text.starts_with('/')) {
                Some(path) => paths.push(path),
                None => {
                    let help = "write paths below the repository's root: \"pipelines/bundle.yml\"";
                    self.fault(place, "repository.network_full", format!("{text:?} is no pipeline's path"), help);
                }
            }
        }
        paths
    }

    fn unique(&mut self, groups: &[Group]) {
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        for (name, place) in groups.iter().filter_map(|group| text(Some(group), "name")) {
            if let Some(first) = seen.get(name) {
                let message = format!("{name:?} is taken, at {}:{}", first.file.display(), first.line);
                self.fault(place, "repository.name", message, "give it another name");
            } else {
                seen.insert(name, place);
            }
        }
    }

    fn default_driver(&mut self, top: Option<&Group>, settings: &Settings, written: &BTreeSet<&str>) {
        let chosen = &settings.default_driver;
        if settings.drivers.contains_key(chosen) || written.contains(chosen.as_str()) {
            return;
        }
        let names: Vec<&str> = written.iter().copied().collect();
        let help = match nearest(chosen.as_str(), names.iter().copied()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("set it to the name of a driver: {}", names.join(", ")),
        };
        let place = text(top, "default_driver").map(|(_, place)| place.clone());
        let fallback = || {
            let file = settings.files.first().cloned().unwrap_or_default();
            Place { file: file.into(), line: 1, column: 1 }
        };
        let place = place.unwrap_or_else(fallback);
        self.fault(&place, "default_driver", format!("there is no driver {:?}", chosen.as_str()), help);
    }

    fn base(&mut self, group: &Group) -> Option<(String, Base)> {
        let g = Some(group);
        let formats = [("qcow2", DiskFormat::Qcow2), ("raw", DiskFormat::Raw)];
        let format = self.word(group, "format", &formats);
        if !self.one_of(group, &["path", "url", "image"]) {
            return None;
        }
        let base = if let Some((image, _)) = text(g, "image") {
            self.idle(group, &["format", "sha256"], "an image of the catalogue has its own");
            Base::Image(image.to_owned())
        } else {
            if text(g, "format").is_none() {
                self.missing(group, "format", "write format = \"qcow2\" or \"raw\": it is never guessed");
            }
            match path(g, "path") {
                Some(path) => {
                    self.idle(group, &["sha256"], "a file of this host is hashed, and not compared");
                    Base::Path { path, format: format? }
                }
                None => self.download_base(group, format)?,
            }
        };
        Some((group.name.clone(), base))
    }

    fn download_base(&mut self, group: &Group, format: Option<DiskFormat>) -> Option<Base> {
        let (url, place) = text(Some(group), "url")?;
        let sum = self.sum(group);
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            let key = format!("{}.url", group.title);
            self.fault(place, &key, format!("{url:?} can't be downloaded"), "write https://… or http://…");
        }
        if text(Some(group), "sha256").is_none() {
            self.missing(group, "sha256", "what is downloaded is used only if its bytes sum to it");
        }
        Some(Base::Url { url: url.to_owned(), sha256: sum?, format: format? })
    }

    fn sum(&mut self, group: &Group) -> Option<Digest> {
        let (sum, place) = text(Some(group), "sha256")?;
        let digest = sum.parse().ok();
        if digest.is_none() {
            let key = format!("{}.sha256", group.title);
            self.fault(place, &key, format!("{sum:?} is no SHA-256 sum"), "write its 64 hexadecimal digits");
        }
        digest
    }

    /// A key that has no effect would let somebody believe that it has one.
    pub(super) fn idle(&mut self, group: &Group, keys: &[&str], why: &str) {
        for key in keys {
            if let Some((_, place)) = group.values.get(key) {
                self.fault(
                    place,
                    &format!("{}.{key}", group.title),
                    "has no effect here",
                    format!("take it out: {why}"),
                );
            }
        }
    }

    fn secret(&mut self, group: &Group) -> Option<(String, SecretSource)> {
        if !self.one_of(group, &["file", "credential"]) {
            return None;
        }
        let source = match (path(Some(group), "file"), text(Some(group), "credential")) {
            (Some(file), _) => SecretSource::File(file),
            (None, Some((name, place))) => {
                if name.contains('/') || name.starts_with('.') {
                    let key = format!("{}.credential", group.title);
                    self.fault(
                        place,
                        &key,
                        format!("{name:?} is no credential's name"),
                        "write the name that systemd gives it",
                    );
                }
                SecretSource::Credential(name.to_owned())
            }
            (None, None) => return None,
        };
        Some((group.name.clone(), source))
    }

    fn download(&mut self, group: Option<&Group>) -> Download {
        let Some((texts, place)) = texts(group, "allow_private") else { return Download::default() };
        let mut allow_private = Vec::new();
        for text in texts {
            match units::network(text) {
                Some(network) => allow_private.push(network),
                None => {
                    let message = format!("{text:?} is no address");
                    self.fault(place, "download.allow_private", message, "write \"10.0.0.0/8\" or \"192.168.1.5\"");
                }
            }
        }
        Download { allow_private }
    }
}

/// Names become directories and parts of file names.
pub(super) fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().all(legal)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= 100
        && !name.to_ascii_lowercase().ends_with(".git")
}

/// Neither an option for git (`-u…`) nor one of its helpers (`ext::…`), which would run a program.
fn is_url(url: &str) -> bool {
    let schemes = ["https://", "http://", "ssh://", "git+ssh://", "file:///", "/"];
    let scp = url.split_once(':').is_some_and(|(host, path)| {
        host.contains('@') && !host.contains('/') && !path.is_empty() && !path.starts_with(':')
    });
    let clean = !url.contains(|character: char| character.is_control() || character.is_whitespace());
    clean && !url.starts_with('-') && (scp || schemes.iter().any(|scheme| url.starts_with(scheme)))
}
