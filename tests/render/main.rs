//! Ours beside Ansible's: some hundred templates through the template module of the installed ansible-core and through
//! `render`, compared byte for byte, those that fail included.
//!
//! The templates are a table of known traps and what a grammar of the accepted constructs gives. One `ansible-playbook`
//! renders them all. The action plugin it runs is Ansible's own, told only not to make a directory for a transfer, and
//! its `copy` is a plain copy, since a process for each file would take minutes. `second` compares what the second engine,
//! which is Ansible in the sandbox, makes of what is not native.

use std::fs;
use std::path::Path;
use std::process::Command;

use factoryd::domain::path::RepoPath;
use factoryd::domain::value::Value;
use factoryd::render::{Code, Template, Templates, Variables};

mod grammar;
mod hostile;
mod second;
mod table;
mod wider;

use table::{REFUSED, SAME};
use wider::WIDER;

const IMAGE: &str = "3f8a1c52-7d0e-4b7e-9d58-0a6f2c3b4d5e";

/// The vars file of the templates, as JSON, which both sides read.
const VARS: &str = r##"{
  "name": "web", "empty": "", "spaced": "  two words ", "number": 42, "negative": -7, "zero": 0, "ratio": 2.5,
  "yes": true, "no": false, "nothing": null, "digits": "17", "decimal": "3.9", "word": "Yes", "quote": "it's",
  "both": "it's \"so\"", "slash": "a\\b", "lines": "one\ntwo\n\nthree\n", "accent": "Ünïcödé ß", "mixed": "aBc",
  "list": ["b", "a", "C"], "numbers": [3, 1, 2], "none_list": [null, true, 1, 2.5, "x", [1], {"k": "v"}],
  "empty_list": [], "empty_map": {}, "repeated": ["a", "A", "b", "a"], "pairs": [["k", 1], ["l", 2]],
  "users": [{"name": "ann", "uid": 1}, {"name": "bob", "uid": 2, "shell": "/bin/sh"}],
  "hidden": {"items": "hidden", "plain": "seen"},
  "bundle": {"name": "bundle-web", "img_base": "debian", "properties": {"img_os": "Debian", "cw_origin": "Cloudwatt"}},
  "lazy": "{{ name }}-{{ number }}", "lazier": "<{{ lazy }}>", "lazy_number": "{{ number }}",
  "lazy_attribute": "{{ users[0].uid }}", "lazy_list": "{{ list }}", "lazy_map": "{{ map }}", "lazy_null": "{{ nothing }}",
  "lazy_true": "{{ yes }}", "lazy_word": "{{ 'Tr' }}ue", "lazy_undefined": "{{ nope }}", "lazy_default": "{{ nope | default('d') }}",
  "lazy_in_list": ["{{ name }}", "{{ number }}"], "lazy_in_map": {"n": "{{ name }}"}, "half_undefined": {"ok": "ok", "bad": "{{ nope }}"},
  "lazy_lines": "{% if yes %}\nline\n{% endif %}\n", "lazy_newline": "{{ number }}\n", "lazy_none": "{% if no %}x{% endif %}",
  "lazy_number_of_lazy": "{{ lazy_number }}", "lazy_slash": "\\d {{ name }}", "circle": "{{ circle2 }}", "circle2": "{{ circle }}",
  "lazy_filtered": "{{ list | join(',') }}", "lazy_two": "{{ list }}{{ number }}", "lazy_comment": "a{# no #}b",
  "lazy_syntax": "{{ name", "lazy_list_of": ["{{ yes }}", "{{ nothing }}"], "deep": {"a": {"b": {"c": "{{ lazier }}"}}}
}"##;

/// A map whose order is not that of its keys; beside the others, since their JSON is sorted on its way.
const MAP: &str = r#"{"map": {"z": 1, "a": "two", "n": null}}"#;

#[test]
fn results_are_those_of_ansibles_template_module() {
    let generated = grammar::templates(350);
    let known = SAME.iter().chain(WIDER).copied();
    let all: Vec<&str> = known.chain(generated.iter().map(String::as_str)).collect();
    let theirs = with_ansible(&all, &[]);
    let mut differences = Vec::new();
    let mut unknown = 0;
    let first_generated = all.len() - generated.len();
    for (at, (source, theirs)) in all.iter().zip(&theirs).enumerate() {
        let ours = with_us(source);
        let same = match (&ours, theirs) {
            (Ok(ours), Some(theirs)) => ours == theirs,
            (Err((Code::NotNative, _)), _) if at >= first_generated => {
                unknown += 1;
                true
            }
            (Err(_), theirs) => theirs.is_none(),
            (Ok(_), None) => false,
        };
        if !same {
            let theirs = theirs.as_ref().map(|bytes| String::from_utf8_lossy(bytes));
            let ours = ours.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            differences.push(format!("{source:?}\n  ansible: {theirs:?}\n  ours:    {ours:?}"));
        }
    }
    let rendered = theirs.iter().flatten().count();
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), all.len(), differences.join("\n"));
    assert!(rendered > all.len() / 2, "Ansible rendered only {rendered} of {}", all.len());
    assert!(unknown < generated.len() / 8, "{unknown} generated templates are not known");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (source, named) in REFUSED {
        match with_us(source) {
            Err((Code::NotNative | Code::Refused, message)) => {
                assert!(message.contains(named), "{source:?}: {message}");
            }
            other => panic!("{source:?}: {other:?}"),
        }
    }
}

