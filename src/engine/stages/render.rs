//! `render`: the bundle's output templates, with the new image's id.

use std::sync::Arc;

use super::super::failure::Stop;
use super::super::runner::{Done, Run};
use crate::blocking;
use crate::domain::id::Fingerprint;
use crate::domain::pipeline::{Lint, Stage};
use crate::domain::value::Value;
use crate::engine::ports::{HostProgram, LocalTime, PortError, PortErrorKind};
use crate::render::{self, Begun, Engines, Stamp, Variables};
use crate::store::{Artifact, Output, Payload, Record};

/// A rendered file is never larger: rendering refuses more.
const MOST_OUTPUT: u64 = 64 << 20;

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let log = run.stage_log(Stage::Render);
    let Some(stage) = run.buildable.pipeline.render.clone() else {
        return Err(Stop::failed("the pipeline has no render stage", "factoryd verify"));
    };
    let image_id = match &run.image {
        Some(image) => image.copies.first().map_or_else(|| image.id.to_string(), |copy| copy.id.clone()),
        None => return Err(Stop::failed("there is no image to render for", "add a snapshot stage to the pipeline")),
    };
    let (variables, lint) = (variables(run, &stage.vars, &image_id), stage.lint);
    let repositories = Arc::clone(run.engine.repositories());
    let (key, commit) = (run.order.key.clone(), run.order.commit.clone());
    let begun = blocking::run(move || {
        let tree = repositories.tree(&key.repository, &commit)?;
        let directory = key.path.join(stage.templates.as_bytes()).unwrap_or_else(|| key.path.clone());
        Ok::<_, PortError>(render::begin(tree.as_ref(), &directory, &variables, Engines::Auto))
    })
    .await?;
    let found = vec![("image".to_owned(), image_id.clone())];
    let (resolved, rendered) = match begun {
        Ok(begun) => finish(run, begun, found).await?,
        Err(failed) => {
            let resolved = run.resolved(Stage::Render, found).await?;
            (resolved, render::Outcome { rendered: Vec::new(), failed })
        }
    };
    for failed in &rendered.failed {
        log.say(&failed.to_string());
    }
    let (mut outputs, mut warnings) = (Vec::new(), Vec::new());
    for result in rendered.rendered {
        for warning in &result.warnings {
            log.say(&format!("warning: {warning}"));
            warnings.push(warning.to_string());
        }
        let blobs = run.engine.store().blobs().clone();
        let blob = blocking::run(move || blobs.put(result.bytes.as_slice(), MOST_OUTPUT)).await?;
        log.say(&format!("rendered {} ({})", result.path, result.engine));
        outputs.push(Output(result.path.clone(), blob.sha256, blob.size));
        for path in run.places().output(&result.path) {
            run.archive(path, blob.clone());
        }
    }
    // What one template lacks keeps nobody from the results of the others.
    if let Some(first) = rendered.failed.first() {
        return Err(Stop::failed(first.to_string(), first.help.clone()));
    }
    if let Some(first) = warnings.first().filter(|_| lint == Lint::Error) {
        let help = "the pipeline says `lint: error`; the build's log has all that looks wrong";
        return Err(Stop::failed(first.clone(), help));
    }
    Ok(Done { resolved, payload: Payload::Render { image_id, outputs, warnings }, moved: None, expires: None })
}

/// Ends the rendering, with the installed Ansible where something is left for it: then, and only then, the result
/// depends on its version.
async fn finish(
    run: &mut Run,
    begun: Begun,
    mut found: Vec<(String, String)>,
) -> Result<(Fingerprint, render::Outcome), Stop> {
    let Some(handed) = begun.handed().cloned() else {
        return Ok((run.resolved(Stage::Render, found).await?, begun.finish(Vec::new())));
    };
    let any = HostProgram::any_ansible();
    let versions = run.engine.host().versions(&any).await;
    found.extend(versions.iter().flatten().cloned());
    let resolved = run.resolved(Stage::Render, found).await?;
    let answers = match versions {
        Ok(_) => run.engine.host().render(run.order.number, &handed, &run.wait.clone()).await,
        Err(error) => Err(error),
    };
    match answers {
        Ok(answers) => Ok((resolved, begun.finish(answers))),
        Err(error) if error.kind == PortErrorKind::Cancelled => Err(error.into()),
        Err(error) => Ok((resolved, begun.finish_without(&error.message, &error.help))),
    }
}

/// The outputs of a kept result, as this build's artifacts.
pub(super) fn keep_outputs(run: &mut Run) {
    let Some(Payload::Render { outputs, .. }) = run.results.get(&Stage::Render).map(|result| result.payload.clone())
    else {
        return;
    };
    for Output(file, sha256, size) in outputs {
        for path in run.places().output(&file) {
            if run.archived.insert(path.clone()) {
                run.attach([Record::Artifact(Artifact { path, sha256, size })]);
            }
        }
    }
}

fn variables(run: &Run, vars: &Value, image_id: &str) -> Variables {
    let LocalTime { year, month, day, hour, minute, second } = run.engine.clock().local(run.started);
    let stamp = Stamp { year, month, day, hour, minute, second };
    let variables = Variables::new(image_id).file(vars).stamp(stamp);
    match &run.image {
        Some(image) => variables.target_name(&image.name),
        None => variables,
    }
}
