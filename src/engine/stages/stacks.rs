//! Has the Heat templates among the outputs looked at by the cloud that they are for, and says what came of it.
//!
//! What Heat refuses looks wrong as anything else in an output does. That nobody looked is said, and is never a reason to
//! fail: whether a cloud has a Heat, and whether it answers, is not the bundle's.

use std::sync::Arc;
use std::time::Duration;

use super::super::log::StepLog;
use super::super::runner::Run;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Lint, Stage};
use crate::domain::stack::Verdict;
use crate::engine::ports::{Driver, Wait};
use crate::render::{Question, Rendered, heat_templates};
use crate::store::Warning;

/// How long all templates of a build together may take. A Heat that hangs keeps no build waiting for longer, however many
/// there are.
const MOST: Duration = Duration::from_secs(300);

/// What came of the look.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// What looks wrong.
    pub(super) wrong: Vec<Warning>,
    /// What nobody looked at, and people should know of.
    pub(super) unseen: Vec<Warning>,
}

/// What is to be told of a template.
enum Told {
    /// To whoever reads the log.
    Line(String),
    /// To whoever looks at the build, as something that looks wrong.
    Wrong(String),
    /// To whoever looks at the build, as something that nobody looked at.
    Unseen(String),
}

/// Asks about each template. `directory` is where the templates lie in the repository.
pub(super) async fn look(
    run: &Run,
    driver: &Arc<dyn Driver>,
    directory: &RepoPath,
    rendered: &[Rendered],
    lint: Lint,
) -> Looked {
    let (log, wait) = (run.stage_log(Stage::Render), run.wait.within(MOST));
    let mut looked = Looked::default();
    for (result, question) in heat_templates(rendered) {
        match ask(driver, &question, lint, &wait).await {
            Told::Line(text) => log.say(&format!("{}: {text}", result.path)),
            Told::Wrong(text) => looked.wrong.push(warning(result, directory, "heat-refuses", text, &log)),
            Told::Unseen(text) => looked.unseen.push(warning(result, directory, "heat-unseen", text, &log)),
        }
    }
    looked
}

async fn ask(driver: &Arc<dyn Driver>, question: &Question, lint: Lint, wait: &Wait) -> Told {
    let (template, without) = match question {
        Question::Whole { template, without } => (template, without),
        Question::Nothing(why) => return Told::Unseen(format!("Heat was not asked about it: {why}")),
    };
    match driver.validate(template, wait).await {
        Verdict::Valid if without.is_empty() => Told::Line("Heat finds it valid".to_owned()),
        Verdict::Valid => Told::Line(format!(
            "Heat finds it valid, without having seen {}, which it reads and the outputs lack",
            without.join(", ")
        )),
        Verdict::Refused(words) => Told::Wrong(format!("Heat refuses the template: {words}")),
        Verdict::NoAnswer(why) => Told::Unseen(format!("Heat did not look at the template: {why}")),
        // Who wants to be stopped by whatever is wrong wants to know that less is looked at; for others it is as ever.
        Verdict::NoService(why) if lint == Lint::Error => Told::Unseen(format!("no Heat looked at it: {why}")),
        Verdict::NoService(why) | Verdict::NoCloud(why) => Told::Line(format!("no Heat looked at it: {why}")),
    }
}

fn warning(result: &Rendered, directory: &RepoPath, code: &str, message: String, log: &Arc<StepLog>) -> Warning {
    let file = directory.join(result.template.as_bytes()).unwrap_or_else(|| result.template.clone()).to_string();
    log.say(&format!("warning: {file}: {message}"));
    let help = match code {
        "heat-refuses" => "what Heat says is of the result, which is among the build's artifacts",
        _ => "this fails no build; factoryd build BUNDLE --from render asks again",
    };
    Warning { file, line: 0, column: 0, code: code.to_owned(), message, help: help.to_owned() }
}
