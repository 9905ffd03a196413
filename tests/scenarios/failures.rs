//! What fails, is cancelled or takes too long: said once, cleaned up, and not done again by itself.

use factoryd::domain::pipeline::{BaseImage, DiskFormat};
use factoryd::engine::ports::PortError;
use factoryd::engine::views::Which;

use crate::factory::Factory;
use crate::world::Trouble;

/// A factory whose only build failed since its install script does.
fn failed() -> Factory {
    let mut factory = Factory::new();
    factory.deliver(&[("images/web/scripts/install.sh", "#!/bin/sh\necho installing\nfail no package nginx\n")]);
    factory
}

#[test]
fn a_step_that_fails_fails_the_build_and_says_its_line() {
    let factory = failed();
    assert_eq!(
        factory.ended(1),
        "failed: boot passed, provision failed, test skipped, snapshot skipped, render skipped"
    );
    let failure = factory.failure(1);
    assert_eq!(failure.step.as_deref(), Some("script"));
    assert_eq!(failure.message, "script ended with exit code 1: E: no package nginx");
    assert_eq!(failure.help, "the step is written at pipelines/images.yml:12");
    let log = factory.artifact(1, "packer.latest.log");
    let line = failure.line.expect("a line");
    let at = usize::try_from(line).expect("a small number") - 1;
    assert_eq!(log.lines().nth(at), Some("provision: E: no package nginx"));
    assert!(factory.served("images/web").is_none());
    assert_eq!(factory.images().len(), 0);
}

#[test]
fn a_failure_is_not_repeated_until_its_inputs_change() {
    let mut factory = failed();
    factory.bundle("images/app", "debian");
    factory.deliver(&[]);
    assert_eq!(
        factory.said("images/web"),
        "stale: boot hit, provision skipped, test skipped, snapshot skipped, render skipped"
    );
    assert_eq!(factory.why("images/web"), "provision failed in #1");
    factory.restart();
    factory.settle();
    assert_eq!(factory.builds().len(), 2, "only the other bundle was built");

    factory.deliver(&[("images/web/scripts/install.sh", "#!/bin/sh\necho installing\n")]);
    assert!(factory.ended(3).starts_with("passed: boot hit"));
}

#[test]
fn a_retry_runs_again_what_failed() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", Trouble::PowerOff);
    factory.push();
    factory.settle();
    let again = factory.retry(1);
    factory.settle();
    assert_eq!(factory.ended(again), "passed: boot hit, provision passed, test passed, snapshot passed, render passed");
    assert_eq!(factory.build(again).order.reason, "retry of #1 by ada");
    factory.plan();
    assert!(factory.said("images/web").starts_with("unchanged:"));
}

#[test]
fn a_retry_that_fails_is_not_repeated_either() {
    let mut factory = failed();
    let again = factory.retry(1);
    factory.settle();
    assert!(factory.ended(again).starts_with("failed:"));
    factory.plan();
    assert_eq!(factory.why("images/web"), format!("provision failed in #{again}"));
    assert_eq!(factory.builds().len(), 2);
}

#[test]
fn a_step_may_fail_where_the_pipeline_allows_it() {
    let mut factory = Factory::new();
    factory.edit(
        "pipelines/images.yml",
        "          shell: echo cleaning",
        "          shell: fail nothing to clean\n          allow_failure: true",
    );
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("passed:"), "{}", factory.ended(1));
    assert!(factory.journal(1).contains(&"step 4 FailedAllowed".to_owned()));
    let log = factory.artifact(1, "packer.latest.log");
    assert!(log.contains("failed, which the pipeline allows: shell ended with exit code 1"), "{log}");
}

#[test]
fn a_test_that_fails_publishes_nothing_and_keeps_the_disk() {
    let mut factory = Factory::new();
    factory.deliver(&[("images/web/tests/test_web.py", "def test_a():\n    pass\ndef test_b():\n    assert False\n")]);
    assert_eq!(
        factory.ended(1),
        "failed: boot passed, provision passed, test failed, snapshot skipped, render skipped"
    );
    assert_eq!(factory.failure(1).message, "1 of 2 tests failed");
    assert!(factory.artifact(1, "reports/2-pytest.xml").contains("assert False"));
    assert!(factory.served("images/web").is_none());

    factory.deliver(&[("images/web/tests/test_web.py", "def test_a():\n    pass\n")]);
    assert_eq!(factory.ended(2), "passed: boot hit, provision hit, test passed, snapshot passed, render passed");
}

