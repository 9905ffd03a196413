//! The provisioner `shell`: lines or scripts that are laid into the guest and run there by `execute_command`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::fault::quoted;
use super::super::node::Kind;
use super::super::reader::Reads;
use super::engine::{Piece, Rendered, render};
use super::keys::{Keys, Reader, Said};
use super::provisioners::{Gives, Made, check};
use crate::domain::expression::Text;
use crate::domain::pipeline::{Action, Course, Laid};
use crate::domain::value::Value;

/// The keys that are understood.
const KEYS: [&str; 18] = [
    "inline",
    "script",
    "scripts",
    "environment_vars",
    "env",
    "execute_command",
    "inline_shebang",
    "valid_exit_codes",
    "expect_disconnect",
    "start_retry_timeout",
    "pause_after",
    "binary",
    "remote_path",
    "remote_folder",
    "remote_file",
    "use_env_var_file",
    "env_var_format",
    "skip_clean",
];

/// How long packer tries to start a script again while the guest does not answer.
const START_WITHIN: Duration = Duration::from_secs(300);

/// The code by which packer says that a script cut the connection.
const DISCONNECTED: i64 = 2_300_218;

/// A shell provisioner.
pub(super) fn read(reader: &mut Reader<'_>, keys: &Keys) -> Option<Gives> {
    check(reader, keys, &KEYS, &[]);
    let laid = laid(reader, keys)?;
    let mut course = Course {
        expect_disconnect: reader.flag(keys, "expect_disconnect").unwrap_or(false),
        pause_after: reader.time(keys, "pause_after").unwrap_or_default(),
        ..Course::default()
    };
    let mut codes = reader.numbers(keys, "valid_exit_codes").unwrap_or_default();
    course.expect_disconnect |= codes.contains(&DISCONNECTED);
    codes.retain(|code| *code != DISCONNECTED);
    course.exit_codes = codes.iter().filter_map(|code| i32::try_from(*code).ok()).collect();
    if course.exit_codes != [0] && !course.exit_codes.is_empty() {
        reader.count("valid_exit_codes", &Value::List(codes.into_iter().map(Value::Int).collect()));
    }
    if course.expect_disconnect {
        reader.count("expect_disconnect", &Value::Bool(true));
    }
    let made = actions(reader, keys, &laid)?;
    Some(Gives { made, course, ..Gives::default() })
}

fn actions(reader: &mut Reader<'_>, keys: &Keys, laid: &Laid) -> Option<Vec<Made>> {
    let before = reader.wrongs();
    let inline = reader.texts(keys, "inline").filter(|lines| !lines.is_empty());
    let script = reader.text(keys, "script");
    let scripts = reader.texts(keys, "scripts").filter(|scripts| !scripts.is_empty());
    let scripts = match (script, scripts) {
        (Some(_), Some(_)) => {
            let span = keys.place("scripts");
            reader.fault(span, "two-actions", "`script` and `scripts` can't stand together", "take one of them out");
            return None;
        }
        (Some(script), None) => vec![script],
        (None, scripts) => scripts.unwrap_or_default(),
    };
    match (inline, scripts.as_slice()) {
        (Some(_), [_, ..]) => {
            let help = "a provisioner runs lines or scripts: make two of it";
            reader.fault(keys.place("inline"), "two-actions", "`inline` can't stand with a script", help);
            None
        }
        (None, []) => {
            if reader.wrongs() == before {
                let help = "give it `inline`, `script` or `scripts`";
                reader.fault(keys.span, "missing-key", format!("{} says nothing to run", keys.what), help);
            }
            None
        }
        (Some(lines), []) => Some(vec![Made { action: lines_action(reader, &lines, laid)?, line: None }]),
        (None, scripts) => {
            let made: Vec<Made> = scripts.iter().filter_map(|script| script_action(reader, script, laid)).collect();
            Some(made)
        }
    }
}

