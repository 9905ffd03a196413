//! What the store promises, as those who use it see it.

mod fixture;
mod logs;
mod moves;

use std::collections::HashSet;
use std::fs;
use std::io;

use rusqlite::Connection;

use self::fixture::{Fixture, finished, image, key, new, print, result, sealed};
use super::error::Fault;
use super::migrations::{self, MIGRATIONS};
use super::*;
use crate::domain::build::{BuildState, Effect, Event, Moment, Outcome, StageEnd};
use crate::domain::id::{Digest, RepoName};
use crate::domain::image::ImageState;
use crate::domain::inputs::{Input, Inputs, SharedInputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;

fn factory() -> RepoName {
    "factory".into()
}

const NOW: Moment = Moment(5000);

#[tokio::test]
async fn a_build_is_remembered_across_a_restart_with_all_that_was_asked() {
    let fixture = Fixture::new();
    let mut wanted = new("images/a", "1");
    (wanted.from, wanted.until, wanted.no_cache) = (Some(Stage::Provision), Some(Stage::Provision), true);
    wanted.key = key(b"images/caf\xe9");
    let planned = Some((factory(), "main".into(), "feed".into()));
    let batch = Enqueue { new: vec![wanted.clone()], planned, at: Moment(7), ..Enqueue::default() };
    let orders = fixture.store.enqueue(batch).await.expect("queued");
    let number = orders[0].number;
    fixture.append(number, 8, Event::Started { attempt: 1 }).await;
    let intent = Event::Intent(Effect::Disk("sealed".into()));
    let open = fixture.append(number, 9, intent.clone()).await;

    let fixture = fixture.reopened();
    let record = fixture.store.build(number).await.expect("read").expect("there");
    assert_eq!((&record.order, &record.build), (&orders[0], &open));
    assert_eq!(record.order.key, wanted.key);
    assert_eq!(fixture.store.inputs(number).await.expect("read"), wanted.inputs);
    assert_eq!(fixture.store.unfinished().await.expect("read"), [record]);
    let journal = fixture.store.journal(number).await.expect("read");
    assert_eq!(journal[2], JournalEntry { position: 3, at: Moment(9), event: intent });
    let planned = fixture.store.planned(&factory(), &"main".into()).await.expect("read");
    assert_eq!(planned, Some(("feed".into(), Moment(7))));
    assert!(fixture.store.referenced_disks(&"qemu".into()).await.expect("read").contains(&"sealed".into()));
    assert_eq!(fixture.store.verify().await.expect("verified").problems, []);
}

#[tokio::test]
async fn numbers_count_from_one_and_never_come_again() {
    let fixture = Fixture::new();
    let orders = fixture.enqueue(vec![new("images/a", "1"), new("images/b", "1")]).await;
    assert_eq!(orders.iter().map(|order| order.number.0).collect::<Vec<_>>(), [1, 2]);
    let state = fixture.state();
    Fixture::damage(&state, "PRAGMA foreign_keys=ON; DELETE FROM build");
    let fixture = fixture.reopened();
    assert_eq!(fixture.enqueue(vec![new("images/a", "2")]).await[0].number.0, 3);
}

#[tokio::test]
async fn an_event_that_can_t_follow_changes_nothing() {
    let fixture = Fixture::new();
    let number = fixture.enqueue(vec![new("images/a", "1")]).await[0].number;
    let before = fixture.store.build(number).await.expect("read");
    let event = Event::StageFinished { stage: Stage::Boot, end: StageEnd::Passed };
    let records = vec![Record::Image(image("i", number))];
    let refused = fixture.store.append(number, Moment(2), event, records).await;
    assert!(matches!(refused, Err(StoreError::IllegalEvent { .. })), "{refused:?}");
    assert_eq!(fixture.store.build(number).await.expect("read"), before);
    assert_eq!(fixture.store.journal(number).await.expect("read").len(), 1);
    assert_eq!(fixture.store.images().await.expect("read"), []);

    // A record that is refused takes its event with it.
    fixture.append(number, 3, Event::Started { attempt: 1 }).await;
    let records = vec![Record::ImageState("no such".into(), ImageState::Revoked)];
    let refused = fixture.store.append(number, Moment(4), Event::Interrupted, records).await;
    assert!(matches!(refused, Err(StoreError::NoSuch { .. })), "{refused:?}");
    assert_eq!(fixture.store.journal(number).await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_newer_plan_supersedes_what_is_queued_and_nothing_else() {
    let fixture = Fixture::new();
    let running = fixture.started(new("images/b", "1")).await;
    let queued = fixture.enqueue(vec![new("images/a", "1")]).await[0].number;
    let supersede = vec![(queued, "superseded by a newer push".into()), (running, "too late".into())];
    let batch = Enqueue { new: vec![new("images/a", "2")], supersede, at: Moment(3), ..Enqueue::default() };
    fixture.store.enqueue(batch).await.expect("queued");
    let old = fixture.store.build(queued).await.expect("read").expect("there").build;
    assert_eq!((old.outcome, old.reason.as_str()), (Some(Outcome::Superseded), "superseded by a newer push"));
    let other = fixture.store.build(running).await.expect("read").expect("there").build;
    assert_eq!(other.state, BuildState::Running);
    let last = fixture.store.last_builds(vec![key("images/a"), key("images/b")]).await.expect("read");
    assert!(last.is_empty(), "a superseded build is no last result");
    let open = fixture.store.open_builds().await.expect("read");
    let seen: Vec<_> = open.iter().map(|open| (open.number.0, open.key.path.to_string(), open.state)).collect();
    let expected = [(1, "images/b".to_owned(), BuildState::Running), (3, "images/a".to_owned(), BuildState::Queued)];
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_from_many_tasks_all_arrive_in_some_order() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let appends = (0..40).map(|n| {
        let store = fixture.store.clone();
        let event = Event::CancelAsked { by: format!("user {n}") };
        tokio::spawn(async move { store.append(number, Moment(n), event, vec![]).await })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.expect("no panic").expect("appended");
    }
    let journal = fixture.store.journal(number).await.expect("read");
    assert!((1..=42).eq(journal.iter().map(|entry| entry.position)));
    assert_eq!(fixture.store.verify().await.expect("verified").problems, []);
}

#[tokio::test]
async fn two_daemons_can_t_share_a_state_directory() {
    let fixture = Fixture::new();
    let second = Store::open(&fixture.state());
    let Err(error @ StoreError::Locked { .. }) = second else { panic!("{second:?}") };
    let said = error.to_string();
    assert!(said.contains(&fixture.state().display().to_string()), "{said}");
    assert!(said.contains(&std::process::id().to_string()), "{said}");
    fixture.reopened();
}

#[tokio::test]
async fn a_failed_stage_is_remembered_until_it_passes_or_is_cleared() {
    let fixture = Fixture::new();
    let prints = vec![print("boot 1"), print("provision 1")];
    let failed = fixture.started(new("images/a", "1")).await;
    fixture.provision(failed, "1", StageEnd::Failed, vec![]).await;
    fixture.finish(failed, Outcome::Failed).await;
    let known = fixture.store.failures(&factory(), prints.clone(), true).await.expect("read");
    assert_eq!(known, [(print("provision 1"), failed)].into());
    let elsewhere = fixture.store.failures(&"other".into(), prints.clone(), true).await.expect("read");
    assert!(elsewhere.is_empty(), "nothing crosses repositories");

    let retried = fixture.started(new("images/a", "1")).await;
    let passed = vec![Record::Result(sealed(retried, "1"))];
    fixture.provision(retried, "1", StageEnd::Passed, passed).await;
    assert!(fixture.store.failures(&factory(), prints.clone(), true).await.expect("read").is_empty());

    // Cancelled in the queue: none of its fingerprints is tried again by itself.
    let cancelled = fixture.enqueue(vec![new("images/a", "1")]).await[0].number;
    fixture.finish(cancelled, Outcome::Cancelled).await;
    assert_eq!(fixture.store.failures(&factory(), prints.clone(), true).await.expect("read").len(), 2);
    fixture.store.clear_failures(&factory(), vec![print("boot 1")]).await.expect("cleared");
    assert!(fixture.store.failures(&factory(), prints, true).await.expect("read").is_empty());
}

#[tokio::test]
async fn what_an_untracked_branch_makes_never_serves_a_tracked_one() {
    let fixture = Fixture::new();
    let mut wanted = new("images/a", "1");
    wanted.tracked = false;
    let number = fixture.started(wanted).await;
    let declared = print("provision 1");
    let begun = Event::StageStarted { stage: Stage::Provision, declared, reason: String::new() };
    fixture.append(number, 20, begun).await;
    let end = Event::StageFinished { stage: Stage::Provision, end: StageEnd::Passed };
    let mut made = sealed(number, "1");
    let as_tracked = fixture.store.append(number, Moment(30), end.clone(), vec![Record::Result(made.clone())]).await;
    assert!(matches!(as_tracked, Err(StoreError::Refused { .. })), "{as_tracked:?}");
    let serve = Record::Serve { key: key("images/a"), image: "i".into(), stages: vec![], commit: "c".into() };
    let served = fixture.store.append(number, Moment(30), end.clone(), vec![serve]).await;
    assert!(matches!(served, Err(StoreError::Refused { .. })), "{served:?}");

    made.tracked = false;
    fixture.store.append(number, Moment(30), end, vec![Record::Result(made)]).await.expect("kept");
    let usable = async |tracked_only| {
        let store = &fixture.store;
        store.usable(&factory(), Stage::Provision, declared, &"qemu".into(), tracked_only, NOW).await.expect("read")
    };
    assert!(usable(true).await.is_none());
    assert!(usable(false).await.is_some());
    fixture.finish(number, Outcome::Failed).await;
    let held_back = fixture.store.failures(&factory(), vec![print("boot 1")], true).await.expect("read");
    assert!(held_back.is_empty(), "nor do its failures hold a tracked one back");
}

#[tokio::test]
async fn the_newest_unexpired_result_of_the_same_driver_is_used() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let (mut old, mut newer, mut expired, mut other) =
        (sealed(number, "1"), sealed(number, "1"), sealed(number, "1"), sealed(number, "1"));
    (old.made, newer.made, expired.made, other.made) = (Moment(1), Moment(2), Moment(3), Moment(4));
    expired.expires = Some(NOW);
    other.driver = "openstack".into();
    let records = [old, newer, expired, other].map(Record::Result).to_vec();
    fixture.provision(number, "1", StageEnd::Passed, records).await;
    let look = async |text: &str| {
        let (driver, wanted) = ("qemu".into(), vec![print(text)]);
        fixture.store.results(&factory(), wanted, &driver, true, NOW).await.expect("read").remove(&print(text))
    };
    let found = look("provision 1").await.expect("usable");
    assert_eq!(found.made, Moment(2));

    // What it stands for was put right in place: the result goes along.
    let moved = Record::MoveResult { stage: Stage::Provision, from: print("provision 1"), to: print("provision 2") };
    let ask = Event::CancelAsked { by: "somebody".into() };
    fixture.store.append(number, Moment(2000), ask, vec![moved]).await.expect("moved");
    assert!(look("provision 1").await.is_none());
    let found = look("provision 2").await.expect("usable");
    fixture.store.forget(vec![found.number.expect("stored")]).await.expect("forgotten");
    assert_eq!(look("provision 2").await.expect("the older one").made, Moment(1));
}

#[tokio::test]
async fn an_image_serves_until_its_bundle_is_gone_and_can_t_be_removed_before() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let (first, second) = (image("0aaa-1", number), image("0aaa-2", number));
    let snapshot = Payload::Snapshot { image: first.id.clone() };
    let stages = vec![(Stage::Provision, print("provision 1"))];
    let serve = |id: &str| Record::Serve {
        key: key("images/a"),
        image: id.into(),
        stages: stages.clone(),
        commit: "feed".into(),
    };
    let records = vec![
        Record::Image(first.clone()),
        Record::Image(second.clone()),
        Record::Result(result(number, Stage::Snapshot, print("snapshot 1"), snapshot)),
        serve("0aaa-1"),
    ];
    let before = fixture.store.served_prints(&factory(), &"main".into()).await.expect("read");
    assert!(before.is_empty(), "nothing is served yet");
    fixture.provision(number, "1", StageEnd::Passed, records).await;
    fixture.append(number, 1500, Event::Served(first.id.clone())).await;
    fixture.finish(number, Outcome::Passed).await;

    let store = &fixture.store;
    let prints = store.served_prints(&factory(), &"main".into()).await.expect("read");
    assert_eq!(prints[&key("images/a").path], stages, "and not what was remembered before");
    assert_eq!(store.served_of(&key("images/a")).await.expect("read").map(|served| served.build), Some(number));
    assert_eq!(store.served_of(&key("images/b")).await.expect("read"), None);
    let served = store.served(&factory(), &"main".into()).await.expect("read");
    let expected = Served { image: first.id.clone(), build: number, commit: "feed".into(), at: Moment(1020), stages };
    assert_eq!(served[&key("images/a").path], expected);
    let found = store.image("0aaa-1").await.expect("read").expect("there");
    assert_eq!((&found.image, found.served, &found.key), (&first, true, &key("images/a")));
    assert!(matches!(store.image("0aaa").await, Err(StoreError::Ambiguous { .. })));
    assert_eq!(store.image("%").await.expect("read"), None);
    assert_eq!(store.images_named("debian-nginx").await.expect("read").len(), 2);
    let last = store.last_builds(vec![key("images/a"), key("images/b")]).await.expect("read");
    assert_eq!(last[&key("images/a")].build.image, Some(first.id.clone()));

    assert!(matches!(store.remove_image(&first.id).await, Err(StoreError::Refused { .. })), "served");
    store.pin(&second.id).await.expect("pinned");
    assert!(matches!(store.remove_image(&second.id).await, Err(StoreError::Refused { .. })), "pinned");
    store.unserve(vec![key("images/a")]).await.expect("no longer served");
    assert!(store.served_prints(&factory(), &"main".into()).await.expect("read").is_empty());
    store.remove_image(&first.id).await.expect("removed");
    store.remove_image(&first.id).await.expect("removing twice is success");
    assert!(store.all_results().await.expect("read").is_empty(), "the result was this image");
    assert_eq!(store.referenced_disks(&"qemu".into()).await.expect("read"), HashSet::from(["disk-0aaa-2".into()]));
    assert!(store.pin(&first.id).await.is_err(), "it is gone");
}

#[tokio::test]
async fn what_builds_leave_can_be_listed() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let blob = fixture.store.blobs().put(b"hello".as_slice(), 100).expect("stored");
    let path = RepoPath::new("reports/a.xml").expect("a path");
    let artifact = Artifact { path, sha256: blob.sha256, size: blob.size };
    let case = TestCase {
        suite: "tests".into(),
        name: "page".into(),
        outcome: CaseOutcome::Error,
        seconds: 0.5,
        message: "refused".into(),
    };
    let absent = Artifact { sha256: Digest::of(b"not stored"), ..artifact.clone() };
    let event = Event::CancelAsked { by: "somebody".into() };
    let early = fixture.store.append(number, Moment(11), event.clone(), vec![Record::Artifact(absent)]).await;
    assert!(matches!(early, Err(StoreError::Refused { .. })), "bytes first, rows second: {early:?}");
    let records = vec![Record::Artifact(artifact.clone()), Record::TestReport(vec![case.clone()])];
    fixture.store.append(number, Moment(11), event, records).await.expect("kept");
    assert_eq!(fixture.store.artifacts(number).await.expect("read"), [artifact]);
    assert_eq!(fixture.store.test_cases(number).await.expect("read"), [case]);

    fixture.provision(number, "1", StageEnd::Passed, vec![]).await;
    fixture.finish(number, Outcome::Passed).await;
    let durations = fixture.store.durations(&factory(), &key("images/a").path).await.expect("read");
    assert_eq!(durations[&Stage::Provision], StageTime { median: 1000, last: 1000 });
    let inputs = fixture.store.last_inputs(&key("images/a")).await.expect("read");
    assert_eq!(inputs.len(), 2);
    let now = vec![(key("images/a"), Vec::new()), (key("images/z"), Vec::new())];
    let many = fixture.store.last_inputs_of(now).await.expect("read");
    assert_eq!(many, [(key("images/a"), inputs)].into());

    let id = fixture.store.deliver(&factory(), "push", "ana", "main a..b", Moment(1)).await.expect("kept");
    fixture.store.delivered(id, "#1").await.expect("said");
    let deliveries = fixture.store.deliveries(10).await.expect("read");
    assert_eq!((deliveries[0].id, deliveries[0].became.as_deref()), (1, Some("#1")));
}

#[tokio::test]
async fn inputs_that_builds_have_in_common_are_stored_once_and_go_with_the_last_of_them() {
    let fixture = Fixture::new();
    let files = |name: &str| SharedInputs::new(Inputs::new(vec![Input::value(name, "x"), Input::value("z", "y")]));
    let sharing = |path: &str| {
        let mut new = new(path, "1");
        for (stage, _, inputs) in &mut new.inputs {
            *inputs = inputs.with([Input::value("path", path)]).with_shared([files("common"), files(stage.word())]);
        }
        new
    };
    let builds = fixture.enqueue(vec![sharing("images/a"), sharing("images/b")]).await;
    for (order, wanted) in builds.iter().zip([sharing("images/a"), sharing("images/b")]) {
        assert_eq!(fixture.store.inputs(order.number).await.expect("read"), wanted.inputs);
    }
    assert_eq!(fixture.store.gc(HashSet::new()).await.expect("collected").input_sets, 0);
    Fixture::damage(&fixture.state(), "DELETE FROM build_input");
    // Two stages of two builds, and three parts.
    assert_eq!(fixture.store.gc(HashSet::new()).await.expect("collected").input_sets, 2 * 2 + 3);
}

#[tokio::test]
async fn builds_are_listed_by_page_bundle_and_repository() {
    let fixture = Fixture::new();
    fixture.enqueue((0..5).map(|n| new(if n % 2 == 0 { "images/a" } else { "images/b" }, "1")).collect()).await;
    let list = async |filter| {
        let builds = fixture.store.builds(filter).await.expect("read");
        builds.iter().map(|build| build.order.number.0).collect::<Vec<_>>()
    };
    let all = BuildFilter { limit: 2, ..BuildFilter::default() };
    assert_eq!(list(all.clone()).await, [5, 4]);
    assert_eq!(list(BuildFilter { before: Some(BuildNo(4)), ..all.clone() }).await, [3, 2]);
    let bundle = BuildFilter { bundle: Some(key("images/b").path), ..all.clone() };
    assert_eq!(list(bundle).await, [4, 2]);
    assert!(list(BuildFilter { repository: Some("other".into()), ..all }).await.is_empty());
}

#[tokio::test]
async fn garbage_collection_frees_exactly_what_nothing_refers_to() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let put = |text: &str| fixture.store.blobs().put(text.as_bytes(), 100).expect("stored");
    let (archived, rendered, held) = (put("archived"), put("rendered"), put("held"));
    let (asked, orphan) = (put("asked to keep").sha256, put("orphan").sha256);
    let path = RepoPath::new("a").expect("a path");
    let artifact = Artifact { path: path.clone(), sha256: archived.sha256, size: archived.size };
    let outputs = vec![Output(path, rendered.sha256, rendered.size)];
    let payload = Payload::Render { image_id: "i".into(), outputs, lint: Vec::new() };
    let result = result(number, Stage::Render, print("render 1"), payload);
    let records = vec![Record::Artifact(artifact), Record::Result(result)];
    fixture.provision(number, "1", StageEnd::Passed, records).await;
    fixture.store.log_writer(number).line(None, None, b"a line");
    let running = fixture.started(new("images/b", "1")).await;
    fixture.store.log_writer(running).line(None, None, b"still growing");
    fixture.finish(number, Outcome::Passed).await;
    // Held until their rows are there; from then on the rows hold them.
    let sums = (archived.sha256, rendered.sha256);
    drop((archived, rendered));
    let (archived, rendered) = sums;

    let freed = fixture.store.gc(HashSet::from([asked])).await.expect("collected");
    assert_eq!((freed.blobs, freed.bytes, freed.directories), (vec![orphan], 6, vec![number]));
    let blobs = fixture.store.blobs();
    assert!([archived, rendered, held.sha256, asked].iter().all(|sha256| blobs.has(*sha256)));
    assert_eq!(log(&fixture.store, number).await, ["a line"], "the log was packed first");
    assert_eq!(log(&fixture.store, running).await, ["still growing"]);

    let results = fixture.store.all_results().await.expect("read");
    fixture.store.forget(results.iter().filter_map(|result| result.number).collect()).await.expect("forgotten");
    drop(held);
    let freed = fixture.store.gc(HashSet::new()).await.expect("collected");
    assert_eq!(freed.blobs.len(), 3, "rendered, held and asked");
    assert!(fixture.store.blobs().has(archived));
    assert_eq!(fixture.store.gc(HashSet::new()).await.expect("collected"), Freed::default());
}

