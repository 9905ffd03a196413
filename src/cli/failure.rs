//! How a command ends when it does not end well: a message, what to do next, an exit code.

use std::fmt;
use std::process::ExitCode;

/// Exit codes, as the manual documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The build or the check failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon is not reachable.
    Unreachable = 3,
    /// It is not allowed.
    Denied = 4,
    /// There is no such build, image, artifact or bundle.
    Missing = 5,
}

/// A command that did not end well.
#[derive(Clone, Debug)]
pub struct Failure {
    code: Code,
    /// Empty where everything was said on standard output already.
    message: String,
    help: String,
}

impl Failure {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: String::new() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Code::Unreachable, message)
    }

    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::Denied, message)
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(Code::Missing, message)
    }

    /// Exit code 1 with nothing more to say.
    pub(super) fn quiet() -> Self {
        Self::failed("")
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Whether the daemon is away.
    pub(super) fn is_unreachable(&self) -> bool {
        self.code == Code::Unreachable
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return Ok(());
        }
        writeln!(f, "error: {}", self.message)?;
        if self.help.is_empty() { Ok(()) } else { writeln!(f, "  next: {}", self.help) }
    }
}

impl std::error::Error for Failure {}
