//! What may stand at a template's root, and what of it only has to be written rightly.

use super::super::fault::{Fault, Source, did_you_mean, quoted};
use super::super::node::{Key, Kind, Node};
use super::functions::PACKER_VERSION;
use crate::domain::value::Value;

/// The keys of a template's root.
const ROOT: [&str; 9] = [
    "builders",
    "provisioners",
    "post-processors",
    "variables",
    "sensitive-variables",
    "description",
    "min_packer_version",
    "push",
    "error-cleanup-provisioner",
];

/// The first version of packer that nobody knows to read JSON: all of 1.x do.
const UNKNOWN_FROM: [u32; 3] = [2, 0, 0];

/// The root's keys: those of packer, and comments, which begin with `_` and are texts.
pub(super) fn check(source: &Source, entries: &[(Key, Node)], faults: &mut Vec<Fault>, warnings: &mut Vec<Fault>) {
    for (key, node) in entries {
        if key.text.eq_ignore_ascii_case("min_packer_version") {
            warnings.extend(newer(source, node));
        }
        if key.text.starts_with('_') {
            if node.text().is_none() {
                let fault =
                    source.fault(node.span, "wrong-type", format!("the comment {} takes a text", quoted(&key.text)));
                faults.push(fault.with_help("packer refuses other values of keys that begin with `_`"));
            }
        } else if !ROOT.iter().any(|name| name.eq_ignore_ascii_case(&key.text)) {
            let meant = did_you_mean(&key.text, ROOT).map(|meant| format!("did you mean `{meant}`?"));
            let fault =
                source.fault(key.span, "unknown-key", format!("unknown key {} in a template", quoted(&key.text)));
            faults.push(fault.with_hint(meant.unwrap_or_default()).with_help(format!("keys are {}", ROOT.join(", "))));
        } else if let Some((message, help)) = wrong(&key.text, node) {
            faults.push(source.fault(node.span, "wrong-type", message).with_help(help));
        }
    }
}

/// What is wrong with a value that has no effect of its own.
fn wrong(name: &str, node: &Node) -> Option<(String, &'static str)> {
    if matches!(node.kind, Kind::Scalar { value: Value::Null, .. }) {
        return None;
    }
    match name.to_ascii_lowercase().as_str() {
        "description" if node.text().is_none() => Some(("`description` takes a text".to_owned(), "")),
        "sensitive-variables" if !matches!(node.kind, Kind::List(_)) => {
            Some(("`sensitive-variables` takes a list of names".to_owned(), ""))
        }
        "min_packer_version" => {
            let wanted = node.text().unwrap_or_default();
            match version(wanted) {
                _ if wanted.is_empty() && node.text().is_some() => None,
                None => Some(("`min_packer_version` takes a version such as `1.6.0`".to_owned(), "")),
                Some(least) if least >= UNKNOWN_FROM => Some((
                    format!(
                        "the template asks for packer {}, and is read as {PACKER_VERSION} reads it",
                        quoted(wanted)
                    ),
                    "lower it if the template uses nothing that is newer than packer 1.x",
                )),
                Some(_) => None,
            }
        }
        _ => None,
    }
}

/// Says that a newer packer is asked for than the one whose behaviour is followed. What is new in it and not understood
/// is a fault at its own key, so nothing is lost by reading on.
fn newer(source: &Source, node: &Node) -> Option<Fault> {
    let wanted = node.text()?;
    let least = version(wanted).filter(|least| *least < UNKNOWN_FROM)?;
    if Some(least) <= version(PACKER_VERSION) {
        return None;
    }
    let message = format!("the template asks for packer {}, and is read as {PACKER_VERSION} reads it", quoted(wanted));
    let fault = source.fault(node.span, "packer-version", message);
    Some(fault.with_help("keys that only a newer packer knows are faults; what both know is done as the older does it"))
}

/// The numbers of a version; what comes behind a `-` makes it no newer.
fn version(text: &str) -> Option<[u32; 3]> {
    let numbers = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next().unwrap_or_default();
    let mut version = [0; 3];
    for (index, number) in numbers.split('.').enumerate() {
        *version.get_mut(index)? = number.parse().ok()?;
    }
    Some(version)
}
