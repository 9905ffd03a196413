//! The stages without steps: `boot`, `snapshot` and `render`, with the defaults of their keys.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{BOOT, IMAGE_PATH, IMAGE_RECIPE, IMAGE_URL, RECIPE, RECIPE_FILE, RENDER, SNAPSHOT};
use super::node::{Kind, Node};
use super::reader::Reader;
use super::steps;
use crate::domain::expression::Text;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{
    BaseImage, Boot, DiskFormat, HostKey, Lint, MACHINE_MEMORY, Recipe, RecipeContent, RecipeFile, Render, Snapshot,
};
use crate::domain::value::Value;

/// The user that today's images have.
const USER: &str = "cloud";
const CPUS: u32 = 1;
/// Emulated machines take a minute to boot; a first boot that grows its disk takes several.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
const FILE_MODE: u32 = 0o644;
const FORMATS: [(&str, DiskFormat); 2] = [("qcow2", DiskFormat::Qcow2), ("raw", DiskFormat::Raw)];

/// `boot`.
pub(super) fn boot(reader: &mut Reader<'_>, node: &Node) -> Option<Boot> {
    let record = reader.record(node, "boot", BOOT)?;
    let host_keys = [("verified", HostKey::Verified), ("first-seen", HostKey::FirstSeen)];
    let user = record.get("user").and_then(|node| reader.plain(node, "user"));
    if let (Some(name), Some(node)) = (&user, record.get("user"))
        && !is_login(name)
    {
        reader.wrong(node, "user", "a login name: lower-case letters, digits, `_` and `-`");
    }
    let cpus = record.get("cpus").and_then(|node| reader.count(node, "cpus", 1, 256));
    let memory = reader.size(record.get("memory"), "memory");
    let disk = reader.size(record.get("disk"), "disk");
    let host_key = reader.word(record.get("host_key"), "host_key", &host_keys);
    let timeout = reader.duration(record.get("timeout"), "timeout");
    let changes = steps::changes(reader, record.get("changes"));
    // What the pipeline does not say, the builder of its packer template does.
    let machine = reader.found.machine.clone().unwrap_or_default();
    Some(Boot {
        image: image(reader, record.get("image")?)?,
        user: user.or(machine.user).unwrap_or_else(|| USER.to_owned()),
        cpus: cpus.and_then(|cpus| u32::try_from(cpus).ok()).or(machine.cpus).unwrap_or(CPUS),
        memory: memory.or(machine.memory).unwrap_or(MACHINE_MEMORY),
        disk: disk.or(machine.disk),
        host_key: host_key.unwrap_or_default(),
        timeout: timeout.or(machine.timeout).unwrap_or(BOOT_TIMEOUT),
        changes,
        terminal: machine.terminal,
        placement: machine.placement,
    })
}

/// `snapshot`.
pub(super) fn snapshot(reader: &mut Reader<'_>, node: &Node) -> Option<Snapshot> {
    let record = reader.record(node, "snapshot", SNAPSHOT)?;
    let properties = reader.text_map(record.get("properties"), "properties");
    let min_disk = record.get("min_disk").and_then(|node| reader.count(node, "min_disk", 0, 1_000_000));
    let written = record.get("name")?;
    let name = reader.text(written, "name")?;
    if name.to_string().trim().is_empty() {
        reader.wrong(written, "name", "a text that is not empty");
    }
    Some(Snapshot { name, properties, min_disk: min_disk.and_then(|number| u64::try_from(number).ok()).unwrap_or(0) })
}

/// `render`; `vars` are what its templates see.
pub(super) fn render(reader: &mut Reader<'_>, node: &Node, vars: Arc<Value>) -> Option<Render> {
    let default = RepoPath::new("output")?;
    if matches!(node.kind, Kind::Scalar { value: Value::Null, .. }) {
        return Some(Render { templates: default, vars, lint: Lint::default() });
    }
    let record = reader.record(node, "render", RENDER)?;
    let templates = record.get("templates").map(|node| reader.bundle_path(node, "templates"));
    let lint = reader.word(record.get("lint"), "lint", &[("warn", Lint::Warn), ("error", Lint::Error)]);
    Some(Render { templates: templates.flatten().unwrap_or(default), vars, lint: lint.unwrap_or_default() })
}