fn variables() -> Variables {
    let json: serde_json::Value = serde_json::from_str(VARS).expect("the vars are JSON");
    let entries = [("z", Value::Int(1)), ("a", Value::from("two")), ("n", Value::Null)];
    let map = Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into());
    let map = Value::Map(vec![("map".to_owned(), map)]);
    Variables::new(IMAGE).file(&value(&json)).file(&map).given("given", "raw {{ name }}")
}

fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().expect("a number")), Value::Int)
        }
        serde_json::Value::String(text) => Value::String(text.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(value).collect()),
        serde_json::Value::Object(map) => {
            Value::Map(map.iter().map(|(key, item)| (key.clone(), value(item))).collect())
        }
    }
}

fn with_us(source: &str) -> Result<Vec<u8>, (Code, String)> {
    let path = RepoPath::new("t.j2").expect("a path");
    let templates = Templates::new(vec![Template { path, content: source.into() }]).expect("a name");
    let outcome = templates.render(&variables());
    match outcome.failed.into_iter().next() {
        Some(failed) => Err((failed.code, failed.message)),
        None => Ok(outcome.rendered.into_iter().next().expect("one result").bytes),
    }
}

const PLAYBOOK: &str = "
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - template_without_transfer:
        src: '{{ scratch }}/in/{{ item }}.j2'
        dest: '{{ scratch }}/out/{{ item }}'
      with_sequence: start=0 end={{ last_template }}
      ignore_errors: true
";
const ACTION: &str = "
from ansible.plugins.action.template import ActionModule as Template
class ActionModule(Template):
    TRANSFERS_FILES = False
";
const COPY: &str = "
import shutil
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        shutil.copyfile(self._task.args['src'], self._task.args['dest'])
        return {'changed': True}
";

/// What Ansible makes of each template, with more files beside them; `None` where it fails.
fn with_ansible(sources: &[&str], beside: &[(&str, &str)]) -> Vec<Option<Vec<u8>>> {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path();
    for directory in ["in", "out", "action_plugins"] {
        fs::create_dir(root.join(directory)).expect("a directory");
    }
    for (at, source) in sources.iter().enumerate() {
        fs::write(root.join(format!("in/{at}.j2")), source).expect("a template");
    }
    for (name, text) in beside {
        fs::write(root.join("in").join(name), text).expect("a template");
    }
    fs::write(root.join("ansible.cfg"), "[defaults]\n").expect("the settings");
    fs::write(root.join("play.yml"), PLAYBOOK).expect("the playbook");
    fs::write(root.join("action_plugins/template_without_transfer.py"), ACTION).expect("the action");
    fs::write(root.join("action_plugins/copy.py"), COPY).expect("the copy");
    fs::write(root.join("vars.json"), extra_vars(root, sources.len() - 1)).expect("the vars");
    let output = Command::new("ansible-playbook")
        .args(["-i", "localhost,", "-e", "@vars.json", "-e", MAP, "play.yml"])
        .current_dir(root)
        .env("ANSIBLE_LOCAL_TEMP", root.join("tmp"))
        .env("ANSIBLE_CONFIG", root.join("ansible.cfg"))
        .output()
        .expect("ansible-playbook is needed: run scripts/setup");
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
    (0..sources.len()).map(|at| fs::read(root.join(format!("out/{at}"))).ok()).collect()
}

fn extra_vars(root: &Path, last: usize) -> String {
    let mut vars: serde_json::Value = serde_json::from_str(VARS).expect("the vars are JSON");
    let more = serde_json::json!({
        "result_img_id": IMAGE, "final_glance_options": "--min-disk 20", "vm_flavor": "16",
        "packer_file": "build.packer.json", "given": {"__ansible_unsafe": "raw {{ name }}"},
        "scratch": root.to_str(), "last_template": last,
    });
    let map = vars.as_object_mut().expect("a map");
    map.extend(more.as_object().expect("a map").clone());
    vars.to_string()
}
