//! The templates below a directory of a tree: regular files whose names end in `.j2` or `.hbs`, no link followed.

use super::{Code, Failed, Template, limits, names};
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The templates that could be read.
    pub(super) templates: Vec<Template>,
    /// The templates that could not.
    pub(super) failed: Vec<Failed>,
}

/// Reads the templates below a directory; a directory that is not there has none.
pub(super) fn collect(tree: &dyn Tree, directory: &RepoPath) -> Result<Found, Failed> {
    let entry = tree.entry(directory).map_err(|error| unreadable(directory, &error.to_string(), ""))?;
    let mut walk = Walk { tree, directory, found: Found::default(), left: limits::TEMPLATES_BYTES, entries: 0 };
    match entry.map(|entry| entry.kind) {
        None => {}
        Some(EntryKind::Directory) => walk.directory(&RepoPath::root(), 0)?,
        Some(_) => return Err(unreadable(directory, "it is not a directory", "make it a directory of templates")),
    }
    Ok(walk.found)
}

struct Walk<'t> {
    tree: &'t dyn Tree,
    directory: &'t RepoPath,
    found: Found,
    left: u64,
    entries: usize,
}

impl Walk<'_> {
    fn directory(&mut self, below: &RepoPath, depth: usize) -> Result<(), Failed> {
        if depth > limits::RECURSION {
            return Err(unreadable(below, "its directories nest deeper than 100", "flatten them"));
        }
        let entries = self.tree.list(&self.full(below)).map_err(|error| unreadable(below, &error.to_string(), ""))?;
        self.entries += entries.len();
        if self.entries > limits::TEMPLATES {
            let message = format!("there are more than {} files with the templates", limits::TEMPLATES);
            return Err(unreadable(below, &message, "keep other files elsewhere"));
        }
        for entry in entries {
            let Some(path) = below.join(&entry.name) else { continue };
            match entry.kind {
                EntryKind::Directory => self.directory(&path, depth + 1)?,
                EntryKind::Submodule => {}
                _ => self.file(path, &entry),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: RepoPath, entry: &Entry) {
        let Some(engine) = names::engine(&entry.name) else { return };
        let read = match entry.kind {
            EntryKind::Link => {
                Err(("it is a symbolic link, and none is followed".to_owned(), "put the file itself here"))
            }
            _ => self.read(&path),
        };
        match read {
            Ok(content) => self.found.templates.push(Template { path, content }),
            Err((message, help)) => {
                let result = names::result(&path, engine).ok();
                self.found.failed.push(Failed { result, ..unreadable(&path, &message, help) });
            }
        }
    }

    fn read(&mut self, path: &RepoPath) -> Result<Vec<u8>, (String, &'static str)> {
        let limit = self.left.min(limits::TEMPLATE_BYTES);
        let content = self.tree.read(&self.full(path), limit).map_err(|error| match error {
            TreeError::TooLarge { .. } if limit < limits::TEMPLATE_BYTES => {
                ("the templates exceed 32 MiB together".to_owned(), "split the bundle")
            }
            TreeError::TooLarge { .. } => ("the template exceeds 16 MiB".to_owned(), "split it"),
            other => (other.to_string(), ""),
        })?;
        self.left -= content.len() as u64;
        Ok(content)
    }

    fn full(&self, below: &RepoPath) -> RepoPath {
        // Joining names that a tree listed cannot leave the root.
        self.directory.join(below.as_bytes()).unwrap_or_default()
    }
}

fn unreadable(template: &RepoPath, message: &str, help: &str) -> Failed {
    Failed { code: Code::Unreadable, ..names::fault(template, message, help) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Templates;

    /// A tree of (path, kind, content), sorted.
    struct Listed(Vec<(&'static str, EntryKind, Vec<u8>)>);

    impl Listed {
        fn find(&self, path: &RepoPath) -> Option<&(&'static str, EntryKind, Vec<u8>)> {
            self.0.iter().find(|(known, ..)| known.as_bytes() == path.as_bytes())
        }
    }

    impl Tree for Listed {
        fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError> {
            let entry = |kind| Entry { name: path.name().to_vec(), kind, oid: None };
            Ok(self.find(path).map(|(_, kind, _)| entry(*kind)))
        }

        fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError> {
            let below = self.0.iter().filter_map(|(path, kind, _)| Some((RepoPath::new(path)?, *kind)));
            let here = below.filter(|(path, _)| path.parent() == *directory && !path.is_root());
            Ok(here.map(|(path, kind)| Entry { name: path.name().to_vec(), kind, oid: None }).collect())
        }

        fn read(&self, path: &RepoPath, limit: u64) -> Result<Vec<u8>, TreeError> {
            let (_, _, content) = self.find(path).ok_or_else(|| TreeError::Missing(path.clone()))?;
            if content.len() as u64 > limit {
                return Err(TreeError::TooLarge { path: path.clone(), limit });
            }
            Ok(content.clone())
        }
    }

    #[test]
    fn templates_are_found_at_any_depth_and_links_are_refused() {
        let tree = Listed(vec![
            ("b", EntryKind::Directory, Vec::new()),
            ("b/output", EntryKind::Directory, Vec::new()),
            ("b/output/a.yml.j2", EntryKind::Executable, b"a".to_vec()),
            ("b/output/deep", EntryKind::Directory, Vec::new()),
            ("b/output/deep/c.hbs", EntryKind::File, b"c".to_vec()),
            ("b/output/huge.j2", EntryKind::File, vec![b'x'; (16 << 20) + 1]),
            ("b/output/link.j2", EntryKind::Link, b"/etc/shadow".to_vec()),
            ("b/output/linked", EntryKind::Link, b"/etc".to_vec()),
            ("b/output/static.yml", EntryKind::File, b"s".to_vec()),
        ]);
        let templates = Templates::collect(&tree, &RepoPath::new("b/output").expect("inside")).expect("names");
        let outcome = templates.render(&crate::render::Variables::new("id"));
        let rendered: Vec<String> = outcome.rendered.iter().map(|one| one.path.to_string()).collect();
        assert_eq!(rendered, ["a.yml", "deep/c"]);
        let failed: Vec<String> = outcome.failed.iter().map(ToString::to_string).collect();
        insta::assert_debug_snapshot!(failed, @r#"
        [
            "huge.j2:1:1: the template exceeds 16 MiB",
            "link.j2:1:1: it is a symbolic link, and none is followed",
        ]
        "#);
        let none = Templates::collect(&tree, &RepoPath::new("b/nowhere").expect("inside")).expect("names");
        assert!(none.is_empty());
        assert!(Templates::collect(&tree, &RepoPath::new("b/output/linked").expect("inside")).is_err());
    }
}
