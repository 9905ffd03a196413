//! The daemon dies, on whatever line: what was finished is not done again, what was left is cleared away.

use std::collections::BTreeSet;

use crate::changes::changing;
use crate::factory::Factory;
use crate::world::{Kind, Trouble};

/// More looks at the clock than a build takes.
const MOST_TICKS: u64 = 400;

/// Looks whether build 1 passed, and no stage that had ended was done twice.
fn assert_went_on(factory: &Factory, before: &[String], at: &str) {
    let journal = factory.journal(1);
    assert!(factory.ended(1).starts_with("passed:"), "{at}: {}\n{journal:#?}", factory.ended(1));
    assert!(factory.build(1).build.attempt <= 2, "{at}");
    assert_eq!(factory.builds().len(), 1, "{at}: nothing else was queued");
    for stage in ["boot", "provision", "test", "snapshot", "render"] {
        if before.contains(&format!("{stage} Passed")) {
            let started = journal.iter().filter(|event| **event == format!("{stage} started")).count();
            assert_eq!(started, 1, "{at}: {stage} was done again\n{journal:#?}");
        }
    }
    assert_eq!(factory.images().len(), 1, "{at}: one image");
}

#[test]
fn killed_after_any_event_a_build_goes_on() {
    goes_on_after_any_event(Factory::new);
}

#[test]
fn killed_after_any_event_of_a_changed_base_image_a_build_goes_on() {
    goes_on_after_any_event(changing);
}

fn goes_on_after_any_event(make: fn() -> Factory) {
    let mut seen = BTreeSet::new();
    let mut whole = 0;
    for tick in 1..MOST_TICKS {
        let mut factory = make();
        factory.kill();
        factory.clone.push();
        factory.start_until(Some(tick));
        if !factory.is_dead() {
            factory.settle_or_die();
        }
        let survived = !factory.is_dead();
        let before = factory.left(1);
        let died_at = before.len();
        seen.insert(died_at);
        factory.expected_errors = vec!["panicked"];
        factory.start();
        factory.settle();
        assert_went_on(&factory, &before, &format!("tick {tick}, after {died_at} events"));
        if survived {
            whole = factory.journal(1).len();
            break;
        }
    }
    assert!(whole > 0, "{MOST_TICKS} looks at the clock are not enough");
    let missing: Vec<usize> = (1..whole).filter(|length| !seen.contains(length)).collect();
    assert_eq!(missing, Vec::<usize>::new(), "no daemon died after so many events");
}

#[test]
fn killed_before_or_after_any_effect_a_build_goes_on() {
    let effects = [
        "base ",
        "boot provision",
        "upload ",
        "ansible ",
        "run /tmp",
        "run echo cleaning",
        "seal ",
        "boot test",
        "run echo running",
        "pytest ",
        "destroy ",
        "publish ",
        "release ",
    ];
    goes_on_around(Factory::new, &effects);
}

#[test]
fn killed_before_or_after_any_effect_on_a_changed_base_image_a_build_goes_on() {
    let effects = [
        "boot change",
        "sh 'fake-serial' '/run/factoryd-root'",
        "upload /run/factoryd-root",
        "echo changing",
        "sh '/run/factoryd-root'",
        "keep ",
        "boot provision",
        "seal ",
        "boot test",
        "publish ",
    ];
    goes_on_around(changing, &effects);
}

fn goes_on_around(make: fn() -> Factory, effects: &[&str]) {
    for at in effects {
        for trouble in [Trouble::Die, Trouble::DieAfter] {
            let mut factory = make();
            factory.expected_errors = vec!["panicked"];
            factory.world.next(at, trouble.clone());
            factory.push();
            assert!(!factory.settle_or_die(), "{at}: the daemon lives");
            let before = factory.left(1);
            factory.start();
            factory.settle();
            assert_went_on(&factory, &before, &format!("{trouble:?} {at}"));
        }
    }
}

#[test]
fn a_daemon_that_stops_ends_the_stage_it_is_in_and_goes_on_after_it() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    // As often as people like: an orderly stop is not a death.
    for (at, next) in [("run echo cleaning", "boot test"), ("boot test", "publish"), ("publish", "nothing")] {
        factory.until(at);
        factory.ask_to_stop();
        factory.world.let_go();
        factory.stopped();
        assert_eq!(factory.left(1).last().map(String::as_str), Some("drained"), "{at}");
        assert!(factory.world.state().machines.is_empty(), "no machine outlives the daemon");
        factory.world.next(next, Trouble::Hold);
        factory.start();
    }
    factory.settle();
    assert_eq!((factory.build(1).build.attempt, factory.world.count("run echo cleaning")), (1, 1));
    assert!(factory.ended(1).starts_with("passed"), "{}", factory.ended(1));
}

#[test]
fn a_build_that_is_cancelled_while_the_daemon_stops_stays_cancelled() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.ask_to_stop();
    factory.cancel(1);
    factory.stopped();
    factory.start();
    factory.settle();
    assert!(factory.ended(1).starts_with("cancelled:"), "{}", factory.ended(1));
}

