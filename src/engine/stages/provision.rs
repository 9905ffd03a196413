//! `provision`: the steps, then sealing: identity removed, clean shutdown, the disk kept.

use super::super::failure::Stop;
use super::super::runner::{Done, Run};
use super::steps::{self, Steps};
use super::{Start, base_of, start_machine};
use crate::domain::build::{Effect, Event, Moment};
use crate::domain::id::DiskId;
use crate::domain::pipeline::Stage;
use crate::store::Payload;

/// The machine's role: what its console log and its tag are called.
const ROLE: &str = "provision";

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let log = run.stage_log(Stage::Provision);
    let Some(provision) = run.buildable.pipeline.provision.clone() else {
        return Err(Stop::failed("the pipeline has no provision stage", "factoryd verify"));
    };
    let base = base_of(run)?;
    if run.machine.is_none() {
        log.say("the boot stage is kept: a machine starts again from its disk");
        start_machine(run, Start::new(ROLE, base.disk.clone()), &log.lines()).await?;
    }
    let wait = provision.timeout.map_or_else(|| run.wait.clone(), |limit| run.wait.within(limit));
    let steps = Steps { stage: Stage::Provision, steps: &provision.steps, reports: &[], root: None, wait };
    let found = steps::versions(run, &provision.steps).await?;
    let resolved = run.resolved(Stage::Provision, found).await?;
    steps::run(run, &steps).await?;
    let keep = DiskId::new(format!("sealed-{}-{}", run.order.number.0, &resolved.0.hex()[..16]));
    run.journal(Event::Intent(Effect::Disk(keep.clone())), Vec::new()).await?;
    log.say("sealing: identity removed, clean shutdown");
    let sealed = match &mut run.machine {
        Some(machine) => machine.seal(&keep, &log.lines(), &steps.wait).await?,
        None => return Err(Stop::failed("the machine is gone before sealing", "factoryd retry")),
    };
    run.machine = None;
    run.journal(Event::Released(Effect::Machine { role: ROLE.to_owned() }), Vec::new()).await?;
    let now = run.engine.clock().now();
    let expires = provision.expire.map(|life| Moment(now.0 + i64::try_from(life.as_millis()).unwrap_or(i64::MAX / 2)));
    let payload = Payload::Provision {
        disk: sealed.disk,
        bytes: sealed.bytes,
        backing: sealed.backing,
        base_sha256: base.sha256,
    };
    Ok(Done { resolved, payload, moved: None, expires })
}
