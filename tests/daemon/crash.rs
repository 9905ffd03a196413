//! `kill -9` at moments that nobody chose: no number twice, the store whole, nothing forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use super::factory::{Author, Factory, WAITING, pause_for};
use super::images::{bundle, serve};

#[test]
fn a_daemon_that_is_killed_at_random_forgets_nothing_and_repeats_no_number() {
    let mut factory = Factory::with("", "[download]\nallow_private = [\"127.0.0.0/8\"]\n");
    let author = Author::new(&["bundle-a", "bundle-b"]);
    // One build lives long enough to be interrupted: its base image never comes.
    let port = serve(b"");
    let zeros = "0".repeat(64);
    bundle(&author, "silent", &format!("{{ url: \"http://127.0.0.1:{port}/silence\", sha256: {zeros}, format: raw }}"));
    let mut noise = 0x9e37_79b9_u64;
    for round in 0..12 {
        for bundle in ["bundle-a", "bundle-b"] {
            author.bundle(bundle, &format!("nothing-{round}"));
        }
        author.commit(&format!("Round {round}"));
        let said = author.try_push(&factory, "main");
        assert_eq!(said.code, 0, "{said:?}");
        // Somewhere in planning, queueing, failing, archiving: the moment is the point, so nothing is waited for.
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pause_for(Duration::from_millis((noise >> 33) % 120));
        factory.end(Signal::KILL);
        factory.start();
        let verified = factory.run(["verify"]);
        assert_eq!(verified.code, 0, "{verified:?}");
    }
    let builds = factory.until("all builds have ended", |factory| {
        let builds = factory.json(["builds", "--limit", "200"])["builds"].as_array().expect("builds").clone();
        builds.iter().all(|build| build["state"] == "finished").then_some(builds)
    });
    let numbers: BTreeSet<u64> = builds.iter().filter_map(|build| build["build"].as_u64()).collect();
    assert_eq!(numbers.len(), builds.len(), "a number was given twice");
    assert_eq!(numbers.last().map(|last| *last as usize), Some(numbers.len()), "a number was lost");
    // What was pushed last is known to have failed, once for each bundle.
    for bundle in ["bundle-a", "bundle-b"] {
        let (message, _) = factory.failed(factory.build_of(bundle));
        assert!(message.contains("nothing-11") || message.contains("was broken off 3 times"), "{message}");
    }
    let silent = factory.ended(factory.build_of("silent"));
    assert_eq!((&silent["outcome"], &silent["attempt"]), (&"failed".into(), &3.into()), "{silent}");
    assert!(silent["error"]["message"].as_str().is_some_and(|why| why.contains("was broken off 3 times")), "{silent}");
    factory.is_well();
    let scratch = std::fs::read_dir(factory.state().join("scratch")).map(Iterator::count).unwrap_or(0);
    assert_eq!(scratch, 0, "scratch directories are left");
}

#[test]
fn what_waits_is_still_there_after_a_crash() {
    let mut factory = Factory::with("", WAITING);
    Author::new(&["bundle-one", "bundle-two"]).push(&factory, "Begin");
    let before = factory.json(["builds"]);
    factory.end(Signal::KILL);
    factory.start();
    // Why they wait is known as soon as the queue was looked at.
    let after = factory.until("the reasons are there", |factory| {
        let queue = factory.json(["status"])["queue"].clone();
        queue[0]["waits"].as_str().is_some_and(|why| !why.is_empty()).then(|| factory.json(["builds"]))
    });
    let numbers = |builds: &serde_json::Value| -> Vec<Option<u64>> {
        builds["builds"].as_array().expect("builds").iter().map(|build| build["build"].as_u64()).collect()
    };
    assert_eq!(numbers(&after), numbers(&before));
    factory.is_well();
}
