//! A file of settings that is not the factory's own, such as `clouds.yaml`: its scalars as they are written, since a
//! password of digits is no number.

use super::fault::{Fault, Source};
use super::node::{Kind, Node};
use super::yaml;

/// The scalars of a YAML file, in order, each with the keys (for items of lists, the numbers) that lead to it.
///
/// # Errors
/// All faults of the file. `file` is its name for them.
pub fn read_texts(file: &str, text: &str) -> Result<Vec<(Vec<String>, String)>, Vec<Fault>> {
    let mut faults = Vec::new();
    match yaml::load(&Source::new(file, text), &mut faults) {
        Some(root) if faults.is_empty() => {
            let mut texts = Vec::new();
            gather(&root, &mut Vec::new(), &mut texts);
            Ok(texts)
        }
        _ => {
            super::fault::in_order(&mut faults);
            Err(faults)
        }
    }
}

/// The reader bounds how deep a document is.
fn gather(node: &Node, above: &mut Vec<String>, texts: &mut Vec<(Vec<String>, String)>) {
    let mut below = |name: String, node: &Node| {
        above.push(name);
        gather(node, above, texts);
        above.pop();
    };
    match &node.kind {
        Kind::Scalar { raw, .. } => texts.push((above.clone(), raw.clone())),
        Kind::Map(entries) => entries.iter().for_each(|(key, node)| below(key.text.clone(), node)),
        Kind::List(items) => items.iter().enumerate().for_each(|(at, node)| below(at.to_string(), node)),
        Kind::Open(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_as_they_are_written() {
        let text =
            "clouds:\n  a:\n    auth: {password: 0123, username: \"yes\"}\n    verify: no\n    regions: [x, y]\n";
        let read = read_texts("clouds.yaml", text).expect("it is YAML");
        let shown: Vec<String> = read.iter().map(|(keys, text)| format!("{} {text}", keys.join("/"))).collect();
        assert_eq!(
            shown,
            [
                "clouds/a/auth/password 0123",
                "clouds/a/auth/username yes",
                "clouds/a/verify no",
                "clouds/a/regions/0 x",
                "clouds/a/regions/1 y"
            ]
        );
        assert!(read_texts("clouds.yaml", "a: [").is_err());
    }
}
