//! What a template may not ask for, whichever engine renders it: facts of a host, its clock, its files, lookups but of
//! plain data. A rendering depends on the bundle and the image alone.
//!
//! The words of a template are looked at and not its syntax tree, since not every template of Jinja2's can be parsed
//! here. Names that the template itself sets are its own. The texts of the variables that it uses are looked at too.

use std::collections::{BTreeSet, HashSet};

use minijinja::machinery::{self, Token};

use super::{Blocks, Stop, normalised, syntax};
use crate::domain::value::Value;
use crate::render::limits;
use crate::render::{Code, Variables};

/// Names of Ansible's host and play.
const HOST: [&str; 27] = [
    "discovered_interpreter_python",
    "environment",
    "gather_subset",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "item",
    "lipsum",
    "module_setup",
    "now",
    "omit",
    "play_hosts",
    "playbook_dir",
    "role_name",
    "role_names",
    "role_path",
    "template_destpath",
    "template_fullpath",
    "template_host",
    "template_mtime",
    "template_path",
    "template_run_date",
    "template_uid",
];
/// The same: everything that Ansible knows, in one map.
const ALL_VARIABLES: &str = "vars";
/// Filters that read the host's files, its environment or clock, or give something else each time.
const FILTERS: [&str; 8] =
    ["expanduser", "expandvars", "fileglob", "random", "random_mac", "realpath", "shuffle", "strftime"];
/// Tests that look at the host's files.
const TESTS: [&str; 13] = [
    "directory",
    "exists",
    "file",
    "is_dir",
    "is_file",
    "is_link",
    "is_mount",
    "is_same_file",
    "link",
    "link_exists",
    "mount",
    "same_file",
    "samefile",
];
/// Lookups that only rearrange what they are given, or read plain variables.
const LOOKUPS: [&str; 12] = [
    "cartesian",
    "dict",
    "flattened",
    "indexed_items",
    "items",
    "list",
    "nested",
    "sequence",
    "subelements",
    "together",
    "varnames",
    "vars",
];
const ASK: [&str; 3] = ["lookup", "query", "q"];
const HELP: &str = "set the value in the bundle's vars file under a name of its own";

/// Refuses a template, or a variable that it uses, which asks for what is not the bundle's.
pub(in crate::render) fn refuse(content: &str, variables: &Variables) -> Result<(), Stop> {
    let mut looked: HashSet<String> = HashSet::new();
    let mut open: BTreeSet<String> = Words::of(&normalised(content), variables)?.used.into_iter().collect();
    while let Some(name) = open.pop_first() {
        let Some(entry) = variables.get(&name).filter(|entry| entry.lazy) else { continue };
        if looked.insert(name.clone()) {
            texts(&entry.value, variables, &mut open).map_err(|stop| stop.within(&name))?;
        }
    }
    Ok(())
}

fn texts(value: &Value, variables: &Variables, used: &mut BTreeSet<String>) -> Result<(), Stop> {
    match value {
        Value::String(text) if text.contains('{') => used.extend(Words::of(&normalised(text), variables)?.used),
        Value::List(items) => items.iter().try_for_each(|item| texts(item, variables, used))?,
        Value::Map(entries) => entries.iter().try_for_each(|(_, item)| texts(item, variables, used))?,
        _ => {}
    }
    Ok(())
}

/// What a host alone knows of this name, which the template does not set itself.
pub(in crate::render) fn of_a_host(name: &str, variables: &Variables) -> Option<String> {
    if HOST.contains(&name) || name == ALL_VARIABLES {
        return Some(format!("`{name}`, which only Ansible on its host knows"));
    }
    let fact = ["ansible_", "facter_", "ohai_"].iter().any(|prefix| name.starts_with(prefix));
    let known = variables.get(name).is_some() || name == "ansible_date_time";
    (fact && !known).then(|| format!("`{name}`, a fact of a host"))
}

fn refused(what: &str, offset: usize) -> Stop {
    Stop::new(Code::Refused, format!("{what}: a rendering depends on the bundle and the image alone"), HELP).at(offset)
}

/// A word within braces, and where it begins.
struct Word<'s> {
    token: Token<'s>,
    at: usize,
}

