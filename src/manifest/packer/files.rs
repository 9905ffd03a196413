//! The provisioner `file`: files and directories of the repository that are copied into the guest.

use super::super::fault::quoted;
use super::super::reader::Reads;
use super::keys::{Keys, Reader, Said};
use super::provisioners::{Gives, Made, check};
use crate::domain::expression::Text;
use crate::domain::pipeline::Action;

/// A file provisioner.
pub(super) fn read(reader: &mut Reader<'_>, keys: &Keys) -> Option<Gives> {
    check(reader, keys, &["source", "sources", "destination", "direction", "generated"], &[]);
    let (before, wrongs) = (reader.faults.len(), reader.wrongs());
    match reader.plain(keys, "direction") {
        Some((direction, span)) if direction == "download" => {
            let help =
                "a guest's files are not taken out while it is made; test steps leave reports, `archive` keeps them";
            reader.fault(span, "unsupported-key", "`direction: download` is not understood", help);
        }
        Some((direction, span)) if direction != "upload" => {
            reader.fault(
                span,
                "unknown-word",
                format!("`direction` can't be {}", quoted(&direction)),
                "it is `upload`",
            );
        }
        _ => {}
    }
    if reader.flag(keys, "generated") == Some(true) {
        let help = "only files of the repository can be copied: commit it, or make it in the guest";
        reader.fault(keys.place("generated"), "unsupported-key", "`generated` files are not understood", help);
    }
    let mut sources = reader.texts(keys, "sources").unwrap_or_default();
    sources.extend(reader.text(keys, "source"));
    if sources.is_empty() {
        lacks(reader, keys, "source", wrongs);
    }
    let Some(destination) = reader.text(keys, "destination") else {
        lacks(reader, keys, "destination", wrongs);
        return None;
    };
    reader.count_text("destination", &destination);
    let to = reader.build_text(&destination, "destination")?;
    let made: Vec<Made> = sources.iter().filter_map(|source| upload(reader, source, &to)).collect();
    (reader.faults.len() == before).then(|| Gives { made, ..Gives::default() })
}

/// Says that a key is missing or empty, unless something that is said already is why.
fn lacks(reader: &mut Reader<'_>, keys: &Keys, name: &str, before: (usize, usize)) {
    if reader.wrongs() == before {
        reader.fault(keys.span, "missing-key", format!("{} lacks `{name}`", keys.what), "");
    }
}

fn upload(reader: &mut Reader<'_>, source: &Said, to: &Text) -> Option<Made> {
    let place = reader.needed(source, "source", Reads::All)?;
    reader.count_path("source", &place);
    let action = Action::Upload { from: place.step, to: to.clone(), mode: None, keeps_name: !place.has_slash };
    Some(Made { action, line: Some(source.span.line) })
}
