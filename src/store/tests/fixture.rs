//! A store in a temporary directory, and builds to put into it.

use std::path::Path;

use crate::domain::build::{Build, Event, Failure, Moment, Order, Outcome, StageEnd};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, Digest, Fingerprint, ImageId};
use crate::domain::image::{Image, ImageCopy, ImageState, Lineage};
use crate::domain::inputs::{Input, Inputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::store::{Enqueue, NewBuild, Payload, Record, StageResult, Store};

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    pub(super) store: Store,
}

pub(super) fn print(text: &str) -> Fingerprint {
    Fingerprint(Digest::of(text.as_bytes()))
}

pub(super) fn key(path: impl AsRef<[u8]>) -> BundleKey {
    let path = RepoPath::new(path).expect("inside the repository");
    BundleKey { repository: "factory".into(), branch: "main".into(), path }
}

/// A build of two stages, whose fingerprints are made from `content`.
pub(super) fn new(path: &str, content: &str) -> NewBuild {
    let stages = vec![Stage::Boot, Stage::Provision];
    let inputs = |stage: Stage| {
        let own = Inputs::new(vec![Input::value(stage.word(), content)]);
        (stage, print(&format!("{stage} {content}")), own)
    };
    NewBuild {
        key: key(path),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        reason: "pushed".into(),
        by: "push".into(),
        from: None,
        until: None,
        no_cache: false,
        tracked: true,
        inputs: stages.iter().map(|stage| inputs(*stage)).collect(),
        stages,
    }
}

pub(super) fn finished(outcome: Outcome) -> Event {
    let failure = (outcome == Outcome::Failed).then(|| Failure {
        stage: Some(Stage::Provision),
        step: Some("clean".into()),
        line: Some(17),
        message: "exit code 1".into(),
        help: "see the log".into(),
    });
    Event::Finished { outcome, failure, reason: String::new() }
}

pub(super) fn result(build: BuildNo, stage: Stage, declared: Fingerprint, payload: Payload) -> StageResult {
    StageResult {
        number: None,
        repository: "factory".into(),
        stage,
        declared,
        resolved: print("resolved"),
        driver: "qemu".into(),
        build,
        tracked: true,
        made: Moment(100),
        expires: None,
        payload,
    }
}

pub(super) fn sealed(build: BuildNo, content: &str) -> StageResult {
    let payload = Payload::Provision {
        disk: format!("sealed-{content}").as_str().into(),
        bytes: 10,
        backing: vec!["base".into()],
        base_sha256: Digest::of(b"base"),
    };
    result(build, Stage::Provision, print(&format!("provision {content}")), payload)
}

pub(super) fn image(id: &str, build: BuildNo) -> Image {
    let id = ImageId::from(id);
    let copies = vec![ImageCopy {
        driver: "qemu".into(),
        region: String::new(),
        id: id.to_string(),
        disk: format!("disk-{id}").as_str().into(),
    }];
    Image {
        name: "debian-nginx".into(),
        state: ImageState::Published,
        sha256: Digest::of(b"image"),
        size: 3,
        min_disk: 20,
        properties: vec![("os".into(), "debian".into())],
        lineage: Lineage {
            base: Digest::of(b"base"),
            commit: "01234567".into(),
            bundle: key("images/a").path,
            build,
            disk: print("disk"),
        },
        pinned: false,
        copies,
        id,
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&directory.path().join("state")).expect("opens");
        Self { directory, store }
    }

    pub(super) fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    /// As after the death of the process and its next start.
    pub(super) fn reopened(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = Store::open(&directory.path().join("state")).expect("opens again");
        Self { directory, store }
    }

    pub(super) async fn enqueue(&self, builds: Vec<NewBuild>) -> Vec<Order> {
        let batch = Enqueue { new: builds, at: Moment(1), ..Enqueue::default() };
        self.store.enqueue(batch).await.expect("queued")
    }

    pub(super) async fn append(&self, build: BuildNo, at: i64, event: Event) -> Build {
        self.store.append(build, Moment(at), event, vec![]).await.expect("appended")
    }

    /// A build that has begun.
    pub(super) async fn started(&self, build: NewBuild) -> BuildNo {
        let number = self.enqueue(vec![build]).await[0].number;
        self.append(number, 10, Event::Started { attempt: 1 }).await;
        number
    }

    /// Runs the provision stage to an end, with what it leaves.
    pub(super) async fn provision(&self, build: BuildNo, content: &str, end: StageEnd, records: Vec<Record>) {
        let declared = print(&format!("provision {content}"));
        let begun = Event::StageStarted { stage: Stage::Provision, declared, reason: "changed".into() };
        self.append(build, 20, begun).await;
        let event = Event::StageFinished { stage: Stage::Provision, end };
        self.store.append(build, Moment(1020), event, records).await.expect("appended");
    }

    pub(super) async fn finish(&self, build: BuildNo, outcome: Outcome) {
        self.append(build, 2000, finished(outcome)).await;
    }

    /// Changes the database behind the store's back.
    pub(super) fn damage(state: &Path, sql: &str) {
        let connection = rusqlite::Connection::open(state.join("factory.db")).expect("opens");
        connection.execute_batch(sql).expect("damaged");
    }
}