impl Word<'_> {
    fn ident(&self) -> Option<&str> {
        if let Token::Ident(name) = &self.token { Some(name) } else { None }
    }

    fn text(&self) -> Option<&str> {
        match &self.token {
            Token::Str(text) => Some(text),
            Token::String(text) => Some(text),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Words {
    /// Names that are used and not set.
    used: Vec<String>,
}

impl Words {
    fn of(source: &str, variables: &Variables) -> Result<Self, Stop> {
        let mut all = Vec::new();
        for token in machinery::tokenize(source, false, syntax(Blocks::default())?) {
            // What can't be told into words is Ansible's to judge; up to there every word is known.
            let Ok((token, span)) = token else { break };
            all.push(Word { token, at: span.start_offset as usize });
            if all.len() > limits::WORDS {
                return Err(limits::limit("the template has more than 250,000 names, operators and texts"));
            }
        }
        let own = own_names(&all);
        let mut words = Self::default();
        for (place, word) in all.iter().enumerate() {
            let Some(name) = word.ident() else { continue };
            let context = Context { all: &all, place };
            if let Some(what) = context.asks_for(name, &own, variables) {
                return Err(refused(&what, word.at));
            }
            if context.is_variable() && !own.contains(name) {
                words.used.push(name.to_owned());
            }
            if let Some(name) = context.looked_up(name) {
                words.used.push(name.to_owned());
            }
        }
        Ok(words)
    }
}

/// A word among its neighbours.
struct Context<'w, 's> {
    all: &'w [Word<'s>],
    place: usize,
}

impl Context<'_, '_> {
    fn before(&self, back: usize) -> Option<&Word<'_>> {
        self.place.checked_sub(back).and_then(|place| self.all.get(place))
    }

    fn after(&self, on: usize) -> Option<&Word<'_>> {
        self.all.get(self.place + on)
    }

    fn follows(&self, token: &Token<'_>) -> bool {
        self.before(1).is_some_and(|word| std::mem::discriminant(&word.token) == std::mem::discriminant(token))
    }

    fn is_test(&self) -> bool {
        let is = |word: Option<&Word<'_>>, name| word.and_then(Word::ident) == Some(name);
        is(self.before(1), "is") || is(self.before(1), "not") && is(self.before(2), "is")
    }

    /// Whether the name stands for a variable: not for an attribute, a filter, a test, or an argument's name.
    fn is_variable(&self) -> bool {
        let names_argument = matches!(self.after(1).map(|word| &word.token), Some(Token::Assign));
        !self.follows(&Token::Dot) && !self.follows(&Token::Pipe) && !self.is_test() && !names_argument
    }

    fn asks_for(&self, name: &str, own: &HashSet<String>, variables: &Variables) -> Option<String> {
        if self.follows(&Token::Pipe) {
            let filter =
                FILTERS.contains(&name).then(|| format!("the filter `{name}`, which is not the same everywhere"));
            return filter.or_else(|| self.applies(name));
        }
        if self.is_test() {
            return TESTS.contains(&name).then(|| format!("the test `{name}`, which looks at files of the host"));
        }
        if !self.is_variable() || own.contains(name) {
            return None;
        }
        if ASK.contains(&name) && variables.get(name).is_none() {
            let lookup = match (self.after(1).map(|word| &word.token), self.after(2).and_then(Word::text)) {
                (Some(Token::ParenOpen), lookup) => lookup,
                _ => None,
            };
            return match lookup.map(|lookup| lookup.trim_start_matches("ansible.builtin.")) {
                Some(lookup) if LOOKUPS.contains(&lookup) => None,
                Some(lookup) => Some(format!("`{name}()` of `{lookup}`, which reads what is not the bundle's")),
                None => Some(format!("`{name}()` of what is not written down")),
            };
        }
        let called = matches!(self.after(1).map(|word| &word.token), Some(Token::ParenOpen));
        of_a_host(name, variables).map(|what| if called { what.replacen(name, &format!("{name}()"), 1) } else { what })
    }

    /// `map('random')`, `select('file')`: filters and tests that are named by a text.
    fn applies(&self, name: &str) -> Option<String> {
        let text = |place| self.after(place).and_then(Word::text);
        let is = |known: &[&str], text: Option<&str>| text.filter(|text| known.contains(text)).map(str::to_owned);
        let found = match name {
            "map" => is(&FILTERS, text(2)),
            "select" | "reject" => is(&TESTS, text(2)),
            "selectattr" | "rejectattr" => is(&TESTS, text(4)),
            _ => None,
        };
        found.map(|found| format!("`{found}` in `{name}`, which is not the same everywhere"))
    }

    /// The variable that `lookup('vars', 'name')` reads.
    fn looked_up(&self, name: &str) -> Option<&str> {
        let reads =
            ASK.contains(&name) && self.after(2).and_then(Word::text).is_some_and(|text| text.ends_with("vars"));
        self.after(4).filter(|_| reads).and_then(Word::text)
    }
}

