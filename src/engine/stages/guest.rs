//! The steps that run in the guest: commands, scripts, copies, and playbooks that the guest itself runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::failure::Stop;
use super::super::log::StepLog;
use super::super::runner::Run;
use super::steps::{below, checkout_of};
use crate::blocking;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Laid, Staged, StepPath};
use crate::engine::ports::{Exit, LineSink, Lines, PortError, PortErrorKind, Wait};

/// How often a guest that went down is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
/// How long a guest may stay away that a step of a pipeline reboots.
const BACK_WITHIN: Duration = Duration::from_secs(300);
/// Ends with 0 once the guest is up and not on its way down.
const STEADY: &str = "case \"$(systemctl is-system-running 2>/dev/null)\" in stopping) exit 1 ;; esac; exit 0";

/// The guest of one step, and where its output goes.
pub(super) struct InGuest<'a> {
    pub(super) run: &'a Run,
    pub(super) number: u32,
    pub(super) env: &'a [(String, String)],
    /// Where the guest has the root of the disk that the step changes instead of the guest's own.
    pub(super) root: Option<&'a str>,
    pub(super) log: &'a Arc<StepLog>,
    pub(super) wait: &'a Wait,
}

/// What a script is made from.
pub(super) enum Content<'a> {
    /// Its lines, without the first.
    Lines(&'a str),
    /// A file of the repository.
    File(&'a StepPath),
}

impl InGuest<'_> {
    /// Runs a command with the step's environment.
    pub(super) async fn command(&self, command: &str) -> Result<Exit, PortError> {
        let machine = self.run.machine.as_ref().ok_or_else(gone)?;
        let Some(root) = self.root else {
            return machine.guest().run(command, self.env, &self.log.lines(), self.wait).await;
        };
        let mut env = self.env.to_vec();
        env.push(("ROOT".to_owned(), root.to_owned()));
        let command = as_root(command, &[], &env, &machine.access().user);
        machine.guest().run(&command, &[], &self.log.lines(), self.wait).await
    }

    /// Runs a command that may cut the connection where that is expected: then the guest is waited for.
    pub(super) async fn cut_short(&self, command: &str, is_expected: bool) -> Result<Exit, PortError> {
        self.cut_short_within(command, is_expected, BACK_WITHIN).await
    }

    async fn cut_short_within(&self, command: &str, is_expected: bool, within: Duration) -> Result<Exit, PortError> {
        let exit = match self.command(command).await {
            Err(error) if error.kind == PortErrorKind::Lost && is_expected => {
                self.log.say("the connection was cut, as the step expects");
                Exit::Code(0)
            }
            other => other?,
        };
        if is_expected {
            self.steady(within).await?;
        }
        Ok(exit)
    }

    /// Copies a file or directory of the repository.
    pub(super) async fn upload(&self, from: &StepPath, to: &str, mode: Option<u32>) -> Result<(), PortError> {
        self.copy(&self.in_checkout(&from.in_repository(&self.run.order.key.path)), to, mode).await
    }

    /// Copies as scp does: below the home where the path is not absolute, and a directory under its own name where that
    /// is wanted and the place is there.
    pub(super) async fn copy_as_scp(
        &self,
        from: &StepPath,
        to: &str,
        mode: Option<u32>,
        keeps_name: bool,
    ) -> Result<String, PortError> {
        let path = from.in_repository(&self.run.order.key.path);
        let mut to = self.in_home(to).await?;
        if keeps_name && self.in_checkout(&path).is_dir() {
            let is_there = self.quietly(&format!("[ -d {} ]", quote(&to))).await? == Exit::Code(0);
            if is_there {
                to = format!("{}/{}", to.trim_end_matches('/'), String::from_utf8_lossy(path.name()));
            }
        }
        to.insert_str(0, self.root.unwrap_or_default());
        self.copy(&self.in_checkout(&path), &to, mode).await?;
        Ok(to)
    }

    /// A path of the guest: one that is not absolute counts from where the login user's files lie.
    async fn in_home(&self, path: &str) -> Result<String, PortError> {
        Ok(match path.strip_prefix("~/").or_else(|| (!path.starts_with('/')).then_some(path)) {
            Some(below) => format!("{}/{below}", self.answer("printf %s \"$HOME\"").await?),
            None => path.to_owned(),
        })
    }

    /// Copies a file to a path of the guest; gives where that is.
    async fn lay(&self, from: &Path, to: &str, mode: u32) -> Result<String, PortError> {
        let to = self.in_home(to).await?;
        self.copy(from, &to, Some(mode)).await?;
        Ok(to)
    }

    async fn copy(&self, from: &Path, to: &str, mode: Option<u32>) -> Result<(), PortError> {
        let machine = self.run.machine.as_ref().ok_or_else(gone)?;
        machine.guest().upload(from, to, mode, self.wait).await
    }

    fn in_checkout(&self, path: &RepoPath) -> PathBuf {
        below(&checkout_of(self.run), path)
    }

    /// A command whose output is nobody's.
    async fn quietly(&self, command: &str) -> Result<Exit, PortError> {
        let machine = self.run.machine.as_ref().ok_or_else(gone)?;
        let nowhere: Lines = Arc::new(Answer::default());
        machine.guest().run(command, &[], &nowhere, self.wait).await
    }

    /// What a command says in one line.
    async fn answer(&self, command: &str) -> Result<String, PortError> {
        let machine = self.run.machine.as_ref().ok_or_else(gone)?;
        let answer = Arc::new(Answer::default());
        let lines: Lines = answer.clone();
        machine.guest().run(command, &[], &lines, self.wait).await?;
        let said = answer.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(said)
    }

    /// Lays a script into the guest, runs it by its command, and takes it away again.
    pub(super) async fn script(
        &self,
        content: Content<'_>,
        laid: &Laid,
        expect_disconnect: bool,
    ) -> Result<Exit, Stop> {
        let script = self.script_file(content, laid).await?;
        let mut laid_files = vec![self.patiently(laid.start_within, || self.lay(&script, &laid.to, 0o755)).await?];
        if let Some((path, text)) = &laid.variables {
            let file = self.scratch_file("variables", self.run.fill(text)?.into_bytes()).await?;
            laid_files.push(self.patiently(laid.start_within, || self.lay(&file, path, 0o600)).await?);
        }
        let command = self.run.fill(&laid.command)?;
        let exit = self.cut_short_within(&command, expect_disconnect, laid.start_within).await?;
        if !laid.stays {
            let remove =
                laid_files.iter().fold("rm -f".to_owned(), |command, path| format!("{command} {}", quote(path)));
            self.patiently(laid.start_within, || self.quietly(&remove)).await?;
        }
        Ok(exit)
    }

    /// The script as it is copied: with its first line, and with the ends of lines that a shell wants.
    async fn script_file(&self, content: Content<'_>, laid: &Laid) -> Result<PathBuf, Stop> {
        let bytes = match content {
            Content::Lines(lines) => format!("#!{}\n{lines}\n", laid.shebang).into_bytes(),
            Content::File(path) => {
                let path = self.in_checkout(&path.in_repository(&self.run.order.key.path));
                let read = blocking::run(move || std::fs::read(&path).map_err(|error| (path, error))).await;
                read.map_err(|(path, error)| Stop::failed(format!("{}: {error}", path.display()), "factoryd check"))?
            }
        };
        let bytes = if laid.binary { bytes } else { unix_lines(&bytes) };
        self.scratch_file("script", bytes).await
    }

    /// A file of the build's own, to be copied.
    async fn scratch_file(&self, name: &str, bytes: Vec<u8>) -> Result<PathBuf, Stop> {
        let path = self.run.scratch.join(format!("step-{}-{name}", self.number));
        let written = blocking::run({
            let path = path.clone();
            move || std::fs::write(&path, bytes)
        });
        written.await.map_err(|error| Stop::failed(format!("{}: {error}", path.display()), ""))?;
        Ok(path)
    }

    /// Does something again while the guest does not answer.
    async fn patiently<T, F>(&self, within: Duration, work: impl Fn() -> F) -> Result<T, PortError>
    where
        F: Future<Output = Result<T, PortError>>,
    {
        let until = Instant::now() + within;
        loop {
            match work().await {
                Err(error) if is_away(&error) && Instant::now() < until => self.pause(LOOK).await?,
                other => return other,
            }
        }
    }

    /// Waits until the guest is up and stays so: a reboot takes its time to begin.
    async fn steady(&self, within: Duration) -> Result<(), PortError> {
        let until = Instant::now() + within;
        loop {
            self.pause(LOOK).await?;
            let machine = self.run.machine.as_ref().ok_or_else(gone)?;
            let nowhere: Lines = Arc::new(Answer::default());
            let looked = machine.guest().run(STEADY, &[], &nowhere, &self.wait.within(LOOK_WITHIN)).await;
            let why = match looked {
                Ok(Exit::Code(0)) => return Ok(()),
                Ok(_) => "it is still shutting down".to_owned(),
                Err(error) if is_away(&error) || error.kind == PortErrorKind::TimedOut => error.message,
                Err(error) => return Err(error),
            };
            if Instant::now() >= until {
                return Err(PortError::unavailable(format!("the guest does not come back: {why}"))
                    .help("its console's log shows how far it came"));
            }
        }
    }

    /// Waits.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), PortError> {
        pause(self.wait, time).await
    }

    /// Copies what a playbook needs into the guest and runs it there.
    pub(super) async fn playbook(&self, staged: &Staged) -> Result<Exit, Stop> {
        let directory = quote(&staged.directory);
        let made = self.quietly(&format!("mkdir -p {directory}")).await?;
        if made != Exit::Code(0) {
            return Err(Stop::failed(format!("{} can't be made in the guest: {made}", staged.directory), ""));
        }
        for (from, to) in &staged.uploads {
            self.copy(&self.in_checkout(from), to, None).await?;
        }
        for (index, (to, text)) in staged.texts.iter().enumerate() {
            let file = self.scratch_file(&format!("text-{index}"), text.clone().into_bytes()).await?;
            self.copy(&file, to, Some(0o644)).await?;
        }
        let exit = self.command(&self.run.fill(&staged.command)?).await?;
        if !staged.stays {
            self.quietly(&format!("rm -rf {directory}")).await?;
        }
        Ok(exit)
    }
}

