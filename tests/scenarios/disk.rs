//! The disk that machines write to: shared out before it is written, and never filled to its end.

use factoryd::domain::build::BuildState;
use factoryd::domain::id::BuildNo;
use factoryd::engine::ports::PortError;

use crate::factory::Factory;
use crate::world::{PLENTY, Trouble};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A factory with two bundles, pushed, whose install scripts do not end.
fn two(free: u64) -> Factory {
    let mut factory = Factory::new();
    factory.policy.disk_free = 4 * MIB;
    factory.restart();
    factory.world.state().free = free;
    factory.bundle("images/app", "debian");
    factory.world.always("run /tmp/factoryd-step-3 ", Trouble::Hold);
    factory.commit(&[]);
    factory.push();
    factory
}

#[test]
fn a_guest_that_fills_the_disk_is_ended_with_one_error_and_others_go_on() {
    let mut factory = two(PLENTY);
    factory.until("'app'");
    factory.until("'web'");
    {
        let mut state = factory.world.state();
        state.free = MIB;
        for vm in state.machines.values_mut() {
            vm.written = if vm.build == BuildNo(1) { 3 * GIB } else { GIB };
        }
    }
    factory.until_true("#1 has ended", |engine| async move {
        let record = engine.store().build(BuildNo(1)).await.expect("read").expect("it is there");
        record.build.state == BuildState::Finished
    });
    factory.world.state().free = PLENTY;
    factory.world.calm();
    factory.settle();
    assert_eq!(
        factory.ended(1),
        "failed: boot passed, provision failed, test skipped, snapshot skipped, render skipped"
    );
    let failure = factory.failure(1);
    assert_eq!(
        failure.message,
        "the disk would be full: 1.0 MiB are free and 2.0 MiB must be while builds run; this build has written 3.0 GiB, the \
         most of those that run"
    );
    assert!(failure.help.starts_with("let it write less, or make room (factoryd gc, "), "{}", failure.help);
    assert!(failure.help.ends_with("then factoryd retry 1"), "{}", failure.help);
    assert!(factory.ended(2).starts_with("passed:"), "{}", factory.ended(2));
    factory.plan();
    assert_eq!(factory.why("images/app"), "provision failed in #1", "it is not done again by itself");
}

#[test]
fn what_host_steps_write_counts_as_their_builds() {
    let mut factory = two(PLENTY);
    factory.until("'app'");
    factory.until("'web'");
    let scratch = factory.policy.scratch.join("1/large");
    std::fs::write(scratch, vec![1; 3 << 20]).expect("written");
    {
        let mut state = factory.world.state();
        state.free = MIB;
        for vm in state.machines.values_mut() {
            vm.written = if vm.build == BuildNo(1) { MIB } else { 2 * MIB };
        }
    }
    factory.until_true("#1 is told to end", |engine| async move {
        let record = engine.store().build(BuildNo(1)).await.expect("read").expect("it is there");
        record.build.state == BuildState::Finished
    });
    factory.world.state().free = PLENTY;
    factory.world.calm();
    factory.settle();
    assert!(factory.failure(1).message.contains("this build has written 4.0 MiB, "), "{}", factory.failure(1).message);
    assert!(factory.ended(2).starts_with("passed:"), "{}", factory.ended(2));
}

#[test]
fn what_a_running_build_may_write_is_not_given_to_the_next() {
    let mut factory = two(6 * GIB);
    factory.until("'app'");
    factory.until_waiting(2);
    assert_eq!(
        factory.wait_reason(2),
        "for disk space: it may write 4.0 GiB; of 6.0 GiB free, 4.0 MiB must stay free and 4.0 GiB are left to builds that run"
    );
    factory.world.calm();
    factory.settle();
    assert!(factory.ended(2).starts_with("passed:"), "alone it starts: {}", factory.ended(2));

    // What they wrote is known now, and there is room for both at once.
    factory.world.always("run /tmp/factoryd-step-3 ", Trouble::Hold);
    factory.world.forget_script();
    factory.commit(&[("images/app/files/motd", "Hello.\n"), ("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.until("'app'");
    factory.until("'web'");
    factory.world.calm();
}

#[test]
fn a_disk_that_could_not_be_made_durable_stops_all_writing_until_a_start_has_verified() {
    for at in ["seal ", "publish "] {
        let mut factory = Factory::new();
        factory.expected_errors = vec!["takes no more writes", "can't be journalled", "can't be read"];
        let error = PortError::not_durable("disk.qcow2 could not be made durable: Input/output error");
        factory.world.next(at, Trouble::Fail(error));
        factory.push();
        factory.until_true("it takes no more writes", |engine| async move { engine.store().broken().is_some() });
        let reason = factory.engine().store().broken().expect("broken");
        assert_eq!(reason, "disk.qcow2 could not be made durable: Input/output error", "{at}");
        factory.restart();
        assert!(factory.engine().store().opening_report().is_some(), "{at}: it was verified");
        factory.settle();
        assert!(factory.ended(1).starts_with("passed:"), "{at}: {}", factory.ended(1));
        assert_eq!(factory.build(1).build.attempt, 2, "{at}");
    }
}
