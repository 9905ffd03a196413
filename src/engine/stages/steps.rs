//! Runs the steps of `provision`, of `test` and of what `boot` changes, in the guest over SSH or on the host in the sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::failure::{Problem, Stop};
use super::super::log::StepLog;
use super::super::runner::Run;
use super::guest::{self, Content, InGuest, gone, quote};
use crate::blocking;
use crate::domain::build::{Event, StepEnd};
use crate::domain::expression::Text;
use crate::domain::inputs::{From, Input};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, Stage, Step, StepPath};
use crate::engine::ports::{Exit, HostJob, HostProgram, Lines, PortError, PortErrorKind, Wait};

/// The steps of one stage.
pub(super) struct Steps<'a> {
    pub(super) stage: Stage,
    pub(super) steps: &'a [Step],
    /// JUnit reports to keep, as globs below the bundle.
    pub(super) reports: &'a [String],
    /// Where the guest has the root of a disk that the steps change instead of the guest's own: then they run as root.
    pub(super) root: Option<&'a str>,
    /// The stage's deadline.
    pub(super) wait: Wait,
}

/// Runs them in order; the first that fails and may not ends it. What a template does again begins with the first step
/// that belongs to it.
pub(super) async fn run(run: &mut Run, steps: &Steps<'_>) -> Result<(), Stop> {
    checkout(run).await?;
    super::reports::clear(run, steps.stage).await;
    let of = u32::try_from(steps.steps.len()).unwrap_or(u32::MAX);
    let mut group = Group { wait: steps.wait.clone(), left: 0 };
    let (mut at, mut is_again) = (0, false);
    while let Some(step) = steps.steps.get(at) {
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let (stage, name) = (steps.stage, step.name.clone());
        run.journal(Event::StepStarted { stage, step: number, of, name }, Vec::new()).await?;
        let log = StepLog::new(&run.log, stage, Some(number));
        let ended = match begin(steps, step, &mut group, is_again, &log).await {
            Ok(()) => one(run, steps, number, step, &log, &group.wait).await,
            Err(error) => Err(error.into()),
        };
        is_again = false;
        let end = match ended {
            Ok(()) => StepEnd::Passed,
            Err(Stop::Failed(problem)) if group.left > 0 => {
                group.left -= 1;
                log.say(&format!("failed: {}; tried again, {} tries left", problem.message, group.left));
                run.journal(Event::StepFinished { stage, step: number, end: StepEnd::Failed }, Vec::new()).await?;
                (at, is_again) = (at - step.course.earlier.min(at), true);
                continue;
            }
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
        at += 1;
    }
    Ok(())
}

/// What the steps of one provisioner share: their time, and how often they are still done again.
struct Group {
    wait: Wait,
    left: u32,
}

/// Begins a step: its pause, and the time and tries of the group that it is the first of.
async fn begin(
    steps: &Steps<'_>,
    step: &Step,
    group: &mut Group,
    is_again: bool,
    log: &Arc<StepLog>,
) -> Result<(), PortError> {
    if step.course.pause_before > Duration::ZERO {
        log.say(&format!("a pause of {:?} before", step.course.pause_before));
        guest::pause(&steps.wait, step.course.pause_before).await?;
    }
    if step.course.earlier == 0 {
        group.wait = step.timeout.map_or_else(|| steps.wait.clone(), |limit| steps.wait.within(limit));
        if !is_again {
            group.left = step.course.max_retries;
        }
    }
    Ok(())
}

async fn one(
    run: &Run,
    steps: &Steps<'_>,
    number: u32,
    step: &Step,
    log: &Arc<StepLog>,
    wait: &Wait,
) -> Result<(), Stop> {
    let env =
        step.env.iter().map(|(name, text)| Ok((name.clone(), run.fill(text)?))).collect::<Result<Vec<_>, Stop>>()?;
    let exit = if step.action.is_host() {
        on_host(run, steps, number, step, env, &log.lines(), wait).await?
    } else {
        in_guest(&InGuest { run, number, env: &env, root: steps.root, log, wait }, step).await?
    };
    let is_good = match &exit {
        Exit::Code(code) if step.course.exit_codes.is_empty() => *code == 0,
        Exit::Code(code) => step.course.exit_codes.contains(code),
        Exit::Signal(_) => false,
    };
    if !is_good {
        return Err(Stop::Failed(Problem::new(failed(step, &exit, log), help(step))));
    }
    if step.course.pause_after > Duration::ZERO {
        log.say(&format!("a pause of {:?} after", step.course.pause_after));
        guest::pause(wait, step.course.pause_after).await?;
    }
    Ok(())
}

async fn in_guest(guest: &InGuest<'_>, step: &Step) -> Result<Exit, Stop> {
    let (run, expect_disconnect) = (guest.run, step.course.expect_disconnect);
    match &step.action {
        Action::Shell { text, laid: None } => Ok(guest.cut_short(&run.fill(text)?, expect_disconnect).await?),
        Action::Shell { text, laid: Some(laid) } => {
            guest.script(Content::Lines(&run.fill(text)?), laid, expect_disconnect).await
        }
        Action::Script { path, laid: Some(laid), .. } => {
            guest.script(Content::File(path), laid, expect_disconnect).await
        }
        Action::Script { path, args, laid: None } => {
            let to = format!("/tmp/factoryd-step-{}", guest.number);
            guest.upload(path, &to, Some(0o755)).await?;
            let command = format!("{to}{}; s=$?; rm -f {to}; exit $s", arguments(run, args)?);
            Ok(guest.cut_short(&command, expect_disconnect).await?)
        }
        Action::Upload { from, to, mode, keeps_name } => {
            let to = guest.copy_as_scp(from, &run.fill(to)?, *mode, *keeps_name).await?;
            guest.log.say(&format!("copied {from} to {to}"));
            Ok(Exit::Code(0))
        }
        Action::AnsibleLocal { staged: Some(staged), .. } => guest.playbook(staged).await,
        Action::AnsibleLocal { playbook, extra_arguments, staged: None } => {
            ansible_local(guest, playbook, extra_arguments).await
        }
        Action::Ansible { .. } | Action::Pytest { .. } => {
            Err(Stop::failed(format!("{} does not run in the guest", step.action.word()), "factoryd check"))
        }
    }
}

fn failed(step: &Step, exit: &Exit, log: &StepLog) -> String {
    let told = log.first_error().map(|(_, text)| format!(": {}", text.trim())).unwrap_or_default();
    format!("{} ended with {exit}{told}", step.action.word())
}

fn help(step: &Step) -> String {
    format!("the step is written at {}:{}", step.written.0, step.written.1)
}

async fn ansible_local(guest: &InGuest<'_>, playbook: &StepPath, extra: &[Text]) -> Result<Exit, Stop> {
    let run = guest.run;
    let to = format!("/tmp/factoryd-step-{}", guest.number);
    let directory = match playbook {
        StepPath::Bundle(path) => StepPath::Bundle(path.parent()),
        StepPath::Root(path) => StepPath::Root(path.parent()),
    };
    let name = String::from_utf8_lossy(playbook.in_repository(&run.order.key.path).name()).into_owned();
    guest.upload(&directory, &to, None).await?;
    let command = format!(
        "cd {to} && ansible-playbook -i local, -c local{} {}; s=$?; rm -rf {to}; exit $s",
        arguments(run, extra)?,
        quote(&name),
    );
    Ok(guest.command(&command).await?)
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
        collect_into: reports_of(run).join(format!("{}-{number}", steps.stage)),
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
        Action::Ansible { playbook, extra_arguments, play } => {
            let playbook = playbook.in_repository(bundle);
            let extra_arguments = fill_all(extra_arguments)?;
            Ok((HostProgram::Ansible { playbook, extra_arguments, play: play.clone() }, Vec::new()))
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

pub(super) fn checkout_of(run: &Run) -> PathBuf {
    run.scratch.join("checkout")
}

/// Where the reports of the steps lie.
pub(super) fn reports_of(run: &Run) -> PathBuf {
    run.files.join("reports")
}

pub(super) fn below(directory: &Path, path: &RepoPath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    directory.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn arguments(run: &Run, args: &[Text]) -> Result<String, Stop> {
    args.iter().map(|text| Ok(format!(" {}", quote(&run.fill(text)?)))).collect()
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
