//! What `factoryd check` finds in a bundle beyond what building it needs to read: its outputs, rendered for an image that
//! is not there, the files beside them, and its playbooks.

use super::{Failure, ansible};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Lint, Render};
use crate::domain::tree::Tree;
use crate::manifest::directory::Directory;
use crate::manifest::fault::Fault;
use crate::manifest::reading::BundleReading;
use crate::manifest::{MOST_BYTES, old_playbooks, read_vars};
use crate::render::{self, Engines, Outcome, Stamp, Variables};

/// Stands for the image that a build would make; no image has it.
const IMAGE: &str = "ffffffff-ffff-4fff-bfff-ffffffffffff";
/// Stands for the moment of a build.
const STAMP: Stamp = Stamp { year: 2000, month: 1, day: 1, hour: 0, minute: 0, second: 0 };

/// What was found in a bundle.
#[derive(Default)]
pub(super) struct Looked {
    /// What the pipeline holds for an error.
    pub(super) faults: Vec<Fault>,
    /// What an author should know.
    pub(super) warnings: Vec<Fault>,
}

/// Looks at a bundle's outputs and playbooks.
pub(super) fn look(tree: &Directory, bundle: &BundleReading) -> Result<Looked, Failure> {
    let mut looked = Looked { faults: Vec::new(), warnings: old_playbooks(tree, &bundle.path) };
    let render = match &bundle.verdict {
        Ok(buildable) => buildable.pipeline.render.clone(),
        Err(_) => as_if_buildable(tree, &bundle.path),
    };
    let Some(render) = render else { return Ok(looked) };
    let directory = bundle.path.join(render.templates.as_bytes()).unwrap_or_else(|| bundle.path.clone());
    let mut found = rendered(tree, &directory, &render)?;
    found.extend(render::statics(tree, &directory).unwrap_or_default());
    // Where results can't be told apart, nothing of the bundle is rendered, whatever the pipeline says of lint.
    let is_fault = |fault: &Fault| render.lint == Lint::Error || fault.code == render::BAD_NAME;
    for fault in found {
        if is_fault(&fault) { looked.faults.push(fault) } else { looked.warnings.push(fault) }
    }
    Ok(looked)
}

/// A bundle that can't be built has outputs all the same, and an author wants to know of them at once.
fn as_if_buildable(tree: &Directory, bundle: &RepoPath) -> Option<Render> {
    let file = bundle.join("build-vars.yml")?;
    let text = String::from_utf8(tree.read(&file, MOST_BYTES).ok()?).ok()?;
    let vars = read_vars("build-vars.yml", bundle, &text).ok()?;
    Some(Render { templates: RepoPath::new("output")?, vars: vars.into(), lint: Lint::Warn })
}

/// Renders the templates and gives what fails and what looks wrong.
fn rendered(tree: &Directory, directory: &RepoPath, render: &Render) -> Result<Vec<Fault>, Failure> {
    let variables = Variables::new(IMAGE).file(&render.vars).stamp(STAMP);
    let outcome = match render::begin(tree, directory, &variables, Engines::Auto) {
        Ok(begun) => ansible::finish(begun)?.0,
        Err(failed) => Outcome { rendered: Vec::new(), failed },
    };
    let mut faults: Vec<Fault> = outcome.failed.iter().map(|failed| failed.fault(directory)).collect();
    for result in &outcome.rendered {
        faults.extend(render::in_template(tree, directory, result));
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RepoName;
    use crate::manifest::{Cache, read};

    #[test]
    fn results_that_share_a_name_are_faults_whatever_is_said_of_lint() {
        let root = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        put("images/bundle-web/build-vars.yml", "bundle:\n  name: bundle-web\n  img_base: debian-12\n");
        put("images/bundle-web/ansible/bootstrap.yml", "- hosts: all\n");
        put("images/bundle-web/output/a.yml.j2", "a: 1\n");
        let looked = || {
            let tree = Directory::open(root.path()).expect("the directory");
            let reading = read(&tree, &RepoName::from("factory"), &Cache::default()).expect("a reading");
            let looked = look(&tree, &reading.bundles[0]).map_err(|_| ()).expect("a look");
            looked.faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(looked(), Vec::<String>::new());
        put("images/bundle-web/output/a.yml.hbs", "a: 1\n");
        put("images/bundle-web/output/.j2", "a: 1\n");
        assert_eq!(
            looked(),
            [
                "images/bundle-web/output/.j2:1:1: its result would be called ``",
                "images/bundle-web/output/a.yml.j2:1:1: its result, a.yml, is also that of a.yml.hbs",
            ]
        );
    }
}
