//! Runs the steps of `provision` and `test`, in the guest over SSH or on the host in the sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::failure::{Problem, Stop};
use super::super::log::StepLog;
use super::super::runner::Run;
use crate::blocking;
use crate::domain::build::{Event, StepEnd};
use crate::domain::expression::Text;
use crate::domain::inputs::{From, Input};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, Stage, Step, StepPath};
use crate::engine::ports::{Exit, HostJob, HostProgram, Lines, PortErrorKind, Wait};

/// The steps of one stage.
pub(super) struct Steps<'a> {
    pub(super) stage: Stage,
    pub(super) steps: &'a [Step],
    /// JUnit reports to keep, as globs below the bundle.
    pub(super) reports: &'a [String],
    /// The stage's deadline.
    pub(super) wait: Wait,
}

/// Runs them in order; the first that fails and may not ends it.
pub(super) async fn run(run: &mut Run, steps: &Steps<'_>) -> Result<(), Stop> {
    checkout(run).await?;
    let of = u32::try_from(steps.steps.len()).unwrap_or(u32::MAX);
    for (number, step) in (1..).zip(steps.steps) {
        let (stage, name) = (steps.stage, step.name.clone());
        run.journal(Event::StepStarted { stage, step: number, of, name }, Vec::new()).await?;
        let log = StepLog::new(&run.log, stage, Some(number));
        let end = match one(run, steps, number, step, &log).await {
            Ok(()) => StepEnd::Passed,
            Err(Stop::Failed(problem)) if step.allow_failure => {
                log.say(&format!("failed, which the pipeline allows: {}", problem.message));
                StepEnd::FailedAllowed
            }
            Err(stop) => {
                let line = log.first_error().map(|(line, _)| line);
                let end = StepEnd::Failed;
                if !matches!(stop, Stop::Store(_)) {
                    run.journal(Event::StepFinished { stage, step: number, end }, Vec::new()).await?;
                }
                return Err(stop.in_step(&step.name, line));
            }
        };
        run.journal(Event::StepFinished { stage, step: number, end }, Vec::new()).await?;
    }
    Ok(())
}

async fn one(run: &Run, steps: &Steps<'_>, number: u32, step: &Step, log: &Arc<StepLog>) -> Result<(), Stop> {
    let wait = step.timeout.map_or_else(|| steps.wait.clone(), |limit| steps.wait.within(limit));
    let env =
        step.env.iter().map(|(name, text)| Ok((name.clone(), run.fill(text)?))).collect::<Result<Vec<_>, Stop>>()?;
    let lines = log.lines();
    let result = match &step.action {
        Action::Shell { text } => in_guest(run, &run.fill(text)?, &env, &lines, &wait).await,
        Action::Script { path, args } => {
            let to = format!("/tmp/factoryd-step-{number}");
            upload(run, path, &to, Some(0o755), &wait).await?;
            in_guest(run, &format!("{to}{}; s=$?; rm -f {to}; exit $s", arguments(run, args)?), &env, &lines, &wait)
                .await
        }
        Action::Upload { from, to, mode } => {
            let to = run.fill(to)?;
            upload(run, from, &to, *mode, &wait).await?;
            log.say(&format!("copied {from} to {to}"));
            Ok(Exit::Code(0))
        }
        Action::AnsibleLocal { playbook, extra_arguments } => {
            ansible_local(run, number, playbook, extra_arguments, &env, &lines, &wait).await
        }
        Action::Ansible { .. } | Action::Pytest { .. } => on_host(run, steps, number, step, env, &lines, &wait).await,
    };
    match result? {
        Exit::Code(0) => Ok(()),
        exit => Err(Stop::Failed(Problem::new(failed(step, &exit, log), help(step)))),
    }
}

fn failed(step: &Step, exit: &Exit, log: &StepLog) -> String {
    let told = log.first_error().map(|(_, text)| format!(": {}", text.trim())).unwrap_or_default();
    format!("{} ended with {exit}{told}", step.action.word())
}

fn help(step: &Step) -> String {
    format!("the step is written at {}:{}", step.written.0, step.written.1)
}

async fn in_guest(
    run: &Run,
    command: &str,
    env: &[(String, String)],
    lines: &Lines,
    wait: &Wait,
) -> Result<Exit, Stop> {
    let machine = run.machine.as_ref().ok_or_else(gone)?;
    Ok(machine.guest().run(command, env, lines, wait).await?)
}

async fn upload(run: &Run, from: &StepPath, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), Stop> {
    let machine = run.machine.as_ref().ok_or_else(gone)?;
    let path = from.in_repository(&run.order.key.path);
    Ok(machine.guest().upload(&below(&checkout_of(run), &path), to, mode, wait).await?)
}

fn gone() -> Stop {
    Stop::failed("the machine is gone", "factoryd retry")
}

