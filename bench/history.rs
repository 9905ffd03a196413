//! Fills a state directory as if its factory had run for a long time: for measuring, not for use.
//!
//! Every bundle at the tip of a branch is served with exactly the inputs it has there, and older builds of the same
//! bundles make up the number that was asked for. All of it is written through the store's own API, one transaction per
//! event, so lay the directory on a tmpfs and move it afterwards.
//!
//! `history STATE_DIRECTORY REPOSITORY_DIRECTORY NAME BRANCH BUILDS`

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use factoryd::domain::build::{Event, Moment, Outcome, StageEnd};
use factoryd::domain::bundle::BundleKey;
use factoryd::domain::id::{Branch, BuildNo, CommitId, Digest, Fingerprint, ImageId, RepoName};
use factoryd::domain::image::{Image, ImageCopy, ImageState, Lineage};
use factoryd::domain::path::RepoPath;
use factoryd::domain::pipeline::Stage;
use factoryd::manifest::reading::Buildable;
use factoryd::manifest::{Cache, read};
use factoryd::source::trees;
use factoryd::store::{Enqueue, NewBuild, Payload, Record, StageResult, Store};

/// Builds that one transaction queues.
const BATCH: usize = 1000;
/// Milliseconds that each stage of a build took.
const STAGE: i64 = 20_000;

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`; without a directory there is nothing to do, and that is no failure of `cargo bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [state, repository, name, branch, builds] = arguments.as_slice() else {
        eprintln!("usage: history STATE_DIRECTORY REPOSITORY_DIRECTORY NAME BRANCH BUILDS");
        return Ok(());
    };
    let builds: usize = builds.parse().context("the number of builds")?;
    let (commit, tree) = trees::open(Path::new(repository), branch)?;
    let name = RepoName::from(name.as_str());
    let reading = read(&tree, &name, &Cache::default())?;
    let mut bundles = Vec::new();
    for bundle in &reading.bundles {
        match &bundle.verdict {
            Ok(buildable) => bundles.push((&bundle.path, buildable.as_ref())),
            Err(why) => bail!("{} can't be built: {}", bundle.path, why.reason),
        }
    }
    let factory = Factory {
        store: Store::open(Path::new(state))?,
        repository: name,
        branch: Branch::from(branch.as_str()),
        commit,
        now: i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(factory.run(&bundles, builds))
}

struct Factory {
    store: Store,
    repository: RepoName,
    branch: Branch,
    commit: CommitId,
    /// Milliseconds since 1970.
    now: i64,
}

impl Factory {
    async fn run(&self, bundles: &[(&RepoPath, &Buildable)], builds: usize) -> Result<()> {
        let older = builds.saturating_sub(bundles.len());
        let all = (0..older).map(|nth| (nth, false)).chain((older..older + bundles.len()).map(|nth| (nth, true)));
        let mut all: Vec<(usize, bool)> = all.collect();
        // The newest builds are one of each bundle, whatever the number of older ones.
        for (place, (nth, serves)) in all.iter_mut().enumerate() {
            *nth = if *serves { place - older } else { *nth % bundles.len() };
        }
        for batch in all.chunks(BATCH) {
            let new = batch.iter().map(|(nth, _)| self.order(bundles[*nth])).collect();
            let orders = self.store.enqueue(Enqueue { new, at: self.at(0), ..Enqueue::default() }).await?;
            for (order, (nth, serves)) in orders.iter().zip(batch) {
                self.build(order.number, bundles[*nth], *serves).await?;
            }
        }
        Ok(())
    }

    fn order(&self, (path, buildable): (&RepoPath, &Buildable)) -> NewBuild {
        let stages = buildable.stages.iter();
        NewBuild {
            key: self.key(path),
            commit: self.commit.clone(),
            reason: "provision: ansible/bootstrap.yml differs".to_owned(),
            by: "push".to_owned(),
            from: None,
            until: None,
            no_cache: false,
            tracked: true,
            stages: stages.clone().map(|stage| stage.stage).collect(),
            inputs: stages.map(|stage| (stage.stage, stage.declared, stage.own.clone())).collect(),
        }
    }

