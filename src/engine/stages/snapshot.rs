//! `snapshot`: the sealed disk becomes an image of the catalogue, or the image that is there is put right.
//!
//! A build publishes only while its declared fingerprints are those of the newest planned tip, whichever commit started it.

use uuid::Uuid;

use super::super::failure::Stop;
use super::super::runner::{Done, Run, build_scope};
use super::base::by_id;
use super::{base_of, final_disk};
use crate::domain::build::{Effect, Event};
use crate::domain::expression::Text;
use crate::domain::id::{Digest, DiskId, Fingerprint, ImageId};
use crate::domain::image::{Image, ImageCopy, ImageState, Lineage};
use crate::domain::inputs;
use crate::domain::pipeline::{Snapshot, Stage};
use crate::engine::planner::{Prints, prints};
use crate::engine::ports::ImageOrder;
use crate::engine::reaper;
use crate::store::{Payload, Record, StageResult};

pub(in crate::engine) async fn run(run: &mut Run) -> Result<Done, Stop> {
    let Some(snapshot) = run.buildable.pipeline.snapshot.clone() else {
        return Err(Stop::failed("the pipeline has no snapshot stage", "factoryd verify"));
    };
    check_newest(run)?;
    run.destroy_machine("provision").await?;
    let disk = disk_print(run)?;
    let resolved = run.resolved(Stage::Snapshot, vec![("disk".to_owned(), disk.to_string())]).await?;
    let (image, moved, mut records) = match same_disk(run, disk).await? {
        Some((image, stages)) => {
            let (image, records) = put_right(run, image, &snapshot).await?;
            // Its old name and properties are no more, so nothing may be found under their fingerprint.
            let moved = if records.is_empty() { None } else { kept_as(run, &image, &stages).await? };
            (image, moved, records)
        }
        None => {
            // A new image is nobody else's, and making it takes long.
            run.serving = None;
            let (image, records) = publish(run, &snapshot, disk).await?;
            (image, None, records)
        }
    };
    records.push(serve(run, &image));
    let declared = run.need(Stage::Snapshot).map(|need| need.declared);
    let moved = moved.zip(declared).map(|(kept, to)| {
        records.push(Record::MoveResult { stage: Stage::Snapshot, from: kept.declared, to });
        StageResult { declared: to, ..kept }
    });
    let payload = Payload::Snapshot { image: image.id.clone() };
    run.stage_log(Stage::Snapshot).say(&format!("image {} {}", image.id, image.name));
    // The image that the event names, and what else is known by it, in its transaction: a process that dies now leaves no
    // build that tells of an image that never was.
    run.journal(Event::Served(image.id.clone()), records).await?;
    run.image = Some(image);
    Ok(Done { resolved, payload, moved, expires: None })
}

/// Serves the image of a kept result: a revert, or a later attempt of the same build.
pub(in crate::engine) async fn serve_kept(run: &mut Run) -> Result<(), Stop> {
    let Some(Payload::Snapshot { image }) = run.results.get(&Stage::Snapshot).map(|result| result.payload.clone())
    else {
        return Ok(());
    };
    let (Some(image), Some(snapshot)) = (by_id(run, &image).await?, run.buildable.pipeline.snapshot.clone()) else {
        return Err(Stop::failed("the kept image is gone from the catalogue", "factoryd retry"));
    };
    check_newest(run)?;
    let (mut image, mut records) = put_right(run, image, &snapshot).await?;
    if image.state != ImageState::Published {
        image.state = ImageState::Published;
        run.engine.show(&image, ImageState::Published).await;
        records.push(Record::ImageState(image.id.clone(), ImageState::Published));
    }
    records.push(serve(run, &image));
    run.journal(Event::Served(image.id.clone()), records).await?;
    run.image = Some(image);
    Ok(())
}

/// Refuses to publish what is no longer wanted.
fn check_newest(run: &Run) -> Result<(), Stop> {
    let wanted = run.engine.wanted(&run.order.key);
    if wanted.is_some_and(|wanted| wanted.prints().eq(run.buildable.prints())) {
        return Ok(());
    }
    Err(Stop::Superseded("a newer commit changed its inputs before it was published".to_owned()))
}

/// What the disk's bits are known by: the resolved fingerprint of the stage that made them and, where steps did, the build
/// that ran them, since the same steps done again leave other bits.
fn disk_print(run: &Run) -> Result<Fingerprint, Stop> {
    let stage = run.buildable.pipeline.disk_stage();
    let by_steps = stage == Stage::Provision || !run.buildable.pipeline.boot.changes.is_empty();
    let made = run.results.get(&stage).map(|result| match by_steps {
        true => inputs::resolved(result.resolved, None, &[("build".to_owned(), result.build.to_string())]),
        false => result.resolved,
    });
    let served = run.disk_image.as_ref().map(|image| image.lineage.disk);
    made.or(served).ok_or_else(|| Stop::failed(format!("the {stage} stage left no disk"), "factoryd verify"))
}

/// The image that is served for this bundle, if it holds the very disk that was tested and no other bundle or branch
/// serves it: then it is put right in place.
async fn same_disk(run: &Run, disk: Fingerprint) -> Result<Option<(Image, Prints)>, Stop> {
    let key = &run.order.key;
    let store = run.engine.store();
    let Some(served) = store.served_of(key).await? else { return Ok(None) };
    let Some(image) = by_id(run, &served.image).await? else { return Ok(None) };
    let is_alone = store.serving(&image.id).await? == 1;
    let is_same = image.lineage.disk == disk && image.state == ImageState::Published && is_alone;
    Ok(is_same.then_some((image, served.stages)))
}

