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
/// What the process of one template may have: room for a result of 64 MiB in the forms it goes through.
const MEMORY: u64 = 768 << 20;
/// What is read of an answer's words.
const WORDS: u64 = 64 << 10;
const PLAY: &str = r#"[{"hosts": "localhost", "gather_facts": false, "tasks": [{"factoryd_templates": {}}]}]"#;

/// How long the whole run may take.
pub(crate) fn within(handed: &Handed) -> Duration {
    // The plugin ends what is late; the rest is for the end of Ansible itself.
    START_WITHIN + handed.time
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
