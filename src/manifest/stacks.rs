//! What a Heat template among the outputs reads besides itself: whoever gives it to Heat must give that, too.

use super::fault::Source;
use super::node::{Kind, Node};
use super::yaml;

/// How the names of templates end that a resource can be made of, as Heat has it.
const TEMPLATES: [&str; 2] = [".yaml", ".template"];
/// What Heat fetches itself.
const FETCHED: [&str; 2] = ["http://", "https://"];

/// What a Heat template reads, by the names that it has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackReads {
    /// Files whose text is put somewhere.
    pub files: Vec<String>,
    /// Templates that its resources are made of.
    pub nested: Vec<String>,
}

/// What a text reads if it is a Heat template.
pub fn stack_reads(text: &str) -> Option<StackReads> {
    if !text.contains("heat_template_version") {
        return None;
    }
    // Our reader takes no larger one. Heat takes none of half that size, and says so.
    if text.len() as u64 > yaml::MOST_BYTES {
        return text.lines().any(|line| line.starts_with("heat_template_version")).then(StackReads::default);
    }
    let root = yaml::load(&Source::new("", text), &mut Vec::new())?;
    root.get("heat_template_version")?;
    let mut reads = StackReads::default();
    if let Some(Kind::Map(resources)) = root.get("resources").map(|node| &node.kind) {
        let kinds = resources.iter().filter_map(|(_, resource)| resource.get("type")?.text());
        let nested = kinds.filter(|kind| TEMPLATES.iter().any(|end| kind.ends_with(end)) && !is_fetched(kind));
        reads.nested = nested.map(str::to_owned).collect();
    }
    files_in(&root, &mut reads.files);
    for names in [&mut reads.files, &mut reads.nested] {
        names.sort();
        names.dedup();
    }
    Some(reads)
}

fn is_fetched(name: &str) -> bool {
    FETCHED.iter().any(|begin| name.starts_with(begin))
}

fn files_in(node: &Node, files: &mut Vec<String>) {
    match &node.kind {
        Kind::List(items) => items.iter().for_each(|item| files_in(item, files)),
        Kind::Map(entries) => {
            if let [(key, value)] = entries.as_slice()
                && key.text == "get_file"
            {
                files.extend(value.text().map(str::to_owned));
            }
            entries.iter().for_each(|(_, value)| files_in(value, files));
        }
        Kind::Scalar { .. } | Kind::Open(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_nested_templates_are_found_wherever_they_are_named() {
        let text = "heat_template_version: 2016-10-14\nresources:\n  web: {type: nested/web.yaml}\n  again: {type: \
                    nested/web.yaml}\n  far: {type: 'https://x/y.yaml'}\n  server:\n    type: OS::Nova::Server\n    \
                    properties:\n      user_data:\n        str_replace: {template: {get_file: boot.sh}, params: {a: \
                    {get_file: [b]}}}\n";
        let reads = stack_reads(text).expect("a template");
        assert_eq!((reads.files, reads.nested), (vec!["boot.sh".to_owned()], vec!["nested/web.yaml".to_owned()]));
    }

    #[test]
    fn what_is_no_heat_template_reads_nothing() {
        for text in ["a: 1\n", "# heat_template_version\n- b\n", "{ heat_template_version: [", ""] {
            assert_eq!(stack_reads(text), None, "{text}");
        }
        assert_eq!(stack_reads("heat_template_version: 2013-05-23\n"), Some(StackReads::default()));
    }
}
