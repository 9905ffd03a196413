//! Templates through the installed Ansible: one `ansible-playbook` in the sandbox renders all of a bundle.
//!
//! It runs Ansible's own template action and not a copy of what that does, so the results are those of whatever version
//! is installed. What we add (`templates/*.py`) gives each template a process with its own limits, and takes the transfer
//! to a host out, of which there is none. What comes back was written by code that a template may have had a hand in,
//! so it is read beneath its directory, following no link.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::beneath;
use super::host::Place;
use super::sandbox::scratch::Scratch;
use crate::domain::path::RepoPath;
use crate::domain::template::{Answer, Handed};
use crate::engine::ports::{LineSink, PortError};

/// Where templates and results lie, below `src`.
const TEMPLATES: &str = "in";
const RESULTS: &str = "out";
/// How long Ansible may take to start, before the templates' own time begins. It needs less than a second; a host
/// that builds on all its processors can need ten times as long, which no template must pay for.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How many times as long the templates may take by the clock as of a processor's time: where more programs run than there
/// are processors, each waits for its turn.
const PATIENCE: u32 = 6;
/// What the process of one template may have: room for a result of 64 MiB in the forms it goes through.
const MEMORY: u64 = 768 << 20;
/// What is read of an answer's words.
const WORDS: u64 = 64 << 10;
const PLAY: &str = r#"[{"hosts": "localhost", "gather_facts": false, "tasks": [{"factoryd_templates": {}}]}]"#;

/// How long the whole run may take.
pub(crate) fn within(handed: &Handed) -> Duration {
    // The plugin ends what is late; the rest is for the end of Ansible itself.
    START_WITHIN + handed.time * PATIENCE
}

/// Lays the templates into `src`, and what Ansible is told into `run`.
pub(crate) fn lay(scratch: &Scratch, handed: &Handed, place: &Place) -> Result<(), PortError> {
    let laid = || {
        scratch.make(&RepoPath::new(RESULTS).unwrap_or_default())?;
        for (at, (path, content)) in handed.files.iter().enumerate() {
            scratch.put(&inside(at, path), content)?;
        }
        for (name, text) in control(handed, place) {
            scratch.write(name, text.as_bytes())?;
        }
        Ok(())
    };
    laid().map_err(|error: std::io::Error| {
        PortError::unavailable(format!("can't write {}: {error}", scratch.path().display()))
    })
}

/// Where a template lies. A name that is not text can't be said to Ansible, and nobody can include it.
fn inside(at: usize, path: &RepoPath) -> RepoPath {
    let name = path.as_str().map_or_else(|| format!("factoryd-{at}-is-no-text.j2"), str::to_owned);
    RepoPath::new(TEMPLATES).and_then(|directory| directory.join(name)).unwrap_or_default()
}