/// The names that the template sets: by `set`, `for`, `with`, `macro`, `call`, `import`, `block`.
fn own_names(all: &[Word<'_>]) -> HashSet<String> {
    let mut own = HashSet::new();
    for (place, word) in all.iter().enumerate() {
        if !matches!(word.token, Token::BlockStart) {
            continue;
        }
        let tag: Vec<&Word<'_>> =
            all[place + 1..].iter().take_while(|word| !matches!(word.token, Token::BlockEnd)).collect();
        let Some((first, rest)) = tag.split_first() else { continue };
        let until = |end: fn(&Word<'_>) -> bool| rest.iter().position(|word| end(word)).unwrap_or(rest.len());
        let names: &[&Word<'_>] = match first.ident() {
            Some("set") => &rest[..until(|word| matches!(word.token, Token::Assign | Token::Pipe))],
            Some("for") => &rest[..until(|word| word.ident() == Some("in"))],
            Some("with" | "macro" | "call" | "import" | "from" | "block") => rest,
            _ => continue,
        };
        let assigned = |at: usize| matches!(rest.get(at + 1).map(|word| &word.token), Some(Token::Assign));
        let in_with = first.ident() == Some("with");
        let named = names.iter().enumerate().filter(|(at, _)| !in_with || assigned(*at));
        own.extend(named.filter_map(|(_, word)| word.ident()).map(str::to_owned));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> String {
        let bundle = Value::Map(vec![("name".into(), Value::from("web"))]);
        let file = Value::Map(vec![
            ("bundle".into(), bundle),
            ("home".into(), Value::from("{{ lookup('env', 'HOME') }}")),
            ("through".into(), Value::List(vec![Value::from("{{ home }}")])),
        ]);
        let refused = refuse(source, &Variables::new("id").file(&file));
        refused.map_or_else(|stop| stop.message, |()| String::new())
    }

    #[test]
    fn what_is_not_the_bundles_is_refused_by_name_wherever_it_stands() {
        let named = [
            ("{{ hostvars['x'] }}", "`hostvars`"),
            ("{% if no %}{{ groups.all }}{% endif %}", "`groups`"),
            ("{{ ansible_hostname }}", "`ansible_hostname`"),
            ("{{ vars['x'] }}", "`vars`"),
            ("{{ now() }}", "`now()`"),
            ("{{ lookup('env', 'HOME') }}", "`lookup()` of `env`"),
            ("{{ query('ansible.builtin.pipe', 'id') }}", "`query()` of `pipe`"),
            ("{{ lookup(kind, 'x') }}", "`lookup()`"),
            ("{{ bundle.name | default(lookup('file', 'x')) }}", "`lookup()` of `file`"),
            ("{% for x in q('fileglob', '*') %}{% endfor %}", "`q()` of `fileglob`"),
            ("{{ [1, 2] | random }}", "`random`"),
            ("{{ x | map('expanduser') | list }}", "`expanduser`"),
            ("{{ '/etc/passwd' is file }}", "the test `file`"),
            ("{{ '/etc' is not exists }}", "the test `exists`"),
            ("{{ x | selectattr('path', 'exists') | list }}", "`exists`"),
            ("{{ through[0] }}", "in the variable `home`: `lookup()` of `env`"),
            ("{{ lookup('vars', 'home') }}", "in the variable `home`"),
            ("{{ hostvars }} {{ 'never closed", "`hostvars`"),
            ("{% macro m(a, b=playbook_dir) %}{% endmacro %}{{ inventory_hostname }}", "`inventory_hostname`"),
        ];
        for (source, named) in named {
            let message = refusal(source);
            assert!(message.contains(named), "{source}: {message:?}");
        }
        let own = [
            "{% for item in list %}{{ item }}{% endfor %}",
            "{% set now = 1 %}{{ now }}",
            "{% macro lookup(vars) %}{{ vars }}{% endmacro %}{{ lookup(1) }}",
            "{{ bundle.groups }} {{ bundle | dict2items(item='x') }}",
            "{{ lookup('vars', 'bundle') }} {{ query('dict', bundle) }}",
            "{{ x | selectattr('file') | list }} {{ 'hostvars' }} hostvars",
            "{% raw %}{{ hostvars }}{% endraw %}",
            "{{ ansible_managed }} {{ ansible_date_time.date }}",
        ];
        for source in own {
            assert_eq!(refusal(source), "", "{source}");
        }
    }
}
