//! Finds what a pipeline's base image is: an alias of the configuration, another bundle's served image, an image of the
//! catalogue, a file, a download or a recipe.

use std::path::PathBuf;

use super::super::failure::Stop;
use super::super::runner::Run;
use crate::blocking;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Fingerprint, ImageId};
use crate::domain::image::{Image, ImageState};
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::BaseImage;
use crate::engine::ports::BaseSource;

/// Aliases may name aliases, but not for ever.
const MOST_ALIASES: usize = 8;

/// Who named a base image.
#[derive(Clone, Copy)]
enum Author {
    /// The repository, which may name files below some directories only.
    Pipeline,
    /// The configuration: whoever writes it may name any file.
    Operator,
}

/// What the bundle's base image is made from.
pub(super) async fn source(run: &Run) -> Result<BaseSource, Stop> {
    // A bundle comes before an alias of the same name, as in the inputs that the build was planned by.
    if let Some((bundle, disk)) = base_bundle(run) {
        return of_bundle(run, &bundle, disk).await;
    }
    let mut image = run.buildable.pipeline.boot.image.clone();
    let mut who = Author::Pipeline;
    for _ in 0..MOST_ALIASES {
        image = match image {
            BaseImage::Path { path, format } => {
                let path = match who {
                    Author::Pipeline => allowed(run, &path).await?,
                    Author::Operator => PathBuf::from(path),
                };
                return Ok(BaseSource::File { path, format });
            }
            BaseImage::Url { url, sha256, format } => return Ok(BaseSource::Download { url, sha256, format }),
            BaseImage::Mmdebstrap(recipe) => return Ok(BaseSource::Recipe(recipe)),
            BaseImage::Named(name) => match alias(run, &name) {
                Some(alias) => {
                    who = Author::Operator;
                    alias
                }
                None => return of_catalogue(run, &name).await,
            },
        };
    }
    Err(Stop::failed("the base image's alias names itself", "look at [base] in the configuration"))
}

fn alias(run: &Run, name: &str) -> Option<BaseImage> {
    let aliases = &run.engine.policy().aliases;
    aliases.iter().find(|(alias, _)| alias == name).map(|(_, image)| image.clone())
}

/// The file, if it lies below a directory that the configuration allows, with every link resolved.
async fn allowed(run: &Run, path: &str) -> Result<PathBuf, Stop> {
    let directories = run.engine.policy().base_directories.clone();
    let wanted = PathBuf::from(path);
    let found = blocking::run(move || {
        let real = wanted.canonicalize().ok()?;
        directories
            .iter()
            .filter_map(|directory| directory.canonicalize().ok())
            .find(|allowed| real.starts_with(allowed))?;
        Some(real)
    });
    found.await.ok_or_else(|| {
        Stop::failed(
            format!("the base image {path} is not below a directory that the configuration allows, or not there"),
            "name its directory in base_directories of the configuration",
        )
    })
}

async fn of_catalogue(run: &Run, name: &str) -> Result<BaseSource, Stop> {
    let store = run.engine.store();
    let mut images: Vec<Image> = match by_id(run, &ImageId::from(name)).await? {
        Some(image) => vec![image],
        None => store.images_named(name).await?.into_iter().map(|record| record.image).collect(),
    };
    images.retain(|image| matches!(image.state, ImageState::Published | ImageState::Deprecated));
    match images.as_slice() {
        [image] => of_image(run, image),
        // Whether there is such a thing is the driver's to say.
        [] => Ok(BaseSource::Named(name.to_owned())),
        several => Err(Stop::failed(
            format!(
                "{} images are called `{name}`: {}",
                several.len(),
                several.iter().map(|image| image.id.as_str()).collect::<Vec<_>>().join(", ")
            ),
            "name one by its id",
        )),
    }
}

/// The image with an id: a whole one, never the beginning of one.
pub(super) async fn by_id(run: &Run, id: &ImageId) -> Result<Option<Image>, Stop> {
    let is_whole = uuid::Uuid::parse_str(id.as_str()).is_ok();
    let found = if is_whole { run.engine.store().image(id.as_str()).await? } else { None };
    Ok(found.map(|record| record.image))
}

/// The bundle that this one is based on and the fingerprint of its disk, as its inputs have them.
fn base_bundle(run: &Run) -> Option<(RepoPath, Fingerprint)> {
    run.buildable.stages.first()?.own.iter().find_map(|input| match input {
        Input::Base { bundle, fingerprint } => Some((bundle.clone(), *fingerprint)),
        _ => None,
    })
}

/// The image that serves the base with the very inputs that this build counts on: on its own branch, or on the default
/// one for a build that serves none.
async fn of_bundle(run: &Run, bundle: &RepoPath, disk: Fingerprint) -> Result<BaseSource, Stop> {
    let key = &run.order.key;
    let head = if run.order.tracked { None } else { run.engine.tips(&key.repository).await?.1 };
    let branch = head.as_ref().unwrap_or(&key.branch);
    let base = BundleKey { repository: key.repository.clone(), branch: branch.clone(), path: bundle.clone() };
    let served = run.engine.store().served_of(&base).await?;
    let image = match served.filter(|served| served.stages.iter().any(|(_, print)| *print == disk)) {
        Some(served) => by_id(run, &served.image).await?,
        None => None,
    };
    match image {
        Some(image) => of_image(run, &image),
        None => Err(Stop::failed(
            format!(
                "the base {bundle} is not served on {branch} with the inputs it has at {}",
                run.order.commit.short()
            ),
            format!("factoryd build {bundle} on a branch that publishes, or start from a newer commit"),
        )),
    }
}

fn of_image(run: &Run, image: &Image) -> Result<BaseSource, Stop> {
    match image.copies.iter().find(|copy| copy.driver == *run.driver.name()) {
        Some(copy) => Ok(BaseSource::Image { disk: copy.disk.clone(), sha256: image.sha256 }),
        None => Err(Stop::failed(
            format!("the base image {} has no copy that the driver {} can boot", image.name, run.driver.name()),
            "build it with this driver, or name another base",
        )),
    }
}