#[test]
fn a_template_that_fails_leaves_the_image_served_and_is_put_right_by_another_push() {
    let mut factory = Factory::new();
    factory.deliver(&[("images/web/output/stack.yml.j2", "image: {{ no_such_thing }}\n")]);
    assert_eq!(factory.ended(1), "failed: boot passed, provision passed, test passed, snapshot passed, render failed");
    factory.deliver(&[("images/web/output/stack.yml.j2", "image: {{ result_img_id }}\n")]);
    assert_eq!(factory.ended(2), "passed: boot hit, provision hit, test hit, snapshot hit, render passed");
    assert_eq!(factory.images().len(), 1);
}

#[test]
fn a_queued_build_is_cancelled_at_once() {
    let mut factory = Factory::new();
    factory.policy.slots = 1;
    factory.restart();
    factory.bundle("images/app", "debian");
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.commit(&[]);
    factory.push();
    factory.until("run echo cleaning");
    factory.cancel(2);
    assert_eq!(factory.build(2).build.reason, "cancelled by ada before it started");
    factory.world.let_go();
    factory.settle();
    assert!(factory.ended(2).starts_with("cancelled:"));
    factory.plan();
    assert_eq!((factory.queued(), factory.builds().len()), (0, 2), "it is not queued again");
}

#[test]
fn a_running_build_is_cancelled_and_its_machine_goes() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.cancel(1);
    factory.settle();
    assert_eq!(
        factory.ended(1),
        "cancelled: boot passed, provision cancelled, test skipped, snapshot skipped, render skipped"
    );
    assert_eq!(factory.build(1).build.reason, "cancelled by ada during provision");
    factory.plan();
    assert_eq!(factory.why("images/web"), "provision failed in #1");
    assert_eq!(factory.builds().len(), 1, "it is not queued again");

    let again = factory.retry(1);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed:"));
}

#[test]
fn a_build_is_cancelled_wherever_it_is() {
    for at in ["base ", "boot provision", "upload ", "ansible ", "seal ", "boot test", "pytest ", "publish "] {
        let mut factory = Factory::new();
        factory.world.next(at, Trouble::Hold);
        factory.push();
        factory.until(at);
        factory.cancel(1);
        factory.settle();
        assert!(factory.ended(1).starts_with("cancelled:"), "{at}: {}", factory.ended(1));
    }
}

#[test]
fn every_operation_that_fails_fails_the_build_and_leaves_nothing() {
    for at in ["base ", "boot provision", "upload ", "ansible ", "seal ", "boot test", "pytest ", "publish "] {
        let mut factory = Factory::new();
        let error = PortError::unavailable("no space left on device").help("factoryd gc");
        factory.world.next(at, Trouble::Fail(error));
        factory.push();
        factory.settle();
        assert!(factory.ended(1).starts_with("failed:"), "{at}: {}", factory.ended(1));
        let failure = factory.failure(1);
        assert_eq!((failure.message.as_str(), failure.help.as_str()), ("no space left on device", "factoryd gc"));
        let again = factory.retry(1);
        factory.settle();
        assert!(factory.ended(again).starts_with("passed:"), "{at}: {}", factory.ended(again));
    }
}

#[test]
fn a_property_that_can_t_be_put_right_leaves_what_was_served() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.world.next("amend", Trouble::Fail(PortError::unavailable("the cloud is away")));
    factory.edit("images/web/build-vars.yml", "os: Debian", "os: Devuan");
    factory.deliver(&[]);
    assert_eq!(factory.ended(2), "failed: boot hit, provision hit, test hit, snapshot failed, render skipped");
    assert_eq!(factory.served("images/web").expect("an image").image.properties[0].1, "Debian");
    let again = factory.retry(2);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed:"));
    assert_eq!(factory.served("images/web").expect("an image").image.properties[0].1, "Devuan");
}

#[test]
fn a_step_that_takes_too_long_is_ended() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "shell: echo cleaning", "shell: echo cleaning\n          timeout: 1s");
    factory.world.always("run echo cleaning", Trouble::Hold);
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("failed: boot passed, provision failed"));
    assert_eq!(factory.failure(1).step.as_deref(), Some("clean"));
    assert!(factory.failure(1).message.contains("took longer than it may"), "{:?}", factory.failure(1));
}