fn lines_action(reader: &mut Reader<'_>, lines: &[Said], laid: &Laid) -> Option<Action> {
    reader.count_texts("inline", lines);
    if laid.shebang != "/bin/sh -e" {
        reader.count("inline_shebang", &Value::String(laid.shebang.clone()));
    }
    let before = reader.faults.len();
    let texts: Vec<Text> = lines.iter().filter_map(|line| reader.build_text(line, "inline")).collect();
    if reader.faults.len() > before {
        return None;
    }
    let mut joined = Vec::new();
    for text in texts {
        if !joined.is_empty() {
            joined.push(Text::literal("\n"));
        }
        joined.push(text);
    }
    Some(Action::Shell { text: Text::concat(joined), laid: Some(laid.clone()) })
}

fn script_action(reader: &mut Reader<'_>, script: &Said, laid: &Laid) -> Option<Made> {
    let place = reader.needed(script, "script", Reads::Script)?;
    reader.count_path("script", &place);
    let action = Action::Script { path: place.step, args: Vec::new(), laid: Some(laid.clone()) };
    Some(Made { action, line: Some(script.span.line) })
}

/// How scripts are laid and run.
fn laid(reader: &mut Reader<'_>, keys: &Keys) -> Option<Laid> {
    let before = reader.faults.len();
    let shebang = reader.plain(keys, "inline_shebang").map_or_else(|| "/bin/sh -e".to_owned(), |(text, _)| text);
    let folder = reader.plain(keys, "remote_folder").map_or_else(|| "/tmp".to_owned(), |(text, _)| text);
    let file = reader.plain(keys, "remote_file").map_or_else(|| "factoryd-script.sh".to_owned(), |(text, _)| text);
    let to = reader.plain(keys, "remote_path").map_or_else(|| format!("{folder}/{file}"), |(text, _)| text);
    if to != "/tmp/factoryd-script.sh" {
        reader.count("remote_path", &Value::String(to.clone()));
    }
    let from_file = reader.flag(keys, "use_env_var_file").unwrap_or(false);
    let variables = variables(reader, keys, from_file)?;
    let variables_path = format!("{folder}/factoryd-variables.sh");
    let command = command(reader, keys, from_file, &[("Path", &to), ("EnvVarFile", &variables_path)], &variables)?;
    let variables = if from_file { Some((variables_path, text(reader, keys, variables)?)) } else { None };
    let binary = reader.flag(keys, "binary").unwrap_or(false);
    let stays = reader.flag(keys, "skip_clean").unwrap_or(false);
    for (name, value) in [("binary", binary), ("skip_clean", stays)] {
        if value {
            reader.count(name, &Value::Bool(true));
        }
    }
    let start_within = reader.time(keys, "start_retry_timeout").filter(|time| *time > Duration::ZERO);
    let start_within = start_within.unwrap_or(START_WITHIN);
    (reader.faults.len() == before).then_some(Laid { to, shebang, command, variables, binary, stays, start_within })
}

fn text(reader: &mut Reader<'_>, keys: &Keys, value: Rendered) -> Option<Text> {
    reader.build_text(&Said { value, span: keys.place("environment_vars") }, "environment_vars")
}