/// Waits, as long as nobody cancels.
pub(super) async fn pause(wait: &Wait, time: Duration) -> Result<(), PortError> {
    let sleep = async {
        tokio::time::sleep(time).await;
        Ok(())
    };
    wait.run("a pause", sleep).await
}

/// Whether a guest may be on its way down or up.
fn is_away(error: &PortError) -> bool {
    matches!(error.kind, PortErrorKind::Unavailable | PortErrorKind::Lost)
}

pub(super) fn gone() -> PortError {
    PortError::failed("the machine is gone").help("factoryd retry")
}

/// A script as a command that runs as root, whoever is logged in.
pub(super) fn as_root(script: &str, args: &[&str], env: &[(String, String)], user: &str) -> String {
    let sudo = if user == "root" { "" } else { "sudo -n " };
    let env: String = env.iter().map(|(name, value)| format!(" {}", quote(&format!("{name}={value}")))).collect();
    let args: String = args.iter().map(|arg| format!(" {}", quote(arg))).collect();
    format!("exec {sudo}env{env} /bin/sh -c {} sh{args}", quote(script))
}

/// A word as a POSIX shell takes it, whatever is in it.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Lines that end in CR LF end in LF, and the last one ends, as packer copies scripts.
fn unix_lines(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.push(b'\n');
    }
    out
}

/// Keeps the last line that is said.
#[derive(Default)]
struct Answer(Mutex<String>);

impl LineSink for Answer {
    fn line(&self, line: &[u8]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = String::from_utf8_lossy(line).into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_from_windows_run_in_a_shell() {
        assert_eq!(unix_lines(b"#!/bin/sh\r\necho a\r\r\necho b"), b"#!/bin/sh\necho a\r\necho b\n");
        assert_eq!(unix_lines(b""), b"");
    }
}