fn control(handed: &Handed, place: &Place) -> [(&'static str, String); 6] {
    let names = handed.wanted.iter().filter_map(|at| {
        let (path, _) = handed.files.get(*at)?;
        Some(inside(*at, path).to_string())
    });
    let order = json!({
        "sources": place.src,
        "results": place.src.join(RESULTS),
        "wanted": names.collect::<Vec<_>>(),
        "seconds": handed.time.as_secs_f64(),
        "patience": PATIENCE,
        "first_seconds": handed.first_slice.as_secs_f64(),
        "output": handed.output,
        "memory": MEMORY,
    });
    let configuration = format!(
        "[defaults]\naction_plugins = {}\nlocal_tmp = {}/ansible\nnocolor = True\nlocalhost_warning = False\n\
         deprecation_warnings = False\nretry_files_enabled = False\n",
        place.run.display(),
        place.tmp.display(),
    );
    [
        ("ansible.cfg", configuration),
        ("play.json", PLAY.to_owned()),
        ("order.json", order.to_string()),
        ("vars.json", handed.vars.clone()),
        ("factoryd_templates.py", include_str!("templates/factoryd_templates.py").to_owned()),
        ("copy.py", include_str!("templates/copy.py").to_owned()),
    ]
}

/// Its environment, besides what every program gets.
pub(crate) fn environment(place: &Place) -> Vec<(String, String)> {
    vec![("ANSIBLE_CONFIG".to_owned(), place.run.join("ansible.cfg").display().to_string())]
}

pub(crate) fn arguments(place: &Place) -> Vec<OsString> {
    let mut vars = OsString::from("@");
    vars.push(place.run.join("vars.json"));
    let words: [OsString; 7] = [
        "--inventory".into(),
        "localhost,".into(),
        "--connection".into(),
        "local".into(),
        "--extra-vars".into(),
        vars,
        place.run.join("play.json").into(),
    ];
    words.into()
}

/// What one answer says.
#[derive(Deserialize)]
struct Said {
    kind: String,
    message: String,
}

/// Reads what became of each of so many wanted templates, `most` bytes in all. One without an answer ended with its
/// process.
pub(crate) fn answers(scratch: &Scratch, count: usize, most: u64) -> Result<Vec<Answer>, PortError> {
    let results = scratch.path().join("src").join(RESULTS);
    let mut left = most;
    let answer = |at: usize| {
        let said = beneath::read(&results, format!("{at}.json").as_bytes(), WORDS)?;
        let Some(said) = said.and_then(|bytes| serde_json::from_slice::<Said>(&bytes).ok()) else {
            return Ok(Answer::Failed("its process ended without an answer".to_owned()));
        };
        Ok(match said.kind.as_str() {
            "late" => Answer::Late,
            "large" => Answer::TooLarge,
            "memory" => Answer::OutOfMemory,
            "done" => match beneath::read(&results, at.to_string().as_bytes(), left)? {
                Some(bytes) => {
                    left -= bytes.len() as u64;
                    Answer::Text(bytes)
                }
                None => Answer::TooLarge,
            },
            _ => Answer::Failed(said.message),
        })
    };
    let all: std::io::Result<Vec<Answer>> = (0..count).map(answer).collect();
    all.map_err(|error| PortError::unavailable(format!("the results of Ansible can't be read: {error}")))
}

/// Keeps what Ansible says when it fails as a whole.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Mutex<Option<String>>);

impl Complaint {
    pub(crate) fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LineSink for Complaint {
    fn line(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_error = |text: &str| ["ERROR!", "fatal:", "[ERROR]", "Error"].iter().any(|mark| text.contains(mark));
        if !text.is_empty() && kept.as_deref().is_none_or(|old| !is_error(old)) {
            *kept = Some(text.chars().take(500).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// What stands for Ansible: the task's source says in Python what rendering it does.
    const STUB: &str = "class ActionModule:\n    def run(self, tmp=None, task_vars=None):\n        \
                        exec(open(self._task.args['src']).read())\n        open(self._task.args['dest'], 'w').write('x')\n        \
                        return {}\n";
    const DRIVER: &str = "import factoryd_templates as ours, types\nmodule = ours.ActionModule()\nmodule._task = \
                          types.SimpleNamespace(args={})\nmodule.run(None, {})\n";

    /// What becomes of templates that have half a second of a processor's time, and three by the clock.
    fn become_of(sources: &[&str]) -> Vec<String> {
        let scratch = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        put("ansible/plugins/action/template.py", STUB);
        put("factoryd_templates.py", include_str!("templates/factoryd_templates.py"));
        put("driver.py", DRIVER);
        put("out/kept", "");
        sources.iter().enumerate().for_each(|(at, source)| put(&format!("in/{at}"), source));
        let order = serde_json::json!({
            "sources": scratch.path().join("in"),
            "results": scratch.path().join("out"),
            "wanted": (0..sources.len()).map(|at| at.to_string()).collect::<Vec<_>>(),
            "seconds": 0.5, "first_seconds": 0.25, "patience": 6, "output": 1 << 20, "memory": 1_u64 << 30,
        });
        put("order.json", &order.to_string());
        let done = Command::new("python3").arg("driver.py").current_dir(scratch.path()).output().expect("python");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let kind = |at: usize| {
            let text = std::fs::read_to_string(scratch.path().join(format!("out/{at}.json"))).expect("an answer");
            let said: super::Said = serde_json::from_str(&text).expect("an answer");
            said.kind
        };
        (0..sources.len()).map(kind).collect()
    }

    #[test]
    fn a_template_is_late_by_what_it_uses_and_not_by_how_long_it_waits() {
        let waits = "import time; time.sleep(0.7)";
        assert_eq!(become_of(&[waits, "while True: pass", ""]), ["done", "late", "done"]);
        assert_eq!(become_of(&["import time; time.sleep(600)", ""]), ["late", "done"]);
    }
}