async fn log(store: &Store, build: BuildNo) -> Vec<String> {
    let page = LogPage { from: 1, limit: usize::MAX, stage: None };
    store.read_log(build, page).await.expect("read").into_iter().map(|line| line.text).collect()
}

#[tokio::test]
async fn verify_finds_a_flipped_byte_a_missing_file_and_a_wrong_projection() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let blob = fixture.store.blobs().put(b"right".as_slice(), 100).expect("stored");
    let lost = fixture.store.blobs().put(b"lost".as_slice(), 100).expect("stored");
    let artifact = |path: &str, blob: &Blob| {
        let path = RepoPath::new(path).expect("a path");
        Record::Artifact(Artifact { path, sha256: blob.sha256, size: blob.size })
    };
    let records = vec![artifact("a", &blob), artifact("b", &lost)];
    fixture.provision(number, "1", StageEnd::Passed, records).await;
    let clean = fixture.store.verify().await.expect("verified");
    assert_eq!((clean.builds, clean.blobs, clean.problems), (1, 2, vec![]));

    fs::write(fixture.store.blobs().path(blob.sha256), "wrong").expect("damaged");
    fs::remove_file(fixture.store.blobs().path(lost.sha256)).expect("lost");
    Fixture::damage(&fixture.state(), "UPDATE build SET outcome = 'passed'; UPDATE bundle SET last_build = 9");
    let problems = fixture.store.verify().await.expect("verified").problems;
    let said: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("build #1: what is stored of it is not what its journal tells"), "{said:?}");
    assert!(said[1].contains("images/a (main of factory)"), "{said:?}");
    assert!(said[2].contains("is missing"), "{said:?}");
    assert!(said[3].contains("is damaged"), "{said:?}");
    assert!(problems.iter().all(|problem| !problem.help.is_empty()));
}