/// The variables as packer writes them before the script's path, or into a file.
fn variables(reader: &mut Reader<'_>, keys: &Keys, in_file: bool) -> Option<Rendered> {
    let mut variables: BTreeMap<String, Rendered> = BTreeMap::new();
    let (name, kind) = reader.scope.builder.unwrap_or(("", ""));
    variables.insert("PACKER_BUILD_NAME".to_owned(), Rendered::literal(name));
    variables.insert("PACKER_BUILDER_TYPE".to_owned(), Rendered::literal(kind));
    let mut written = BTreeMap::new();
    for said in reader.texts(keys, "environment_vars").unwrap_or_default() {
        let (name, value) = assignment(reader, &said)?;
        reader.build_text(&said, "environment_vars")?;
        written.insert(name, value);
    }
    if let Some((_, node)) = keys.get("env")
        && let Kind::Map(entries) = &node.kind
    {
        for (key, node) in entries {
            let one = Keys { what: String::new(), span: key.span, entries: vec![(key.clone(), node.clone())] };
            let value = reader.text(&one, &key.text).map(|said| said.value).unwrap_or_default();
            written.insert(key.text.clone(), value);
        }
    }
    for (name, value) in &written {
        let said = Said { value: value.clone(), span: keys.place("environment_vars") };
        reader.count_text(&format!("environment {name}"), &said);
    }
    variables.extend(written);
    let format = reader.plain(keys, "env_var_format").map(|(text, _)| text);
    if let Some(format) = &format {
        reader.count("env_var_format", &Value::String(format.clone()));
    }
    let usual = if in_file { "export %s='%s'\n" } else { "%s='%s' " };
    let mut all = Rendered::default();
    for (name, value) in variables {
        let value = value.each(|text| text.replace('\'', r#"'"'"'"#));
        let Some(one) = formatted(format.as_deref().unwrap_or(usual), &name, &value) else {
            let help = "it holds `%s` twice: for the name and for the value";
            reader.fault(keys.place("env_var_format"), "bad-format", "`env_var_format` is not understood", help);
            return None;
        };
        all.push(one);
    }
    Some(all)
}

/// `NAME=value`, the value in pieces.
fn assignment(reader: &mut Reader<'_>, said: &Said) -> Option<(String, Rendered)> {
    let mut value = said.value.clone();
    if let Some(Piece::Literal(first)) = value.pieces.first_mut()
        && let Some((name, rest)) = first.clone().split_once('=')
        && !name.is_empty()
    {
        *first = rest.to_owned();
        return Some((name.to_owned(), value));
    }
    let shown = quoted(&said.value.shown());
    reader.fault(said.span, "bad-variable", format!("{shown} is no variable"), "variables are written `NAME=value`");
    None
}

/// Go's `Sprintf` with a name and a value, as far as such formats go.
fn formatted(format: &str, name: &str, value: &Rendered) -> Option<Rendered> {
    let mut out = Rendered::default();
    let mut rest = format;
    let mut next = 1;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let verb = &rest[at + 1..];
        let (number, length) = match verb {
            _ if verb.starts_with('%') => (0, 1),
            _ if verb.starts_with('s') => (next, 1),
            _ if verb.starts_with("[1]s") => (1, 4),
            _ if verb.starts_with("[2]s") => (2, 4),
            _ => return None,
        };
        match number {
            0 => out.push_str("%"),
            1 => out.push_str(name),
            2 => out.push(value.clone()),
            _ => return None,
        }
        next = if number == 0 { next } else { number + 1 };
        rest = &verb[length..];
    }
    out.push_str(rest);
    (next > 2).then_some(out)
}

/// `execute_command` with the path and the variables in it.
fn command(
    reader: &mut Reader<'_>,
    keys: &Keys,
    from_file: bool,
    fields: &[(&str, &str)],
    variables: &Rendered,
) -> Option<Text> {
    let usual = match from_file {
        false => "chmod +x {{.Path}}; {{.Vars}} {{.Path}}",
        true => "chmod +x {{.Path}}; . {{.EnvVarFile}} && {{.Path}}",
    };
    let said = match reader.text(keys, "execute_command") {
        Some(said) => said,
        None if keys.get("execute_command").is_some_and(|(_, node)| node.text() != Some("")) => return None,
        None => Said { value: render(usual, reader.scope).ok()?, span: keys.span },
    };
    if said.value.shown() != render(usual, reader.scope).ok()?.shown() {
        reader.count_text("execute_command", &said);
    }
    let literals: Vec<(&str, Rendered)> = fields.iter().map(|(name, text)| (*name, Rendered::literal(*text))).collect();
    let mut known: Vec<(&str, &Rendered)> = literals.iter().map(|(name, value)| (*name, value)).collect();
    known.push(("Vars", variables));
    let value = said.value.with_fields(&known);
    reader.build_text(&Said { value, span: said.span }, "execute_command")
}