/// `boot.image`: a name, or one of the maps, told apart by their first keys.
fn image(reader: &mut Reader<'_>, node: &Node) -> Option<BaseImage> {
    if !matches!(node.kind, Kind::Map(_)) {
        return reader.plain(node, "image").map(BaseImage::Named);
    }
    if node.get("path").is_some() {
        return image_file(reader, node);
    }
    if node.get("url").is_some() {
        return download(reader, node);
    }
    if node.get("mmdebstrap").is_some() {
        let record = reader.record(node, "image", IMAGE_RECIPE)?;
        return recipe(reader, record.get("mmdebstrap")?).map(BaseImage::Mmdebstrap);
    }
    reader.wrong(node, "image", "a name, `{path, format}`, `{url, sha256, format}` or `{mmdebstrap: …}`");
    None
}

fn image_file(reader: &mut Reader<'_>, node: &Node) -> Option<BaseImage> {
    let record = reader.record(node, "image", IMAGE_PATH)?;
    let format = reader.word(record.get("format"), "format", &FORMATS);
    let written = record.get("path")?;
    let path = reader.plain(written, "path")?;
    if !path.starts_with('/') {
        reader.wrong(written, "path", "an absolute path of the host, below a directory that its configuration names");
    }
    Some(BaseImage::Path { path, format: format? })
}

fn download(reader: &mut Reader<'_>, node: &Node) -> Option<BaseImage> {
    let record = reader.record(node, "image", IMAGE_URL)?;
    let format = reader.word(record.get("format"), "format", &FORMATS);
    let sum = record.get("sha256").and_then(|node| Some((reader.plain(node, "sha256")?, node)));
    let sha256 = sum.and_then(|(text, node)| {
        let sum = text.parse().ok();
        if sum.is_none() {
            reader.wrong(node, "sha256", "64 hexadecimal digits");
        }
        sum
    });
    let written = record.get("url")?;
    let url = reader.plain(written, "url")?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        reader.wrong(written, "url", "an address that begins with http:// or https://");
    }
    Some(BaseImage::Url { url, sha256: sha256?, format: format? })
}

fn recipe(reader: &mut Reader<'_>, node: &Node) -> Option<Recipe> {
    let record = reader.record(node, "mmdebstrap", RECIPE)?;
    let mut packages = Vec::new();
    for node in reader.list(record.get("packages"), "packages", "names of packages") {
        let Some(package) = reader.plain(node, "packages") else { continue };
        if !is_package(&package) {
            reader.wrong(node, "packages", "names of Debian packages");
        }
        packages.push(package);
    }
    let files = reader.list(record.get("files"), "files", "files");
    let files = files.iter().filter_map(|node| recipe_file(reader, node)).collect();
    let written = record.get("suite")?;
    let suite = reader.plain(written, "suite")?;
    if !is_package(&suite) {
        reader.wrong(written, "suite", "the name of a Debian suite, such as bookworm");
    }
    Some(Recipe { suite, packages, files })
}

fn recipe_file(reader: &mut Reader<'_>, node: &Node) -> Option<RecipeFile> {
    let record = reader.record(node, "files", RECIPE_FILE)?;
    let text = record.get("text").map(|node| reader.text(node, "text"));
    let link = record.get("link").map(|node| reader.plain(node, "link"));
    let mode = reader.mode(record.get("mode"), "mode");
    let written = record.get("to")?;
    let to = reader.plain(written, "to")?;
    if !to.starts_with('/') || to.split('/').any(|part| part == "..") || to.ends_with('/') {
        reader.wrong(written, "to", "an absolute path in the image, without `..`");
    }
    let content = match (text, link) {
        (Some(text), None) => {
            RecipeContent::Text { text: known(reader, node, text?)?, mode: mode.unwrap_or(FILE_MODE) }
        }
        (None, Some(target)) => RecipeContent::Link { target: target? },
        _ => {
            let help = "a file has its content in `text`, a symbolic link its target in `link`";
            reader.fault(node.span, "bad-file", "a file of a recipe has either `text` or `link`", help);
            return None;
        }
    };
    Some(RecipeFile { to, content })
}

/// A text that may be empty, but holds no `build.…`: a base image belongs to no build.
fn known(reader: &mut Reader<'_>, node: &Node, text: Text) -> Option<String> {
    if !text.is_open() {
        return Some(text.to_string());
    }
    if super::bind::is_late(&text) {
        let help = "a base image is made once for many builds";
        reader.fault(node.span, "late-expression", "a recipe can't hold `build.…`", help);
    }
    None
}

fn is_login(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    first && name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
}

/// The characters of package names and suites; a leading `-` would be an option of the tool that gets it.
fn is_package(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || "+.-:~/".contains(c))
}
