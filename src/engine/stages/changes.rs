//! `boot.changes`: what is changed in a disk before a machine boots from it for the first time.
//!
//! No program of the host looks into the image. A helper machine boots from a layer of the very same base, so its own
//! kernel knows the disk's file systems; once it is up, another layer of the base is attached to it, mounted, changed and
//! kept. It is attached that late because the two have the same labels and ids: what is mounted by then is not mixed up.

use std::sync::Arc;

use super::super::failure::Stop;
use super::super::log::StepLog;
use super::super::runner::Run;
use super::guest::{as_root, gone};
use super::steps::{self, Steps};
use super::{Start, start_machine};
use crate::domain::build::{Effect, Event};
use crate::domain::id::{DiskId, Fingerprint};
use crate::domain::pipeline::Stage;
use crate::engine::ports::{Base, SealedDisk};

/// The helper's role: what its console log and its tag are called.
const ROLE: &str = "change";
/// Where the helper has the root of the disk that is changed.
const ROOT: &str = "/run/factoryd-root";
/// Mounts the attached disk as the helper's own is mounted. `$1` is its serial number, `$2` where its root goes.
const MOUNT: &str = include_str!("mount.sh");
/// Takes it away again. `$1` is where its root is.
const UNMOUNT: &str = include_str!("unmount.sh");

/// Does the changes on a layer of the base, and keeps it.
pub(super) async fn run(run: &mut Run, base: &Base, resolved: Fingerprint) -> Result<SealedDisk, Stop> {
    let log = run.stage_log(Stage::Boot);
    let changes = run.buildable.pipeline.boot.changes.clone();
    log.say("a helper boots from the base image, to change a copy of it");
    let helper = Start { attach: Some(base.disk.clone()), ..Start::new(ROLE, base.disk.clone()) };
    start_machine(run, helper, &log.lines()).await?;
    let serial = run.machine.as_ref().and_then(|helper| helper.attached()).ok_or_else(gone)?.to_owned();
    in_helper(run, MOUNT, &[&serial, ROOT], &log).await?;
    let wait = run.wait.clone();
    let steps = Steps { stage: Stage::Boot, steps: &changes, reports: &[], root: Some(ROOT), wait };
    steps::run(run, &steps).await?;
    in_helper(run, UNMOUNT, &[ROOT], &log).await?;
    let keep = DiskId::new(format!("changed-{}-{}", run.order.number.0, &resolved.0.hex()[..16]));
    run.journal(Event::Intent(Effect::Disk(keep.clone())), Vec::new()).await?;
    let kept = match &mut run.machine {
        Some(helper) => helper.keep_attached(&keep, &log.lines(), &steps.wait).await?,
        None => return Err(gone().into()),
    };
    run.machine = None;
    run.journal(Event::Released(Effect::Machine { role: ROLE.to_owned() }), Vec::new()).await?;
    log.say("the copy is changed; the machine boots from it for the first time");
    Ok(kept)
}

/// Runs a script of ours in the helper, as root. What it says last is why it failed.
async fn in_helper(run: &Run, script: &str, args: &[&str], log: &Arc<StepLog>) -> Result<(), Stop> {
    let machine = run.machine.as_ref().ok_or_else(gone)?;
    let command = as_root(script, args, &[], &machine.access().user);
    let exit = machine.guest().run(&command, &[], &log.lines(), &run.wait).await?;
    if exit.is_success() {
        return Ok(());
    }
    let told = log.first_error().map(|(_, text)| format!(": {}", text.trim())).unwrap_or_default();
    Err(Stop::failed(
        format!("the copy of the base image can't be changed before the first boot: {exit}{told}"),
        "`boot.changes` takes disks whose file systems lie on them or on plain partitions; a user other than root needs \
         `sudo` without a password",
    ))
}
