//! `render`: the bundle's output templates, with the new image's id.

use std::sync::Arc;

use super::super::failure::Stop;
use super::super::runner::{Done, Run};
use super::stacks;
use crate::blocking;
use crate::domain::id::{DriverName, Fingerprint};
use crate::domain::image::{Image, ImageCopy};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Lint, Stage};
use crate::domain::value::Value;
use crate::engine::ports::{HostProgram, LocalTime, PortError, PortErrorKind};
use crate::manifest::fault::Fault;
use crate::render::{self, Begun, Engines, Stamp, Variables};
use crate::store::{Artifact, Output, Payload, Record, Warning};

/// A rendered file is never larger: rendering refuses more.
const MOST_OUTPUT: u64 = 64 << 20;

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let log = run.stage_log(Stage::Render);
    let Some(stage) = run.buildable.pipeline.render.clone() else {
        return Err(Stop::failed("the pipeline has no render stage", "factoryd verify"));
    };
    let copy = run.image.as_ref().and_then(|image| copy_to_render(run, image));
    let there = copy.and_then(|copy| run.engine.driver_named(&copy.driver)).unwrap_or(&run.driver).clone();
    let image_id = match &run.image {
        Some(image) => copy.map_or_else(|| image.id.to_string(), |copy| copy.id.clone()),
        None => return Err(Stop::failed("there is no image to render for", "add a snapshot stage to the pipeline")),
    };
    let (variables, lint) = (variables(run, &stage.vars, &image_id), stage.lint);
    let repositories = Arc::clone(run.engine.repositories());
    let (key, commit) = (run.order.key.clone(), run.order.commit.clone());
    let directory = key.path.join(stage.templates.as_bytes()).unwrap_or_else(|| key.path.clone());
    let templates = directory.clone();
    let begun = blocking::run(move || {
        let tree = repositories.tree(&key.repository, &commit)?;
        Ok::<_, PortError>(render::begin(tree.as_ref(), &templates, &variables, Engines::Auto))
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
    run.warnings = warnings(run, &directory, &rendered).await?;
    for Warning { file, line, column, message, .. } in &run.warnings {
        log.say(&format!("warning: {file}:{line}:{column}: {message}"));
    }
    let looked = stacks::look(run, &there, &directory, &rendered.rendered, lint).await;
    if run.wait.cancel.is_cancelled() {
        return Err(Stop::Cancelled);
    }
    run.warnings.extend(looked.wrong);
    let wrong = run.warnings.first().cloned();
    run.warnings.extend(looked.unseen);
    let mut outputs = Vec::new();
    for result in rendered.rendered {
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
    if let Some(Warning { file, line, message, .. }) = wrong.filter(|_| lint == Lint::Error) {
        let help = "the pipeline says `lint: error`, so whatever looks wrong in an output fails the build";
        return Err(Stop::failed(format!("{file}:{line}: {message}"), help));
    }
    let payload = Payload::Render { image_id, outputs, lint: run.warnings.clone() };
    Ok(Done { resolved, payload, moved: None, expires: None })
}

/// What looks wrong in the results, as people find it in their templates.
async fn warnings(run: &Run, directory: &RepoPath, rendered: &render::Outcome) -> Result<Vec<Warning>, PortError> {
    let doubtful: Vec<_> = rendered.rendered.iter().filter(|result| !result.warnings.is_empty()).cloned().collect();
    let repositories = Arc::clone(run.engine.repositories());
    let (key, commit, directory) = (run.order.key.clone(), run.order.commit.clone(), directory.clone());
    blocking::run(move || {
        if doubtful.is_empty() {
            return Ok(Vec::new());
        }
        let tree = repositories.tree(&key.repository, &commit)?;
        let faults = doubtful.iter().flat_map(|result| render::in_template(tree.as_ref(), &directory, result));
        Ok(faults.map(warning).collect())
    })
    .await
}

fn warning(fault: Fault) -> Warning {
    let (code, help) = (fault.code.to_owned(), fault.advice());
    Warning { file: fault.file, line: fault.line, column: fault.column, code, message: fault.message, help }
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

/// The outputs of a kept result, as this build's artifacts, and what looked wrong in them.
pub(super) fn keep_outputs(run: &mut Run) {
    let Some(Payload::Render { outputs, lint, .. }) =
        run.results.get(&Stage::Render).map(|result| result.payload.clone())
    else {
        return;
    };
    run.warnings = lint;
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

/// Whose id the outputs are to name: a copy where images are copied to, for that is where they are used, else the one that
/// the build's own driver made.
fn copy_to_render<'a>(run: &Run, image: &'a Image) -> Option<&'a ImageCopy> {
    let of = |name: &DriverName| image.copies.iter().find(|copy| copy.driver == *name);
    let copies = &run.engine.policy().copies;
    copies.iter().find_map(of).or_else(|| of(run.driver.name())).or_else(|| image.copies.first())
}
