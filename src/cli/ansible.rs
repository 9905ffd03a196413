//! The installed Ansible for commands that work on files: the daemon's own sandbox, without a daemon.
//!
//! An author's templates are as trusted as anybody's: whoever checks or renders a directory that came from elsewhere
//! must not be had by it. So there is no second way to run Ansible, and where no sandbox works none is run.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use super::wait_for;
use crate::domain::id::BuildNo;
use crate::domain::template::{Answer, Handed};
use crate::engine::ports::{Host, HostProgram, PortError, Wait};
use crate::render::{Begun, Outcome};

/// Longer than any rendering may take by its own limits.
const WITHIN: Duration = Duration::from_secs(300);
/// Builds count from 1, and the sandbox's own probe is 0: what belongs to no build is told apart by its directory.
const NO_BUILD: BuildNo = BuildNo(1);

/// The names and versions of what rendered.
pub(super) type Versions = Vec<(String, String)>;

/// Ends a rendering, with Ansible where something is left for it; also gives its versions if it was asked.
pub(super) fn finish(begun: Begun) -> Result<(Outcome, Option<Versions>), Failure> {
    let Some(handed) = begun.handed().cloned() else { return Ok((begun.finish(Vec::new()), None)) };
    let scratch = Scratch::new()?;
    let answered = wait_for(async { Ok(ask(&scratch.0, &handed).await) })?;
    Ok(match answered {
        Ok((answers, versions)) => (begun.finish(answers), Some(versions)),
        Err(error) => (begun.finish_without(&error.message, &error.help), None),
    })
}

async fn ask(scratch: &Path, handed: &Handed) -> Result<(Vec<Answer>, Versions), PortError> {
    let host = crate::daemon::offline_host(scratch)
        .map_err(|error| PortError::unavailable(format!("factoryd itself is not found: {error}")))?;
    let any = HostProgram::any_ansible();
    let versions = host.versions(&any).await?;
    let wait = Wait { cancel: Default::default(), deadline: Instant::now() + WITHIN };
    Ok((host.render(NO_BUILD, handed, &wait).await?, versions))
}

/// A directory that only this user reads, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("factoryd-{}", uuid::Uuid::new_v4()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::failed(format!("can't make {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} can't be removed: {error}", self.0.display());
        }
    }
}