/// The kept result that an image has under the fingerprints it is served with.
async fn kept_as(run: &Run, image: &Image, stages: &Prints) -> Result<Option<StageResult>, Stop> {
    let Some((_, declared)) = stages.iter().find(|(stage, _)| *stage == Stage::Snapshot) else { return Ok(None) };
    let (repository, driver, now) = (&run.order.key.repository, run.driver.name(), run.engine.clock().now());
    let store = run.engine.store();
    let kept = store.usable(repository, Stage::Snapshot, *declared, driver, run.order.tracked, now).await?;
    Ok(kept.filter(|kept| kept.payload == Payload::Snapshot { image: image.id.clone() }))
}

/// Gives an image the name prefix, the properties and the minimum that the pipeline says; nothing where they are so.
async fn put_right(run: &Run, image: Image, snapshot: &Snapshot) -> Result<(Image, Vec<Record>), Stop> {
    // The stamp and the number in its name stay those of the build that made the bits.
    let maker = run.engine.store().build(image.lineage.build).await?;
    let scope = match maker {
        Some(maker) => {
            let began = maker.build.started.unwrap_or(maker.build.queued);
            build_scope(&maker.order, began, run.engine.clock().local(began))
        }
        None => run.scope(),
    };
    let fill = |text: &Text| text.fill(&scope).map_err(|error| Stop::failed(error.message, error.help));
    let properties = snapshot
        .properties
        .iter()
        .map(|(name, text)| Ok((name.clone(), fill(text)?)))
        .collect::<Result<Vec<_>, Stop>>()?;
    let order = ImageOrder {
        build: run.order.number,
        image: image.id.clone(),
        name: fill(&snapshot.name)?,
        properties,
        min_disk: snapshot.min_disk,
    };
    if order.name == image.name && order.properties == image.properties && order.min_disk == image.min_disk {
        return Ok((image, Vec::new()));
    }
    for copy in &image.copies {
        if let Some(driver) = run.engine.driver_named(&copy.driver) {
            driver.amend(copy, &order).await?;
        }
    }
    let image = Image { name: order.name, properties: order.properties, min_disk: order.min_disk, ..image };
    let record = Record::ImageMeta {
        id: image.id.clone(),
        name: image.name.clone(),
        properties: image.properties.clone(),
        min_disk: image.min_disk,
    };
    Ok((image, vec![record]))
}

/// A new image from the disk that was tested.
async fn publish(run: &mut Run, snapshot: &Snapshot, disk: Fingerprint) -> Result<(Image, Vec<Record>), Stop> {
    let id = ImageId::new(Uuid::new_v4().to_string());
    let keep = DiskId::new(format!("image-{id}"));
    let properties = snapshot
        .properties
        .iter()
        .map(|(name, text)| Ok((name.clone(), run.fill(text)?)))
        .collect::<Result<Vec<_>, Stop>>()?;
    let order = ImageOrder {
        build: run.order.number,
        image: id.clone(),
        name: run.fill(&snapshot.name)?,
        properties,
        min_disk: snapshot.min_disk,
    };
    let effect = Effect::Image { id: id.clone(), disk: keep.clone() };
    run.journal(Event::Intent(effect.clone()), Vec::new()).await?;
    let (from, wait, log) = (final_disk(run)?, run.wait.clone(), run.stage_log(Stage::Snapshot));
    let published = run.driver.publish(&from, &keep, &order, &log.lines(), &wait).await?;
    let mut copies = vec![published.copy];
    copies.extend(copied(run, &keep, &order).await?);
    run.journal(Event::Made(effect), Vec::new()).await?;
    // Hours may have passed since the first look: what is no longer wanted is not published after all.
    if let Err(stop) = check_newest(run) {
        reaper::remove_everywhere(&run.engine, &keep).await?;
        return Err(stop);
    }
    let image = Image {
        id,
        name: order.name,
        state: ImageState::Published,
        sha256: published.sha256,
        size: published.size,
        min_disk: order.min_disk,
        properties: order.properties,
        lineage: Lineage {
            base: base_sum(run)?,
            commit: run.order.commit.clone(),
            bundle: run.order.key.path.clone(),
            build: run.order.number,
            disk,
        },
        pinned: false,
        copies,
    };
    Ok((image.clone(), vec![Record::Image(image)]))
}

/// Copies of a new image at the drivers that get one. Without all of them it is not published: what it is for is there.
async fn copied(run: &Run, keep: &DiskId, order: &ImageOrder) -> Result<Vec<ImageCopy>, Stop> {
    let (mut copies, log) = (Vec::new(), run.stage_log(Stage::Snapshot));
    for name in run.engine.policy().copies.iter().filter(|name| *name != run.driver.name()) {
        let Some(driver) = run.engine.driver_named(name) else { continue };
        log.say(&format!("copying the image to {name}"));
        match driver.take(&*run.driver, keep, keep, order, &log.lines(), &run.wait).await {
            Ok(taken) => copies.push(taken.copy),
            Err(error) => {
                reaper::remove_everywhere(&run.engine, keep).await?;
                return Err(error.into());
            }
        }
    }
    Ok(copies)
}

fn base_sum(run: &Run) -> Result<Digest, Stop> {
    match &run.disk_image {
        Some(image) if !run.results.contains_key(&Stage::Boot) => Ok(image.lineage.base),
        _ => Ok(base_of(run)?.sha256),
    }
}

fn serve(run: &Run, image: &Image) -> Record {
    Record::Serve {
        key: run.order.key.clone(),
        image: image.id.clone(),
        stages: prints(&run.buildable),
        commit: run.order.commit.clone(),
    }
}