#[test]
fn killed_three_times_a_build_fails_and_is_not_looped() {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.world.always("run echo cleaning", Trouble::Die);
    factory.push();
    assert!(!factory.settle_or_die());
    for _ in 0..2 {
        factory.restart();
        assert!(!factory.settle_or_die());
    }
    factory.restart();
    factory.settle();
    assert_eq!(
        factory.ended(1),
        "failed: boot passed, provision failed, test skipped, snapshot skipped, render skipped"
    );
    assert_eq!(factory.failure(1).message, "the build was broken off 3 times: the daemon died, or could not write");
    assert_eq!(factory.why("images/web"), "provision failed in #1");
    assert_eq!(factory.builds().len(), 1);
}

#[test]
fn a_cancelled_build_whose_daemon_was_killed_stays_cancelled() {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.world.next("run echo cleaning", Trouble::Hold);
    // The machine can't be destroyed before the daemon dies.
    factory.world.next("destroy", Trouble::Die);
    factory.push();
    factory.until("run echo cleaning");
    factory.cancel(1);
    assert!(!factory.settle_or_die());
    factory.restart();
    factory.settle();
    assert!(factory.ended(1).starts_with("cancelled:"), "{}", factory.ended(1));
    factory.plan();
    assert_eq!((factory.queued(), factory.builds().len()), (0, 1));
}

#[test]
fn a_sealed_disk_that_vanished_is_made_again() {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.world.next("boot test", Trouble::Die);
    factory.push();
    assert!(!factory.settle_or_die());
    factory.kill();
    factory.lose_all_but(&[Kind::Base, Kind::Image]);
    factory.start();
    factory.settle();
    assert!(factory.ended(1).starts_with("passed:"), "{}", factory.ended(1));
    assert_eq!(factory.world.count("seal"), 2);
}

#[test]
fn a_base_image_that_vanished_is_fetched_again() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.lose_all_but(&[Kind::Image]);
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert_eq!(factory.ended(2), "passed: boot passed, provision passed, test passed, snapshot passed, render passed");
    assert_eq!(
        factory.build(2).build.stages.values().next().map(|run| run.reason.as_str()),
        Some("what its kept result stood for is gone")
    );
}

#[test]
fn a_daemon_that_is_killed_while_it_recovers_recovers_again() {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.world.next("run echo cleaning", Trouble::Die);
    factory.push();
    assert!(!factory.settle_or_die());
    factory.kill();
    factory.world.next("release #1", Trouble::DieAfter);
    factory.start();
    assert!(factory.is_dead());
    factory.restart();
    factory.settle();
    assert!(factory.ended(1).starts_with("passed:"));
}

#[test]
fn queued_builds_survive_and_a_deleted_bundle_s_does_not() {
    let mut factory = Factory::new();
    factory.policy.slots = 1;
    factory.restart();
    factory.bundle("images/app", "debian");
    factory.bundle("images/zoo", "debian");
    factory.commit(&[]);
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.kill();
    factory.clone.remove("images/zoo");
    factory.clone.commit();
    factory.clone.push();
    factory.start();
    factory.world.let_go();
    factory.settle();
    let ended: Vec<String> = (1..=3).map(|number| factory.ended(number)).collect();
    assert!(ended[0].starts_with("passed") && ended[1].starts_with("passed"), "{ended:?}");
    assert!(ended[2].starts_with("superseded"), "{ended:?}");
}

#[test]
fn a_build_that_died_when_it_had_published_names_an_image_that_is_there() {
    for tick in 1..MOST_TICKS {
        let mut factory = Factory::new();
        factory.expected_errors = vec!["panicked"];
        factory.kill();
        factory.clone.push();
        factory.start_until(Some(tick));
        if !factory.is_dead() {
            factory.settle_or_die();
        }
        let served = factory.left(1).last().is_some_and(|event| event == "served");
        if !served {
            continue;
        }
        // It has no chance to publish again: something newer is wanted when the daemon is back.
        factory.commit(&[("images/web/files/motd", "Newer.\n")]);
        factory.clone.push();
        factory.start();
        factory.settle();
        assert!(factory.ended(1).starts_with("superseded:"), "{}", factory.ended(1));
        let image = factory.build(1).build.image.expect("it had published");
        assert_eq!(factory.image(image.as_str()).image.lineage.build.0, 1);
        assert_eq!((factory.build(2).build.image.is_some(), factory.images().len()), (true, 2));
        return;
    }
    panic!("{MOST_TICKS} looks at the clock are not enough");
}

#[test]
fn a_build_whose_task_panics_goes_on_and_is_cancelled_all_the_same() {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.world.next("seal ", Trouble::Panic);
    factory.push();
    factory.settle();
    assert!(factory.ended(1).starts_with("passed:"), "{}", factory.ended(1));
    assert_eq!(factory.build(1).build.attempt, 2);

    // Cancelled while it runs, and its task breaks before it could say so.
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.world.next("destroy ", Trouble::Panic);
    factory.world.forget_script();
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.until("run echo cleaning");
    factory.cancel(2);
    factory.settle();
    assert!(factory.ended(2).starts_with("cancelled:"), "{}", factory.ended(2));
    assert_eq!(factory.builds().len(), 2);
}
