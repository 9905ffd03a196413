//! `boot`: the base image, what is changed in it before, and a machine on a copy-on-write layer of that.

use super::super::failure::Stop;
use super::super::runner::{Done, Run};
use super::{Start, base, changes, start_machine};
use crate::domain::pipeline::Stage;
use crate::store::Payload;

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let log = run.stage_log(Stage::Boot);
    let source = base::source(run).await?;
    let wait = run.wait.clone();
    let base = run.driver.base(&source, &log.lines(), &wait).await?;
    log.say(&format!("base image {}", base.sha256));
    let mut found = run.driver.settings().await?;
    found.push(("base".to_owned(), base.sha256.to_string()));
    let resolved = run.resolved(Stage::Boot, found).await?;
    let (disk, backing) = if run.buildable.pipeline.boot.changes.is_empty() {
        (base.disk.clone(), Vec::new())
    } else {
        let changed = changes::run(run, &base, resolved).await?;
        (changed.disk, changed.backing)
    };
    start_machine(run, Start::new("provision", disk.clone()), &log.lines()).await?;
    if run.buildable.pipeline.provision.is_none() {
        // It came up, and nothing else is to be done in it: the disk that it booted from is what is tested and published.
        run.destroy_machine("provision").await?;
    }
    let payload = Payload::Boot { disk, backing, sha256: base.sha256, virtual_size: base.virtual_size };
    Ok(Done { resolved, payload, moved: None, expires: None })
}
