//! Playbooks of another era: what the Ansible of today refuses, or takes for something else, and what to write instead.
//!
//! Each rule was tried with ansible-core 2.14. These are warnings and no verdicts: which Ansible runs a playbook is the
//! factory's business, and only that one knows for certain.

use super::fault::{Fault, MOST_FAULTS, Source, Span};
use super::node::{Key, Kind, Node};
use super::yaml;
use crate::domain::path::RepoPath;
use crate::domain::tree::{EntryKind, Tree};

/// The directory of a bundle that reaches Ansible.
const DIRECTORY: &str = "ansible";
/// How many entries are looked at in one bundle, and how deep.
const ENTRIES: usize = 5000;
const DEPTH: usize = 16;
const CODE: &str = "old-ansible";

/// Keys of plays, tasks and roles that are gone: what they are, and what to write.
const GONE: [(&str, &str); 9] = [
    ("sudo", "write `become: true`"),
    ("sudo_user", "write `become: true` and `become_user: NAME`"),
    ("su", "write `become: true` and `become_method: su`"),
    ("su_user", "write `become: true`, `become_method: su` and `become_user: NAME`"),
    ("sudo_pass", "give the password as `ansible_become_password`, from a secret"),
    ("always_run", "write `check_mode: false`"),
    ("accelerate", "take it out: pipelining does what it did"),
    ("accelerate_port", "take it out: pipelining does what it did"),
    ("only_if", "write `when:`"),
];
/// Modules that are gone, and what to write.
const MODULES: [(&str, &str); 3] = [
    ("easy_install", "write `pip:`"),
    ("docker", "use community.docker.docker_container"),
    ("ec2_facts", "use amazon.aws.ec2_metadata_facts"),
];
/// Filters that became tests.
const FILTERS: [(&str, &str); 9] = [
    ("failed", "is failed"),
    ("success", "is success"),
    ("succeeded", "is succeeded"),
    ("changed", "is changed"),
    ("change", "is changed"),
    ("skipped", "is skipped"),
    ("skip", "is skipped"),
    ("version_compare", "is version(…)"),
    ("issubset", "is subset(…)"),
];
/// Keys whose whole text is an expression.
const CONDITIONS: [&str; 6] = ["when", "failed_when", "changed_when", "until", "that", "assert"];

/// What is of another era in the playbooks of a bundle, by file and line.
pub fn old_playbooks(tree: &dyn Tree, bundle: &RepoPath) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut entries = 0;
    let mut todo: Vec<(RepoPath, usize)> = bundle.join(DIRECTORY).map(|at| (at, 0)).into_iter().collect();
    while let Some((directory, depth)) = todo.pop() {
        for entry in tree.list(&directory).unwrap_or_default() {
            entries += 1;
            let Some(path) = directory.join(&entry.name).filter(|_| entries <= ENTRIES) else { continue };
            let is_yaml = [b".yml".as_slice(), b".yaml"].iter().any(|end| entry.name.ends_with(end));
            match entry.kind {
                EntryKind::Directory if depth < DEPTH => todo.push((path, depth + 1)),
                EntryKind::File | EntryKind::Executable if is_yaml => file(tree, &path, &mut faults),
                _ => {}
            }
        }
    }
    faults.sort_by(|one, other| (&one.file, one.line, one.column).cmp(&(&other.file, other.line, other.column)));
    faults.dedup();
    faults.truncate(MOST_FAULTS);
    faults
}

fn file(tree: &dyn Tree, path: &RepoPath, faults: &mut Vec<Fault>) {
    let Ok(bytes) = tree.read(path, yaml::MOST_BYTES) else { return };
    let source = Source::new(path.to_string(), &String::from_utf8_lossy(&bytes));
    let root = yaml::load(&source, &mut Vec::new());
    let mut playbook = Playbook { source: &source, faults };
    // Ansible's own parser takes more than ours does.
    let Some(root) = root else { return playbook.by_lines() };
    if let Kind::List(items) = &root.kind {
        let plays = items.iter().any(|item| item.get("hosts").is_some()) || path.name() == b"bootstrap.yml";
        for item in items {
            match item.get("include").is_some() && plays {
                true => playbook.include_of_plays(item),
                false => playbook.play(item),
            }
        }
    }
    playbook.expressions(&root, None);
}

struct Playbook<'p> {
    source: &'p Source,
    faults: &'p mut Vec<Fault>,
}