async fn ansible_local(
    run: &Run,
    number: u32,
    playbook: &StepPath,
    extra: &[Text],
    env: &[(String, String)],
    lines: &Lines,
    wait: &Wait,
) -> Result<Exit, Stop> {
    let to = format!("/tmp/factoryd-step-{number}");
    let directory = match playbook {
        StepPath::Bundle(path) => StepPath::Bundle(path.parent()),
        StepPath::Root(path) => StepPath::Root(path.parent()),
    };
    let name = String::from_utf8_lossy(playbook.in_repository(&run.order.key.path).name()).into_owned();
    upload(run, &directory, &to, None, wait).await?;
    let command = format!(
        "cd {to} && ansible-playbook -i local, -c local{} {}; s=$?; rm -rf {to}; exit $s",
        arguments(run, extra)?,
        quote(&name),
    );
    in_guest(run, &command, env, lines, wait).await
}

async fn on_host(
    run: &Run,
    steps: &Steps<'_>,
    number: u32,
    step: &Step,
    mut env: Vec<(String, String)>,
    lines: &Lines,
    wait: &Wait,
) -> Result<Exit, Stop> {
    let access = run.machine.as_ref().ok_or_else(gone)?.access().clone();
    run.grants.check_network(step)?;
    if let Some(image) = &run.image {
        env.push(("FACTORYD_IMAGE_ID".to_owned(), image.id.to_string()));
    }
    let (program, mut collect) = program(run, number, step)?;
    collect.extend(steps.reports.iter().cloned());
    let job = HostJob {
        build: run.order.number,
        program,
        checkout: checkout_of(run),
        bundle: run.order.key.path.clone(),
        env,
        secrets: run.grants.secrets(&run.engine.policy().secrets, step)?,
        network: step.network,
        access,
        collect,
        collect_into: reports_of(run).join(number.to_string()),
    };
    let end = run.engine.host().run(&job, lines, wait).await?;
    for refused in &end.refused {
        lines.line(format!("not kept: {refused}").as_bytes());
    }
    Ok(end.exit)
}

/// What is run, and the report that it leaves.
fn program(run: &Run, number: u32, step: &Step) -> Result<(HostProgram, Vec<String>), Stop> {
    let bundle = &run.order.key.path;
    let fill_all = |texts: &[Text]| texts.iter().map(|text| run.fill(text)).collect::<Result<Vec<_>, Stop>>();
    match &step.action {
        Action::Pytest { path, args } => {
            let report = format!("reports/{number}-{}.xml", file_name(&step.name));
            let program =
                HostProgram::Pytest { path: path.in_repository(bundle), args: fill_all(args)?, report: report.clone() };
            Ok((program, vec![report]))
        }
        Action::Ansible { playbook, extra_arguments } => {
            let playbook = playbook.in_repository(bundle);
            Ok((HostProgram::Ansible { playbook, extra_arguments: fill_all(extra_arguments)? }, Vec::new()))
        }
        _ => Err(Stop::failed(format!("{} does not run on the host", step.action.word()), "factoryd check")),
    }
}

/// The versions of the tools that host steps bring into the resolved fingerprint.
pub(super) async fn versions(run: &Run, steps: &[Step]) -> Result<Vec<(String, String)>, Stop> {
    let mut found = Vec::new();
    for (number, step) in (1..).zip(steps).filter(|(_, step)| step.action.is_host()) {
        found.extend(run.engine.host().versions(&program(run, number, step)?.0).await?);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Writes the bundle, and whatever else its stages read, below the build's scratch directory; once per build.
async fn checkout(run: &Run) -> Result<(), Stop> {
    let into = checkout_of(run);
    let mut paths = vec![run.order.key.path.clone()];
    for input in run.buildable.stages.iter().flat_map(|stage| stage.own.iter()) {
        if let Input::File { from: From::Root, path, .. } = input {
            paths.push(path.clone());
        }
    }
    let repositories = Arc::clone(run.engine.repositories());
    let (repository, commit) = (run.order.key.repository.clone(), run.order.commit.clone());
    let written = blocking::run(move || {
        if into.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&into)
            .map_err(|error| crate::engine::ports::PortError::unavailable(format!("{}: {error}", into.display())))?;
        repositories.checkout(&repository, &commit, &paths, &into)
    });
    written.await.map_err(|error| match error.kind {
        PortErrorKind::Cancelled => Stop::Cancelled,
        _ => Stop::failed(format!("the files of the commit can't be laid out: {}", error.message), error.help),
    })
}

fn checkout_of(run: &Run) -> PathBuf {
    run.scratch.join("checkout")
}

/// Where the reports of the steps lie.
pub(super) fn reports_of(run: &Run) -> PathBuf {
    run.files.join("reports")
}

fn below(directory: &Path, path: &RepoPath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    directory.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn arguments(run: &Run, args: &[Text]) -> Result<String, Stop> {
    args.iter().map(|text| Ok(format!(" {}", quote(&run.fill(text)?)))).collect()
}

/// A word as a POSIX shell takes it, whatever is in it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