#[tokio::test]
async fn after_an_io_error_nothing_is_written_until_a_restart_has_verified() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let io_error =
        || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None);
    let failed = fixture.store.db().write("write", move |_| Err::<(), _>(Fault::Sql(io_error()))).await;
    assert!(failed.is_err());
    let reason = fixture.store.broken().expect("broken");
    let refused = fixture.store.append(number, NOW, finished(Outcome::Passed), vec![]).await;
    assert!(matches!(&refused, Err(StoreError::Broken { reason: said }) if *said == reason), "{refused:?}");
    assert!(matches!(fixture.store.blobs().put(io::empty(), 1), Err(StoreError::Broken { .. })));
    assert!(fixture.store.build(number).await.expect("reading goes on").is_some());

    let fixture = fixture.reopened();
    assert_eq!(fixture.store.opening_report().map(|report| report.problems.len()), Some(0));
    assert_eq!(fixture.store.broken(), None);
    fixture.finish(number, Outcome::Passed).await;
    assert!(fixture.reopened().store.opening_report().is_none(), "only once");
}

#[tokio::test]
async fn a_store_that_verify_finds_wrong_stays_readable_and_unwritten() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    fs::write(fixture.state().join("verify-needed"), "the disk went away").expect("marked");
    Fixture::damage(&fixture.state(), "UPDATE build SET state = 'queued'");
    let fixture = fixture.reopened();
    let reason = fixture.store.broken().expect("still broken");
    assert!(reason.contains("the disk went away") && reason.contains("build #1"), "{reason}");
    assert!(fixture.store.build(number).await.expect("read").is_some());
    assert!(fixture.reopened().store.broken().is_some(), "until it is seen to");
}