impl Playbook<'_> {
    fn warn(&mut self, span: Span, message: String, help: &str) {
        self.faults.push(self.source.fault(span, CODE, message).with_help(help));
    }

    /// What can be told without a tree.
    fn by_lines(&mut self) {
        for line in 1..=self.source.line_count() {
            let text = self.source.line(line).to_owned();
            let content = text.trim_start().trim_start_matches("- ").trim_start();
            let Some((key, value)) = content.split_once(':') else { continue };
            let span = Span { line, column: text.len() - content.len() + 1, length: key.len() };
            if let Some((name, help)) = GONE.iter().find(|(name, _)| *name == key) {
                self.warn(span, format!("`{name}` is refused by the Ansible of today"), help);
            }
            if CONDITIONS.contains(&key) || value.contains("{{") {
                self.filters(value, span);
            }
        }
    }

    /// An item of a file's list: a play, or in a file of tasks a task.
    fn play(&mut self, node: &Node) {
        let Kind::Map(entries) = &node.kind else { return };
        if node.get("hosts").is_none() {
            return self.task(node);
        }
        self.gone(entries, "a play");
        for (key, value) in entries {
            match (key.text.as_str(), &value.kind) {
                ("tasks" | "pre_tasks" | "post_tasks" | "handlers", Kind::List(tasks)) => {
                    tasks.iter().for_each(|task| self.task(task));
                }
                ("roles", Kind::List(roles)) => roles.iter().for_each(|role| self.role(role)),
                _ => {}
            }
        }
    }

    fn gone(&mut self, entries: &[(Key, Node)], of: &str) {
        for (key, _) in entries {
            if let Some((name, help)) = GONE.iter().find(|(name, _)| *name == key.text) {
                self.warn(key.span, format!("`{name}` of {of} is refused by the Ansible of today"), help);
            }
        }
    }

    /// What is no key of a role is a variable of it.
    fn role(&mut self, node: &Node) {
        let Kind::Map(entries) = &node.kind else { return };
        for (key, _) in entries {
            if let Some((name, help)) = GONE.iter().find(|(name, _)| *name == key.text) {
                let message = format!("`{name}` of a role is only a variable of it in the Ansible of today");
                self.warn(key.span, message, help);
            }
        }
    }

    fn task(&mut self, node: &Node) {
        let Kind::Map(entries) = &node.kind else { return };
        self.gone(entries, "a task");
        for (key, value) in entries {
            let name = key.text.as_str();
            match (name, &value.kind) {
                ("block" | "rescue" | "always", Kind::List(tasks)) => tasks.iter().for_each(|task| self.task(task)),
                ("include", _) => self.include(key, node),
                _ if name.starts_with("with_") => self.bare(name, value),
                _ => {}
            }
            if let Some((module, help)) = MODULES.iter().find(|(module, _)| *module == name) {
                self.warn(key.span, format!("the module `{module}` is gone from Ansible"), help);
            }
        }
    }

    fn include_of_plays(&mut self, node: &Node) {
        let Kind::Map(entries) = &node.kind else { return };
        for (key, _) in entries.iter().filter(|(key, _)| key.text == "include") {
            let message = "`include` beside plays is refused by the Ansible of today".to_owned();
            self.warn(key.span, message, "write `import_playbook:`");
        }
    }

    fn include(&mut self, key: &Key, node: &Node) {
        let (message, help) = if node.get("static").is_some() {
            ("`static` of an `include` is refused by the Ansible of today", "write `import_tasks:` without `static`")
        } else {
            (
                "`include` is deprecated, and gone from ansible-core 2.16 on",
                "write `import_tasks:`, or `include_tasks:` where a loop or a condition decides at run time",
            )
        };
        self.warn(key.span, message.to_owned(), help);
    }

    /// `with_items: packages` was the variable once and is a list of one text now.
    fn bare(&mut self, name: &str, value: &Node) {
        let Some(text) = value.text().map(str::trim) else { return };
        let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let takes_lists = ["with_items", "with_dict", "with_flattened", "with_nested", "with_together"];
        if is_name && takes_lists.contains(&name) {
            let message = format!("`{name}: {text}` is the text `{text}` in the Ansible of today, not the variable");
            self.warn(value.span, message, &format!("write `{name}: \"{{{{ {text} }}}}\"`"));
        }
    }

    /// Filters that became tests, in every expression.
    fn expressions(&mut self, node: &Node, key: Option<&str>) {
        match &node.kind {
            Kind::Scalar { raw, .. } => {
                let whole = key.is_some_and(|key| CONDITIONS.contains(&key));
                if whole || raw.contains("{{") || raw.contains("{%") {
                    self.filters(raw, node.span);
                }
            }
            Kind::List(items) => items.iter().for_each(|item| self.expressions(item, key)),
            Kind::Map(entries) => entries.iter().for_each(|(key, value)| self.expressions(value, Some(&key.text))),
            Kind::Open(_) => {}
        }
    }

    fn filters(&mut self, text: &str, span: Span) {
        for (at, _) in text.match_indices('|') {
            let rest = text[at + 1..].trim_start();
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let Some((name, test)) = FILTERS.iter().find(|(name, _)| *name == &rest[..end]) else { continue };
            let written = &text[at..text.len() - rest.len() + end];
            let place = self.source.locate(written, span);
            let message = format!("the filter `{name}` is gone: it is a test in the Ansible of today");
            self.warn(place, message, &format!("write `{test}` in the place of `| {name}`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::directory::Directory;

    fn said(text: &str) -> Vec<String> {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(place.path().join("b/ansible/roles/r/tasks")).expect("made");
        std::fs::write(place.path().join("b/ansible/bootstrap.yml"), text).expect("written");
        let tree = Directory::open(place.path()).expect("opened");
        let faults = old_playbooks(&tree, &RepoPath::new("b").expect("inside"));
        let said = faults.iter().map(|fault| {
            let help = fault.advice();
            format!("{}:{}:{}: {} ({help})", fault.file, fault.line, fault.column, fault.message)
        });
        said.collect()
    }

    #[test]
    fn what_the_ansible_of_today_refuses_is_named_with_what_to_write() {
        let text = "- include: other.yml\n- hosts: local\n  sudo: yes\n  roles:\n    - { role: r, sudo: yes }\n  tasks:\n    - \
                    include: x.yml\n    - shell: ls | failed\n      register: x\n      when: y|failed or z | success\n      \
                    always_run: yes\n    - easy_install: name=pip\n    - apt: name={{ item }}\n      with_items: packages\n";
        insta::assert_snapshot!(said(text).join("\n"), @r#"
        b/ansible/bootstrap.yml:1:3: `include` beside plays is refused by the Ansible of today (write `import_playbook:`)
        b/ansible/bootstrap.yml:3:3: `sudo` of a play is refused by the Ansible of today (write `become: true`)
        b/ansible/bootstrap.yml:5:18: `sudo` of a role is only a variable of it in the Ansible of today (write `become: true`)
        b/ansible/bootstrap.yml:7:7: `include` is deprecated, and gone from ansible-core 2.16 on (write `import_tasks:`, or `include_tasks:` where a loop or a condition decides at run time)
        b/ansible/bootstrap.yml:10:14: the filter `failed` is gone: it is a test in the Ansible of today (write `is failed` in the place of `| failed`)
        b/ansible/bootstrap.yml:10:27: the filter `success` is gone: it is a test in the Ansible of today (write `is success` in the place of `| success`)
        b/ansible/bootstrap.yml:11:7: `always_run` of a task is refused by the Ansible of today (write `check_mode: false`)
        b/ansible/bootstrap.yml:12:7: the module `easy_install` is gone from Ansible (write `pip:`)
        b/ansible/bootstrap.yml:14:19: `with_items: packages` is the text `packages` in the Ansible of today, not the variable (write `with_items: "{{ packages }}"`)
        "#);
    }

    #[test]
    fn a_playbook_that_only_ansible_can_read_is_looked_at_line_by_line() {
        let said = said("- hosts: local\n  sudo: true\n  tasks:\n    - x: y\n      until: r|success\n\t- broken: [\n");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains(":2:3: `sudo`") && said[1].contains(":5:15: the filter `success`"), "{said:?}");
    }

    #[test]
    fn what_is_of_today_is_left_in_peace() {
        let text = "- hosts: all\n  become: true\n  tasks:\n    - import_tasks: x.yml\n    - shell: cat x | changed\n    - debug: \
                    msg=\"{{ x | default('failed') }}\"\n      when: x is failed\n      with_items: \"{{ list }}\"\n    - \
                    command: x\n      with_items: [a, b]\n";
        assert_eq!(said(text), [""; 0]);
    }
}
