//! What looks wrong in a result. Nothing here makes a rendering fail.

use super::{Code, Rendered, limits};
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};
use crate::manifest::fault::{Fault, Source};
use crate::manifest::{Output, check_output};

/// How deep static files are looked for.
const DEPTH: usize = 16;
/// Larger files are no outputs that anybody wrote.
const BYTES: u64 = 1 << 20;

/// What looks wrong in a result, with its places in the result.
pub(super) fn result(path: &RepoPath, bytes: &[u8], image: &str) -> Vec<Fault> {
    let text = String::from_utf8_lossy(bytes);
    check_output(&Output { file: &path.to_string(), text: &text, image: Some(image) })
}

/// What looks wrong in the files beside the templates, which are neither rendered nor copied.
///
/// # Errors
/// When the directory can't be read.
pub fn statics(tree: &dyn Tree, directory: &RepoPath) -> Result<Vec<Fault>, TreeError> {
    let mut faults = Vec::new();
    let mut entries = 0;
    let mut todo = vec![(directory.clone(), 0)];
    while let Some((at, depth)) = todo.pop() {
        for Entry { name, kind, .. } in tree.list(&at)? {
            entries += 1;
            let Some(path) = at.join(&name).filter(|_| entries <= limits::TEMPLATES) else { continue };
            match kind {
                EntryKind::Directory if depth < DEPTH => todo.push((path, depth + 1)),
                EntryKind::File | EntryKind::Executable if super::names::engine(&name).is_none() => {
                    let Ok(bytes) = tree.read(&path, BYTES) else { continue };
                    let Ok(text) = std::str::from_utf8(&bytes) else { continue };
                    faults.extend(check_output(&Output { file: &path.to_string(), text, image: None }));
                }
                _ => {}
            }
        }
    }
    faults.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    Ok(faults)
}

/// What looks wrong in a result, as faults of its template, which is what people can change: the line is the same where
/// the template has it.
pub fn in_template(tree: &dyn Tree, directory: &RepoPath, result: &Rendered) -> Vec<Fault> {
    let Some(path) = directory.join(result.template.as_bytes()).filter(|_| !result.warnings.is_empty()) else {
        return Vec::new();
    };
    let text = tree.read(&path, limits::TEMPLATE_BYTES).unwrap_or_default();
    let template = Source::new(path.to_string(), &String::from_utf8_lossy(&text));
    let of_template = |fault: &Fault| {
        let mut fault = fault.clone();
        let written = template.line(fault.line);
        let is_same = written.trim_end() == fault.snippet.as_deref().unwrap_or_default() || written.contains("{{");
        if fault.line > 0 && !is_same {
            fault.message = format!("{} (line {} of the result)", fault.message, fault.line);
        }
        template.name().clone_into(&mut fault.file);
        fault
    };
    result.warnings.iter().map(of_template).collect()
}

/// The word of a result without a name of its own.
pub const BAD_NAME: &str = "output-name";

/// The word of a failure among faults.
pub(super) fn word(code: Code) -> &'static str {
    match code {
        Code::Unreadable => "output-unreadable",
        Code::Name => BAD_NAME,
        Code::Syntax => "output-syntax",
        Code::NotNative => "output-not-native",
        Code::Refused => "output-refused",
        Code::Undefined => "output-undefined",
        Code::Value => "output-value",
        Code::Limit => "output-limit",
    }
}
