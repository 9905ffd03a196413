//! What the installed Ansible is told of a bundle's templates, and what its answers mean. Nothing is run here.

use std::fmt::Write as _;

use super::{Code, Planned, Rendered, Variables, jinja, limits};
use crate::domain::template::{Answer, Handed};
use crate::domain::value::Value;

/// A template that is not rendered natively, and why.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) planned: Planned,
    /// What is not known natively; `None` where Ansible was asked for.
    pub(super) stop: Option<jinja::Stop>,
}

impl Open {
    fn why(&self) -> String {
        self.stop.as_ref().map_or_else(|| "asked for by --engine".to_owned(), |stop| stop.message.clone())
    }

    /// The result that an answer means, or the failure.
    pub(super) fn settle(self, answer: Answer) -> Result<Rendered, super::Failed> {
        let limit = |message: &str| limits::limit(message);
        let stop = match answer {
            Answer::Text(bytes) if std::str::from_utf8(&bytes).is_ok() => {
                let why = self.why();
                return Ok(self.planned.rendered(bytes, super::Engine::Ansible, why));
            }
            Answer::Text(_) => jinja::Stop::value("the result is not UTF-8"),
            Answer::Late => limit("Ansible renders it longer than 5 s"),
            Answer::TooLarge => limit("the output exceeds 64 MiB"),
            Answer::OutOfMemory => limit("Ansible needs more than 768 MiB of memory for it"),
            Answer::Failed(said) => match self.stop {
                // Both find that it is no template, and ours knows where.
                Some(stop) if stop.code == Code::Syntax => stop,
                _ => failure(&said),
            },
        };
        Err(self.planned.failed(stop))
    }

    /// What it failed with where Ansible can't be run at all.
    pub(super) fn unable(self, why: &str, help: &str) -> super::Failed {
        let stop = match self.stop {
            Some(mut stop) => {
                if stop.code == Code::Syntax {
                    // Nobody has said that it is wrong: Ansible reads what is not read here.
                    stop.message = format!("it can't be read natively ({})", stop.message);
                }
                if matches!(stop.code, Code::NotNative | Code::Syntax) {
                    stop.code = Code::NotNative;
                    stop.message = format!("{}, and Ansible can't be asked: {why}", stop.message);
                    help.clone_into(&mut stop.help);
                }
                stop
            }
            None => jinja::Stop::new(Code::NotNative, format!("Ansible can't be asked: {why}"), help),
        };
        self.planned.failed(stop)
    }
}

/// Ansible's words, without what it repeats, and the kind of failure that they mean.
fn failure(said: &str) -> jinja::Stop {
    let said = said.trim();
    let code = if said.contains("UndefinedVariable") || said.contains("is undefined") {
        Code::Undefined
    } else if said.contains("error while templating string") || said.contains("TemplateSyntaxError") {
        Code::Syntax
    } else {
        Code::Value
    };
    let mut short: String = said.split(" String: ").next().unwrap_or(said).chars().take(400).collect();
    for prefix in ["AnsibleUndefinedVariable: ", "AnsibleError: "] {
        short = short.strip_prefix(prefix).map(str::to_owned).unwrap_or(short);
    }
    let stop = jinja::Stop::new(code, format!("Ansible says: {short}"), "");
    let line =
        said.rsplit("line ").next().map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    match line.and_then(|digits| digits.parse().ok()) {
        Some(line) if said.contains("line ") => stop.at_line(line, 1),
        _ => stop,
    }
}

/// The order for a bundle's open templates. Whatever may be included goes along.
pub(super) fn handed(files: &[&Planned], open: &[Open], variables: &Variables, output: usize) -> Handed {
    let jinja = files.iter().filter(|one| one.engine != super::Engine::Handlebars);
    let files: Vec<_> = jinja.map(|one| (one.source.path.clone(), one.source.content.clone())).collect();
    let place = |one: &Open| files.iter().position(|(path, _)| *path == one.planned.source.path);
    Handed {
        wanted: open.iter().filter_map(place).collect(),
        files,
        vars: extra_vars(variables),
        time: limits::TIME,
        first_slice: limits::FIRST_SLICE,
        output: output as u64,
    }
}

/// The variables as JSON. What is never a template is marked so, in Ansible's way.
fn extra_vars(variables: &Variables) -> String {
    let mut out = String::from("{");
    for (at, name) in variables.names().enumerate() {
        let Some(entry) = variables.get(name) else { continue };
        out.push_str(if at == 0 { "" } else { ",\n" });
        text(name, &mut out);
        out.push(':');
        json(&entry.value, entry.lazy, &mut out);
    }
    out + "}"
}

/// In the order of the keys, which `serde_json` would sort.
fn json(value: &Value, lazy: bool, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => drop(write!(out, "{value}")),
        // Python's reader of JSON knows these three words.
        Value::Float(value) if value.is_nan() => out.push_str("NaN"),
        Value::Float(value) if value.is_infinite() => out.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Float(value) => drop(write!(out, "{value:?}")),
        Value::String(string) if lazy => text(string, out),
        Value::String(string) => {
            out.push_str("{\"__ansible_unsafe\":");
            text(string, out);
            out.push('}');
        }
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                json(item, lazy, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                text(key, out);
                out.push(':');
                json(item, lazy, out);
            }
            out.push('}');
        }
    }
}

fn text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_keep_their_order_and_what_is_given_is_no_template() {
        let map = Value::Map(vec![("z".into(), Value::Int(1)), ("a".into(), Value::from("{{ x }}\n\"q\""))]);
        let file = Value::Map(vec![("map".into(), map), ("ratio".into(), Value::Float(1e20))]);
        let vars = extra_vars(&Variables::new("id").file(&file).given("given", "{{ y }}"));
        assert!(vars.contains(r#""map":{"z":1,"a":"{{ x }}\n\"q\""}"#), "{vars}");
        assert!(vars.contains(r#""given":{"__ansible_unsafe":"{{ y }}"}"#), "{vars}");
        assert!(serde_json::from_str::<serde_json::Value>(&vars).is_ok(), "{vars}");
    }

    #[test]
    fn a_failure_says_what_ansible_said_and_where() {
        let said = "AnsibleError: template error while templating string: unexpected '}'. String: a\nb. line 7";
        let stop = failure(said);
        assert_eq!((stop.code, stop.place(b"")), (Code::Syntax, (7, 1)));
        assert_eq!(stop.message, "Ansible says: template error while templating string: unexpected '}'.");
    }
}