#[test]
fn a_build_that_takes_too_long_is_ended() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "timeout: 60s", "timeout: 1s");
    factory.world.always("boot test", Trouble::Hold);
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("failed: boot passed, provision passed, test failed"), "{}", factory.ended(1));
}

#[test]
fn a_machine_that_never_answers_is_given_up() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "user: root }", "user: root, timeout: 1s }");
    factory.world.always("boot provision", Trouble::Hold);
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("failed: boot failed"), "{}", factory.ended(1));
}

#[test]
fn a_guest_that_powers_off_fails_its_step() {
    let mut factory = Factory::new();
    factory.world.next("ansible", Trouble::PowerOff);
    factory.deliver(&[]);
    assert_eq!(factory.failure(1).message, "the connection was lost");
    assert_eq!(factory.failure(1).step.as_deref(), Some("script"));
}

#[test]
fn a_step_that_wants_the_host_s_network_is_refused() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "- pytest: tests", "- pytest: tests\n          network: full");
    factory.deliver(&[]);
    assert_eq!(
        factory.failure(1).message,
        "the step may not use `network: full`: pipelines/images.yml on main does not ask for it, or the configuration does not allow it"
    );
    assert_eq!(factory.world.count("pytest"), 0);
}

#[test]
fn a_base_image_that_nobody_knows_is_said() {
    let mut factory = Factory::new();
    factory.edit("images/web/build-vars.yml", "img_base: debian", "img_base: beos");
    factory.deliver(&[]);
    assert_eq!(factory.failure(1).message, "no image, bundle or alias is called `beos`");
}

#[test]
fn a_file_that_the_configuration_names_needs_no_leave_and_one_that_the_pipeline_names_does() {
    let mut factory = Factory::new();
    let local = BaseImage::Path { path: "/srv/images/debian.qcow2".to_owned(), format: DiskFormat::Qcow2 };
    factory.policy.aliases.push(("local".to_owned(), local));
    factory.restart();
    factory.edit("images/web/build-vars.yml", "img_base: debian", "img_base: local");
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("passed:"), "{}", factory.ended(1));
    let (named, direct) =
        ("image: \"{{ bundle.img_base }}\"", "image: { path: /srv/images/debian.qcow2, format: qcow2 }");
    factory.edit("pipelines/images.yml", named, direct);
    factory.deliver(&[]);
    assert!(factory.failure(2).message.contains("is not below a directory that the configuration allows"));
    assert!(factory.failure(2).help.contains("base_directories"));
}

#[test]
fn who_asks_for_what_wants_attention_is_told_that_and_how_much_is_fresh() {
    let mut factory = Factory::new();
    factory.bundle("images/site", "debian");
    factory.bundle("images/shop", "debian");
    factory.deliver(&[]);
    factory.deliver(&[("images/site/scripts/install.sh", "#!/bin/sh\necho installing\nfail no package nginx\n")]);
    let look = |which| {
        let standings = factory.run(|engine| async move { engine.standings(which).await }).expect("read");
        let shown = standings.shown.iter();
        let shown: Vec<String> = shown.map(|state| format!("{} {}", state.key.path, state.standing.word())).collect();
        let counts = standings.counts.iter().map(|(standing, count)| format!("{count} {}", standing.word()));
        assert_eq!(counts.collect::<Vec<_>>(), ["1 failed", "2 fresh"], "whatever is shown");
        shown.join(", ")
    };
    let all = "images/site failed, images/shop fresh, images/web fresh";
    assert_eq!(look(Which::All), all);
    assert_eq!(look(Which::Attention { few: 3, most: 9 }), all, "so few are all shown");
    assert_eq!(look(Which::Attention { few: 3, most: 1 }), "images/site failed, images/shop fresh");
    assert_eq!(look(Which::Attention { few: 2, most: 9 }), "images/site failed");
}

#[test]
fn only_the_reports_of_the_test_stage_are_its_tests() {
    let mut factory = Factory::new();
    factory.edit(
        "pipelines/images.yml",
        "- ansible: ansible/site.yml",
        "- ansible: ansible/site.yml\n        - pytest: checks",
    );
    let failing = "def test_port():\n    assert False\n";
    let checks = ("images/web/checks/test_disk.py", "def test_disk():\n    assert True\n");
    factory.deliver(&[checks, ("images/web/tests/test_web.py", failing)]);
    assert_eq!(factory.failure(1).message, "1 of 1 test failed");
}