#[tokio::test]
async fn an_ordinary_refusal_breaks_nothing() {
    let fixture = Fixture::new();
    let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    let failed = fixture.store.db().write("write", move |_| Err::<(), _>(Fault::Sql(full))).await;
    assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
    let panicked = fixture.store.db().write::<()>("panic", |_| panic!("a bug")).await;
    assert!(matches!(panicked, Err(StoreError::Closed { .. })), "{panicked:?}");
    assert_eq!(fixture.store.broken(), None);
    assert_eq!(fixture.enqueue(vec![new("images/a", "1")]).await[0].number.0, 1);
}

#[tokio::test]
async fn every_earlier_database_is_brought_up_to_date_with_what_it_holds() {
    for known in 1..=MIGRATIONS.len() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut old = Connection::open(directory.path().join("factory.db")).expect("opens");
        migrations::apply(&mut old, &MIGRATIONS[..known]).expect("migrated");
        old.execute_batch(
            r#"INSERT INTO bundle (repository, branch, path, last_build) VALUES ('factory', 'main', x'61', 7);
            INSERT INTO build (number, bundle, commit_id, reason, asked_by, no_cache, tracked, stages, fold, state, queued)
              VALUES (7, 1, 'feed', 'pushed', 'push', 0, 1, '["boot"]',
              '{"state":"queued","outcome":null,"attempt":0,"stages":{"boot":{"progress":"waiting","started":null,
                "ended":null,"reason":"","declared":null,"step":null}},"failure":null,"reason":"","image":null,
                "cancel_asked":null,"open":[],"queued":5,"started":null,"ended":null}', 'queued', 5);
            INSERT INTO journal (build, position, at, version, event) VALUES (7, 1, 5, 1, '"queued"');"#,
        )
        .expect("filled");
        drop(old);
        let store = Store::open(directory.path()).expect("opens and migrates");
        let fixture = Fixture { directory, store };
        assert_eq!(fixture.store.verify().await.expect("verified").problems, [], "after {known} migrations");
        fixture.append(BuildNo(7), 6, Event::Started { attempt: 1 }).await;
        assert_eq!(fixture.enqueue(vec![new("images/a", "1")]).await[0].number.0, 8);
    }
}

