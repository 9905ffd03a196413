//! `test`: the steps against a clone of the sealed disk, and the reports they leave.

use super::super::failure::Stop;
use super::super::runner::{Done, Run};
use super::steps::{self, Steps};
use super::{Start, final_disk, reports, start_machine};
use crate::domain::pipeline::Stage;
use crate::engine::junit::Tally;
use crate::store::{Payload, Record};

/// The machine's role: what its console log and its tag are called.
const ROLE: &str = "test";

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let log = run.stage_log(Stage::Test);
    let Some(test) = run.buildable.pipeline.test.clone() else {
        return Err(Stop::failed("the pipeline has no test stage", "factoryd verify"));
    };
    // The machine of an interrupted or kept stage is none of ours: tests see the sealed disk only.
    run.destroy_machine("provision").await?;
    start_machine(run, Start { ports: test.ports.clone(), ..Start::new(ROLE, final_disk(run)?) }, &log.lines()).await?;
    let wait = test.timeout.map_or_else(|| run.wait.clone(), |limit| run.wait.within(limit));
    let found = steps::versions(run, &test.steps).await?;
    let resolved = run.resolved(Stage::Test, found).await?;
    let steps = Steps { stage: Stage::Test, steps: &test.steps, reports: &test.reports, root: None, wait };
    let ended = steps::run(run, &steps).await;
    let tests = reports::read(run, &log).await;
    let ended = ended.map_err(|stop| with_counts(stop, tests.tally));
    // What the reports say is kept, whether the tests passed or not.
    run.attach([Record::TestReport(tests.cases)]);
    ended?;
    run.destroy_machine(ROLE).await?;
    let Tally { passed, bad, skipped } = tests.tally;
    let payload = Payload::Test { passed, skipped, failed_allowed: bad };
    Ok(Done { resolved, payload, moved: None, expires: None })
}

/// The numbers of the reports say more than an exit code.
fn with_counts(stop: Stop, tally: Tally) -> Stop {
    match stop {
        Stop::Failed(mut problem) if tally.bad > 0 => {
            let noun = if tally.all() == 1 { "test" } else { "tests" };
            problem.message = format!("{} of {} {noun} failed", tally.bad, tally.all());
            Stop::Failed(problem)
        }
        other => other,
    }
}
