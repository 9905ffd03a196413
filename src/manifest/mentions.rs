//! Which vars the templates of a bundle could use, found by their names in the templates' text.
//!
//! Only what stands in expressions and statements counts, as the template languages find them. Within these it errs on the
//! side of more: every word is taken for a name. What may reach any variable counts as using all of them.

use std::collections::BTreeSet;

use super::values::leaves;
use crate::domain::inputs::Input;
use crate::domain::value::Value;

/// Words through which a template may reach variables that it does not name.
const REACH_ALL: [&str; 8] = ["vars", "lookup", "query", "q", "hostvars", "this", "environment", "context"];

/// Names that come from the image's name, unless the vars have them.
const IMAGE_NAME: &str = "bundle_target_name";

/// What was found in templates so far.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    /// Names with the name that follows after a dot or in brackets; without one, the whole value is used.
    names: BTreeSet<(String, Option<String>)>,
    all: bool,
}

impl Mentions {
    /// Takes in a template. `handlebars` templates can also climb out of a block with `../` and `@root`.
    pub(super) fn scan(&mut self, source: &[u8], handlebars: bool) {
        let text = String::from_utf8_lossy(source);
        if handlebars && ["../", "@root", " .}", "{.}"].iter().any(|way| text.contains(way)) {
            self.all = true;
        }
        for mut rest in code(&text) {
            while let Some(start) = rest.find(is_start) {
                let after = rest[start..].trim_start_matches(is_part);
                let name = &rest[start..rest.len() - after.len()];
                self.all |= REACH_ALL.contains(&name);
                self.names.insert((name.to_owned(), member(after)));
                rest = after;
            }
        }
    }

    /// The inputs that the vars give to templates with these names. `image_name` is the name that the image gets.
    pub(super) fn inputs(mut self, vars: &Value, image_name: Option<&str>) -> Vec<Input> {
        let Value::Map(entries) = vars else { return Vec::new() };
        let mut inputs = Vec::new();
        if !self.all {
            self.follow(entries);
        }
        if self.all {
            let all = entries.iter().flat_map(|(key, value)| input(key, None, value));
            inputs.extend(all);
        } else {
            for (name, member) in &self.names {
                let found = entries.iter().find(|(key, _)| key == name);
                inputs.extend(found.into_iter().flat_map(|(key, value)| used(key, member.as_deref(), value)));
            }
        }
        let names_image = self.all || self.names.iter().any(|(name, _)| name == IMAGE_NAME);
        if let Some(name) = image_name.filter(|_| names_image && vars.get(IMAGE_NAME).is_none()) {
            inputs.push(Input::value(IMAGE_NAME, Value::from(name).canonical()));
        }
        inputs
    }

    /// Values may be templates themselves, and use other vars.
    fn follow(&mut self, entries: &[(String, Value)]) {
        let mut seen = BTreeSet::new();
        loop {
            let new: Vec<&(String, Value)> = entries
                .iter()
                .filter(|(key, _)| self.names.iter().any(|(name, _)| name == key) && seen.insert(key.clone()))
                .collect();
            if new.is_empty() || self.all {
                return;
            }
            for (_, value) in new {
                let text = value.canonical();
                if text.contains("{{") || text.contains("{%") {
                    self.scan(text.as_bytes(), false);
                }
            }
        }
    }
}

/// `name.member` where the value has that member, else the whole value.
fn used(key: &str, member: Option<&str>, value: &Value) -> Vec<Input> {
    match member.and_then(|member| Some((member, value.get(member)?))) {
        Some((member, value)) => input(key, Some(member), value),
        None => input(key, None, value),
    }
}

/// Values of `bundle` keep the name that pipelines have for them.
fn input(key: &str, member: Option<&str>, value: &Value) -> Vec<Input> {
    let name = if key == "bundle" { key.to_owned() } else { format!("vars.{key}") };
    let name = member.map_or(name.clone(), |member| format!("{name}.{member}"));
    leaves(&name, value)
}

/// The insides of expressions and statements. One that is never closed reaches to the end, and the end of one is not
/// looked for inside of its strings.
fn code(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        let inside = &rest[open + 2..];
        let end = match &rest[open..open + 2] {
            "{#" => inside.find("#}").unwrap_or(inside.len()),
            "{%" => close(inside, "%}"),
            _ => close(inside, "}}"),
        };
        if !rest[open..].starts_with("{#") {
            found.push(&inside[..end]);
        }
        rest = &inside[end..];
    }
    found
}

fn close(inside: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match quote {
            None if inside[at..].starts_with(end) => return at,
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open && !escaped => quote = None,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    inside.len()
}

/// The name in `.name`, `['name']` or `["name"]` right after a name.
fn member(after: &str) -> Option<String> {
    let after = after.trim_start();
    let rest = match after.strip_prefix('.') {
        Some(rest) => rest,
        None => after.strip_prefix('[')?.trim_start().strip_prefix(['\'', '"'])?,
    };
    let end = rest.find(|c| !is_part(c) && c != '-').unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_by(template: &str, handlebars: bool) -> Vec<String> {
        let properties = Value::Map(vec![("os".into(), Value::from("Debian"))]);
        let bundle = Value::Map(vec![("name".into(), Value::from("web")), ("properties".into(), properties)]);
        let vars = Value::Map(vec![
            ("bundle".into(), bundle),
            ("port".into(), Value::Int(80)),
            ("url".into(), Value::from("http://{{ host }}/")),
            ("host".into(), Value::from("x")),
        ]);
        let mut mentions = Mentions::default();
        mentions.scan(template.as_bytes(), handlebars);
        mentions.inputs(&vars, Some("web-\u{1}")).iter().map(Input::subject).collect()
    }

    #[test]
    fn only_what_a_template_names_is_used() {
        assert_eq!(used_by("image: {{ result_img_id }}", false), [""; 0]);
        assert_eq!(used_by("{{ bundle.name }} {{ bundle['name'] }}", false), ["bundle.name"]);
        assert_eq!(used_by("{% for k in bundle.items() %}", false), ["bundle.name", "bundle.properties.os"]);
        assert_eq!(used_by("the bundle and its port {# {{ host }} #}", false), [""; 0]);
        assert_eq!(used_by("{{ '}}' ~ port }} {{ \"it's\" }} host", false), ["vars.port"]);
        assert_eq!(used_by("{{ url }}", false), ["vars.host", "vars.url"]);
        assert_eq!(used_by("{{ bundle_target_name }}", false), ["bundle_target_name"]);
        assert_eq!(used_by("{{ lookup('vars', x) }}", false).len(), 6);
        assert_eq!(used_by("{{#with bundle}}{{ ../port }}{{/with}}", true).len(), 6);
        assert_eq!(used_by("ports: {{ports}}", true), [""; 0]);
    }
}