    async fn build(&self, build: BuildNo, (path, buildable): (&RepoPath, &Buildable), serves: bool) -> Result<()> {
        self.append(build, 0, Event::Started { attempt: 1 }, Vec::new()).await?;
        let image = ImageId::from(format!("00000000-0000-4000-8000-{:012}", build.0).as_str());
        for (stage, at) in buildable.stages.iter().zip((0..).map(|nth| nth * STAGE)) {
            let (stage, declared) = (stage.stage, stage.declared);
            // Of an older build one stage is told: it is its row that counts, and its results are long gone.
            if !serves && stage != Stage::Provision {
                continue;
            }
            let begun = Event::StageStarted { stage, declared, reason: "ansible/bootstrap.yml differs".to_owned() };
            self.append(build, at, begun, Vec::new()).await?;
            let mut records = Vec::new();
            if serves {
                records.extend((stage == Stage::Snapshot).then(|| Record::Image(self.image(&image, build, path))));
                records.push(Record::Result(self.result(build, stage, declared, &image)));
            }
            let ended = Event::StageFinished { stage, end: StageEnd::Passed };
            self.append(build, at + STAGE, ended, records).await?;
        }
        let served = if serves { self.serve(path, buildable, &image) } else { Vec::new() };
        let end = Event::Finished { outcome: Outcome::Passed, failure: None, reason: String::new() };
        self.append(build, 5 * STAGE, end, served).await
    }

    async fn append(&self, build: BuildNo, after: i64, event: Event, records: Vec<Record>) -> Result<()> {
        self.store.append(build, self.at(after), event, records).await?;
        Ok(())
    }

    /// Yesterday, and some milliseconds.
    fn at(&self, after: i64) -> Moment {
        Moment(self.now - 24 * 3600 * 1000 + after)
    }

    fn key(&self, path: &RepoPath) -> BundleKey {
        BundleKey { repository: self.repository.clone(), branch: self.branch.clone(), path: path.clone() }
    }

    fn serve(&self, path: &RepoPath, buildable: &Buildable, image: &ImageId) -> Vec<Record> {
        let stages = buildable.stages.iter().map(|stage| (stage.stage, stage.declared)).collect();
        vec![Record::Serve { key: self.key(path), image: image.clone(), stages, commit: self.commit.clone() }]
    }

    fn result(&self, build: BuildNo, stage: Stage, declared: Fingerprint, image: &ImageId) -> StageResult {
        let base = Digest::of(b"base");
        let disk = || format!("sealed-{}", build.0).as_str().into();
        let payload = match stage {
            Stage::Boot => {
                Payload::Boot { disk: "base".into(), sha256: base, virtual_size: 1 << 30, backing: Vec::new() }
            }
            Stage::Provision => {
                Payload::Provision { disk: disk(), bytes: 1 << 20, backing: vec!["base".into()], base_sha256: base }
            }
            Stage::Test => Payload::Test { passed: 3, skipped: 0, failed_allowed: 0 },
            Stage::Snapshot => Payload::Snapshot { image: image.clone() },
            Stage::Render => Payload::Render { image_id: image.to_string(), outputs: Vec::new(), lint: Vec::new() },
        };
        StageResult {
            number: None,
            repository: self.repository.clone(),
            stage,
            declared,
            resolved: declared,
            driver: "qemu".into(),
            build,
            tracked: true,
            made: self.at(0),
            expires: None,
            payload,
        }
    }

    fn image(&self, id: &ImageId, build: BuildNo, path: &RepoPath) -> Image {
        Image {
            id: id.clone(),
            name: path.to_string(),
            state: ImageState::Published,
            sha256: Digest::of(id.as_str().as_bytes()),
            size: 1 << 20,
            min_disk: 2,
            properties: vec![("img_os".to_owned(), "Debian".to_owned())],
            lineage: Lineage {
                base: Digest::of(b"base"),
                commit: self.commit.clone(),
                bundle: path.clone(),
                build,
                disk: Fingerprint(Digest::of(b"disk")),
            },
            pinned: false,
            copies: vec![ImageCopy {
                driver: "qemu".into(),
                region: String::new(),
                id: id.to_string(),
                disk: format!("image-{}", build.0).as_str().into(),
            }],
        }
    }
}
