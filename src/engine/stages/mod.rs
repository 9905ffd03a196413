//! The five stages and the archive: each one finds what it needs, acts through a port, and returns what it made.

pub(super) mod archive;
mod base;
pub(super) mod boot;
mod changes;
mod guest;
pub(super) mod provision;
pub(super) mod render;
mod reports;
pub(super) mod snapshot;
mod stacks;
mod steps;
pub(super) mod test;

use super::failure::Stop;
use super::runner::Run;
use crate::domain::build::{Effect, Event};
use crate::domain::id::DiskId;
use crate::domain::image::ImageState;
use crate::domain::pipeline::{HostKey, Stage};
use crate::engine::ports::{Base, Lines, MachineOrder};
use crate::store::{Payload, StageResult};

/// Whether what a kept result stands for is still there: rows can outlive what they describe.
pub(super) async fn still_there(run: &Run, result: &StageResult) -> Result<bool, Stop> {
    match &result.payload {
        Payload::Boot { disk, .. } | Payload::Provision { disk, .. } => Ok(run.driver.has(disk).await?),
        Payload::Snapshot { image } => {
            let found = run.engine.store().image(image.as_str()).await?;
            Ok(found.is_some_and(|found| found.image.state != ImageState::Revoked))
        }
        Payload::Render { image_id, .. } => {
            Ok(run.image.as_ref().is_none_or(|image| image.copies.iter().any(|copy| copy.id == *image_id)))
        }
        Payload::Test { .. } => Ok(true),
    }
}

/// What is particular to one of a build's machines.
pub(super) struct Start<'a> {
    pub(super) role: &'a str,
    /// What it boots from.
    pub(super) disk: DiskId,
    /// What is attached to it then.
    pub(super) attach: Option<DiskId>,
    /// Guest ports that host steps reach.
    pub(super) ports: Vec<u16>,
}

impl<'a> Start<'a> {
    pub(super) fn new(role: &'a str, disk: DiskId) -> Self {
        Self { role, disk, attach: None, ports: Vec::new() }
    }
}

/// Starts a machine on a disk and keeps it as the run's.
pub(super) async fn start_machine(run: &mut Run, start: Start<'_>, lines: &Lines) -> Result<(), Stop> {
    let Start { role, disk, attach, ports } = start;
    let limits = run.engine.policy().machine;
    let boot = &run.buildable.pipeline.boot;
    if limits.cpus.is_some_and(|most| boot.cpus > most) || limits.memory.is_some_and(|most| boot.memory > most) {
        return Err(Stop::failed(
            format!(
                "{} processors and {} MiB of memory are more than a machine may have",
                boot.cpus,
                boot.memory >> 20
            ),
            "ask for less in `boot`, or raise cpus and memory of the driver in the configuration",
        ));
    }
    let effect = Effect::Machine { role: role.to_owned() };
    run.journal(Event::Intent(effect.clone()), Vec::new()).await?;
    let boot = &run.buildable.pipeline.boot;
    let order = MachineOrder {
        build: run.order.number,
        role: role.to_owned(),
        disk,
        attach,
        cpus: boot.cpus,
        memory: boot.memory,
        disk_size: boot.disk,
        user: boot.user.clone(),
        host_key: if limits.host_key == HostKey::FirstSeen { limits.host_key } else { boot.host_key },
        terminal: boot.terminal,
        ports,
        ready_within: boot.timeout,
        console: run.files.join(format!("console-{role}.log")),
        placement: boot.placement.clone(),
    };
    let wait = run.wait.clone();
    run.machine = Some(run.driver.boot(&order, lines, &wait).await?);
    Ok(run.journal(Event::Made(effect), Vec::new()).await?)
}

/// The base image that the boot stage found, with the disk that machines boot from: where there are changes before the
/// first boot, a layer of it.
fn base_of(run: &Run) -> Result<Base, Stop> {
    match run.results.get(&Stage::Boot).map(|result| &result.payload) {
        Some(Payload::Boot { disk, sha256, virtual_size, .. }) => {
            Ok(Base { disk: disk.clone(), sha256: *sha256, virtual_size: *virtual_size })
        }
        _ => Err(Stop::failed("the boot stage left no base image", "factoryd verify")),
    }
}

/// The disk to be tested and published: the sealed one, the base's own where nothing is provisioned, or that of the image
/// that is served already.
fn final_disk(run: &Run) -> Result<DiskId, Stop> {
    if let Some(Payload::Provision { disk, .. }) = run.results.get(&Stage::Provision).map(|result| &result.payload) {
        return Ok(disk.clone());
    }
    let served = run.disk_image.iter().flat_map(|image| &image.copies);
    match served.into_iter().find(|copy| copy.driver == *run.driver.name()) {
        Some(copy) => Ok(copy.disk.clone()),
        None => Ok(base_of(run)?.disk),
    }
}