#[tokio::test]
async fn the_database_of_a_newer_factoryd_is_left_alone() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let Fixture { directory, store } = fixture;
    drop(store);
    Fixture::damage(&state, "INSERT INTO migration VALUES (99, 'from the future', '9.0')");
    let opened = Store::open(&state);
    assert!(matches!(&opened, Err(StoreError::Newer { migration }) if migration == "from the future"), "{opened:?}");
    drop(directory);
}

/// The shape of the journal is read by every later version: a change here breaks databases in the field.
#[tokio::test]
async fn the_shape_of_events_is_stable() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    fixture.provision(number, "1", StageEnd::Passed, vec![]).await;
    let effect = Effect::Image { id: "i".into(), disk: "d".into() };
    fixture.append(number, 1030, Event::Intent(effect)).await;
    fixture.finish(number, Outcome::Failed).await;
    let state = fixture.state();
    let connection = Connection::open(state.join("factory.db")).expect("opens");
    let mut statement = connection.prepare("SELECT event FROM journal ORDER BY position").expect("prepared");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("read");
    let events: Vec<String> = rows.map(|row| row.expect("read")).collect();
    let declared = print("provision 1");
    let expected = [
        r#""queued""#.to_owned(),
        r#"{"started":{"attempt":1}}"#.to_owned(),
        format!(r#"{{"stage-started":{{"stage":"provision","declared":"{declared}","reason":"changed"}}}}"#),
        r#"{"stage-finished":{"stage":"provision","end":"passed"}}"#.to_owned(),
        r#"{"intent":{"image":{"id":"i","disk":"d"}}}"#.to_owned(),
        r#"{"finished":{"outcome":"failed","failure":{"stage":"provision","step":"clean","line":17,"message":"exit code 1","help":"see the log"},"reason":""}}"#.to_owned(),
    ];
    assert_eq!(events, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_live_and_ends_with_its_build() {
    let fixture = Fixture::new();
    let number = fixture.enqueue(vec![new("images/a", "1")]).await[0].number;
    // Somebody follows before there is a line, and gets every line once.
    let mut follower = fixture.store.follow_log(number, 1, None).await.expect("followed");
    let following = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(lines) = follower.next().await.expect("read") {
            seen.extend(lines.into_iter().map(|line| (line.number, line.text)));
        }
        seen
    });
    fixture.append(number, 2, Event::Started { attempt: 1 }).await;
    let writer = fixture.store.log_writer(number);
    let threads = (0..4).map(|thread| {
        let writer = writer.clone();
        std::thread::spawn(move || {
            for n in 0..250 {
                writer.line(Some(Stage::Boot), Some(1), format!("{thread} {n}").as_bytes());
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
    fixture.finish(number, Outcome::Passed).await;
    fixture.store.finish_log(number).await.expect("packed");
    let seen = following.await.expect("no panic");
    assert!((1..=1000).eq(seen.iter().map(|(number, _)| *number)));

    // Packed, it reads the same, and a follower who comes late ends at once.
    let all: Vec<String> = seen.into_iter().map(|(_, text)| text).collect();
    assert_eq!(log(&fixture.store, number).await, all);
    assert!(!fixture.state().join("builds/1/log").exists());
    assert_eq!(fixture.store.build(number).await.expect("read").expect("there").log_lines, Some(1000));
    let mut late = fixture.store.follow_log(number, 999, None).await.expect("followed");
    assert_eq!(late.next().await.expect("read").map(|lines| lines.len()), Some(2));
    assert_eq!(late.next().await.expect("read"), None);
    let page = LogPage { from: 10, limit: 2, stage: Some(Stage::Boot) };
    let page = fixture.store.read_log(number, page).await.expect("read");
    assert_eq!(page.iter().map(|line| line.number).collect::<Vec<_>>(), [10, 11]);
    assert_eq!(fixture.store.verify().await.expect("verified").problems, []);
}

#[tokio::test]
async fn a_log_goes_on_after_the_process_died_in_the_middle_of_a_line() {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    fixture.store.log_writer(number).line(None, None, b"before");
    let path = fixture.state().join("builds/1/log");
    let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(b"17 boot 1 half a li").expect("written");
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.log_writer(number).line(None, None, b"\x1b[31mafter\x1b[0m"), 3);
    assert_eq!(log(&fixture.store, number).await, ["before", "half a li", "after"]);
    let raw = fs::read(&path).expect("read");
    assert!(!raw.contains(&0x1b), "no terminal escape is ever stored");
}

#[tokio::test]
async fn a_log_that_grows_too_large_is_cut_once_and_says_how_much_is_missing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let limits = LogLimits { line: 20, build: 200 };
    let store = Store::open_with(&directory.path().join("state"), limits).expect("opens");
    let fixture = Fixture { directory, store };
    let number = fixture.started(new("images/a", "1")).await;
    let writer = fixture.store.log_writer(number);
    writer.line(None, None, &[b'x'; 1000]);
    for _ in 0..100 {
        writer.line(None, None, b"the same again");
    }
    fixture.finish(number, Outcome::Passed).await;
    let lines = log(&fixture.store, number).await;
    assert_eq!(lines[0], format!("{} … (line cut: it had 1000 bytes)", "x".repeat(20)));
    let last = lines.len() - 1;
    assert_eq!(lines[last - 1], "the log is cut here: it may have 200 bytes");
    assert!(lines[last].ends_with("bytes of the log were dropped"), "{lines:?}");
    assert!(lines.len() < 10, "{lines:?}");
}

#[tokio::test]
async fn status_stays_quick_with_a_long_history() {
    let fixture = Fixture::new();
    fixture.enqueue((0..50).map(|n| new(&format!("images/b{n}"), "1")).collect()).await;
    let Fixture { directory, store } = fixture;
    drop(store);
    let state = directory.path().join("state");
    Fixture::damage(
        &state,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO build (bundle, commit_id, reason, asked_by, no_cache, tracked, stages, fold, state, outcome, queued)
         SELECT 1 + i % 50, 'c', 'r', 'push', 0, 1, '[]', '{}', 'finished', 'passed', 1 FROM n;
         UPDATE bundle SET last_finished = (SELECT max(number) FROM build WHERE bundle = bundle.id)",
    );
    let plan = |sql: &str| -> String {
        let connection = Connection::open(state.join("factory.db")).expect("opens");
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("prepared");
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).expect("explained");
        rows.map(|row| row.expect("read")).collect::<Vec<_>>().join("\n")
    };
    let last = plan(
        "SELECT build.fold FROM build JOIN bundle ON bundle.id = build.bundle LEFT JOIN log ON log.build = build.number
         WHERE bundle.repository = 'factory' AND bundle.branch = 'main' AND bundle.path = x'00'
           AND build.number = bundle.last_finished",
    );
    assert!(!last.contains("SCAN") && last.starts_with("SEARCH bundle"), "{last}");
    let unfinished = plan("SELECT number FROM build WHERE state <> 'finished' ORDER BY number");
    assert!(unfinished.contains("build_unfinished"), "{unfinished}");
    let store = Store::open(&state).expect("opens");
    assert_eq!(store.open_builds().await.expect("read").len(), 50);
}
