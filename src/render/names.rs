//! Where the result of a template goes: its path without `.j2` or `.hbs`, beneath the directory of the results.

use std::collections::BTreeMap;

use super::{Code, Engine, Failed, Planned, Template};
use crate::domain::path::RepoPath;

/// The engine for a file of this name; `None` where it is no template.
pub(super) fn engine(name: &[u8]) -> Option<Engine> {
    if name.ends_with(b".j2") {
        Some(Engine::Native)
    } else if name.ends_with(b".hbs") {
        Some(Engine::Handlebars)
    } else {
        None
    }
}

/// Every template with its result's path, in the order of the templates' paths; or all that is wrong with the paths.
pub(super) fn plan(mut sources: Vec<Template>) -> Result<Vec<Planned>, Vec<Failed>> {
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let mut planned = Vec::new();
    let mut failed = Vec::new();
    for source in sources {
        let Some(engine) = engine(source.path.name()) else { continue };
        match result(&source.path, engine) {
            Ok(result) => planned.push(Planned { source, result, engine }),
            Err(message) => failed.push(fault(&source.path, message, "rename the template")),
        }
    }
    failed.extend(collisions(&planned));
    if failed.is_empty() { Ok(planned) } else { Err(failed) }
}

/// The path of a template's result. Every `.j2` in the path vanishes, since that is what today's factory does.
pub(super) fn result(template: &RepoPath, engine: Engine) -> Result<RepoPath, String> {
    let bytes = template.as_bytes();
    let path = match engine {
        Engine::Native | Engine::Ansible => without(bytes, b".j2"),
        Engine::Handlebars => bytes.strip_suffix(b".hbs").unwrap_or(bytes).to_vec(),
    };
    if path.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err(format!("its result would be called `{}`", String::from_utf8_lossy(&path)));
    }
    RepoPath::new(path).ok_or_else(|| "its result would leave the directory".to_owned())
}

fn without(mut text: &[u8], piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some(first) = text.first() {
        if let Some(rest) = text.strip_prefix(piece) {
            text = rest;
        } else {
            out.push(*first);
            text = &text[1..];
        }
    }
    out
}

/// Two templates with one result, or a result that would have to be a file and a directory.
fn collisions(planned: &[Planned]) -> Vec<Failed> {
    let mut taken: BTreeMap<&RepoPath, &RepoPath> = BTreeMap::new();
    let mut failed = Vec::new();
    for one in planned {
        if let Some(other) = taken.insert(&one.result, &one.source.path) {
            let message = format!("its result, {}, is also that of {other}", one.result);
            failed.push(fault(&one.source.path, message, "rename one of the two"));
        }
    }
    for one in planned {
        let mut above = one.result.parent();
        while !above.is_root() {
            if let Some(other) = taken.get(&above) {
                let message = format!("its result, {}, would lie below {above}, the result of {other}", one.result);
                failed.push(fault(&one.source.path, message, "rename one of the two"));
            }
            above = above.parent();
        }
    }
    failed
}

pub(super) fn fault(template: &RepoPath, message: impl Into<String>, help: &str) -> Failed {
    let (message, help) = (message.into(), help.to_owned());
    Failed { template: template.clone(), result: None, code: Code::Name, line: 1, column: 1, message, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(paths: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let source = |path: &&str| Template { path: RepoPath::new(path).expect("inside"), content: Vec::new() };
        plan(paths.iter().map(source).collect())
            .map(|planned| planned.iter().map(|one| one.result.to_string()).collect())
            .map_err(|failed| failed.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_j2_of_a_path_vanishes_and_hbs_only_at_its_end() {
        let paths = ["a.yml.j2", "b.j2.yml.j2", "c.hbs.hbs", "dir.j2/d.j2", "static.yml", "x.j.j22.j2"];
        assert_eq!(plans(&paths).expect("names"), ["a.yml", "b.yml", "c.hbs", "dir/d", "x.j2"]);
    }

    #[test]
    fn a_result_without_a_name_or_outside_is_a_fault() {
        insta::assert_debug_snapshot!(plans(&[".j2", "...j2", "a/.hbs", ".j2/b.j2"]), @r#"
        Err(
            [
                "...j2:1:1: its result would be called `..`",
                ".j2:1:1: its result would be called ``",
                ".j2/b.j2:1:1: its result would be called `/b`",
                "a/.hbs:1:1: its result would be called `a/`",
            ],
        )
        "#);
    }

    #[test]
    fn two_templates_never_share_a_result() {
        insta::assert_debug_snapshot!(plans(&["a.yml.hbs", "a.yml.j2", "b.j2", "b/c.j2"]), @r#"
        Err(
            [
                "a.yml.j2:1:1: its result, a.yml, is also that of a.yml.hbs",
                "b/c.j2:1:1: its result, b/c, would lie below b, the result of b.j2",
            ],
        )
        "#);
    }
}
