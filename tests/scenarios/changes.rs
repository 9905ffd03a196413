//! Changes before the first boot: done once on a layer of the base, kept, and gone with what needed them.

use crate::factory::Factory;
use crate::world::{Kind, Trouble};

/// What the machine is, and what is changed before it boots.
const BOOT: &str = r#"  - boot:
      image: "{{ bundle.img_base }}"
      user: cloud
      changes:
        - upload: { from: files/first, to: /etc/first }
        - name: rename
          shell: echo changing
"#;

/// The factory of most scenarios, whose pipeline changes the base image before its first boot; nothing is pushed yet.
pub(crate) fn changing() -> Factory {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "  - boot: { image: \"{{ bundle.img_base }}\", user: root }\n", BOOT);
    factory.commit(&[("images/web/files/first", "First.\n")]);
    factory
}

/// What was done in the world whose line begins with one of these, in order.
fn done(factory: &Factory, beginnings: &[&str]) -> Vec<String> {
    let state = factory.world.state();
    let lines = state.script.iter().filter(|line| beginnings.iter().any(|beginning| line.starts_with(beginning)));
    lines.map(|line| line.split(" of #").next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn changes_are_done_once_on_a_copy_and_the_machine_boots_from_that() {
    let mut factory = changing();
    factory.push();
    factory.settle();
    assert!(factory.ended(1).starts_with("passed: boot passed, provision passed"), "{}", factory.ended(1));
    let (base, changed) = {
        let state = factory.world.state();
        let of = |kind| state.disks.iter().find(|(_, disk)| disk.kind == kind).map(|(id, _)| id.to_string());
        (of(Kind::Base).expect("a base image"), of(Kind::Changed).expect("a changed disk"))
    };
    assert_eq!(
        done(&factory, &["boot ", "upload /run", "keep "]),
        [
            format!("boot change {base}"),
            "upload /run/factoryd-root/etc/first".to_owned(),
            format!("keep {changed}"),
            format!("boot provision {changed}"),
            done(&factory, &["boot test"]).concat(),
        ]
    );
    let as_root = "run exec sudo -n env 'ROOT=/run/factoryd-root' /bin/sh -c 'echo changing' sh";
    assert_eq!(factory.world.count(as_root), 1, "{:#?}", factory.world.state().script);
    let log = factory.artifact(1, "packer.latest.log");
    assert!(log.contains("boot: changing"), "{log}");

    // Whatever else changes, the changed disk is what is booted.
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert!(factory.ended(2).starts_with("passed: boot hit, provision passed"), "{}", factory.ended(2));
    assert_eq!(factory.world.count("boot change"), 1);
    assert_eq!(factory.world.count(&format!("boot provision {changed}")), 2);

    // Other changes, in the text or in a file, are other inputs of `boot`.
    factory.edit("pipelines/images.yml", "echo changing", "echo changing more");
    factory.deliver(&[]);
    assert_eq!(
        factory.said("images/web"),
        "build: boot changed, provision miss, test miss, snapshot miss, render miss"
    );
    factory.deliver(&[("images/web/files/first", "Second.\n")]);
    assert!(factory.why("images/web").starts_with("boot: files/first "), "{}", factory.why("images/web"));
    assert_eq!(factory.world.count("boot change"), 3);
}

#[test]
fn a_change_that_fails_fails_boot_with_its_line_and_leaves_nothing() {
    let mut factory = changing();
    factory.edit("pipelines/images.yml", "echo changing", "fail there is no such user");
    factory.deliver(&[]);
    assert_eq!(
        factory.ended(1),
        "failed: boot failed, provision skipped, test skipped, snapshot skipped, render skipped"
    );
    let failure = factory.failure(1);
    assert_eq!(failure.step.as_deref(), Some("rename"));
    assert_eq!(failure.message, "shell ended with exit code 1: E: there is no such user");
    assert_eq!(failure.help, "the step is written at pipelines/images.yml:12");
    assert_eq!(factory.world.count("keep "), 0);
}

#[test]
fn a_changed_disk_that_no_machine_comes_up_on_is_not_kept() {
    let mut factory = changing();
    let trouble = factoryd::engine::ports::PortError::failed("SSH never answered");
    factory.world.next("boot provision", Trouble::Fail(trouble));
    factory.push();
    factory.settle();
    assert!(factory.ended(1).starts_with("failed: boot failed"), "{}", factory.ended(1));
    assert_eq!((factory.world.count("keep changed-1-"), factory.world.count("remove changed-1-")), (1, 1));
    let again = factory.retry(1);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed: boot passed"), "{}", factory.ended(again));
}

#[test]
fn without_provision_the_changed_disk_is_tested_and_published() {
    let mut factory = changing();
    let pipeline = factory.clone.files["pipelines/images.yml"].0.clone();
    let (boot, rest) = pipeline.split_once("  - provision:").expect("a stage");
    let (_, rest) = rest.split_once("  - test:").expect("a stage");
    factory.deliver(&[("pipelines/images.yml", &format!("{boot}  - test:{rest}"))]);
    assert_eq!(factory.ended(1), "passed: boot passed, test passed, snapshot passed, render passed");
    assert_eq!((factory.world.count("boot test changed-1-"), factory.world.count("publish changed-1-")), (1, 1));
    let first = factory.served_id("images/web");

    // The same changes done again leave another disk: that one is published then.
    let request = factoryd::engine::BuildRequest {
        bundle: "images/web".to_owned(),
        no_cache: true,
        ..factoryd::engine::BuildRequest::default()
    };
    factory.request(request).expect("a build");
    factory.settle();
    assert_ne!(factory.served_id("images/web"), first);
    assert_eq!(factory.world.count("publish changed-2-"), 1);
}

#[test]
fn a_changed_disk_that_vanished_is_made_again() {
    let mut factory = changing();
    factory.push();
    factory.settle();
    factory.lose_all_but(&[Kind::Base, Kind::Image]);
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert!(factory.ended(2).starts_with("passed: boot passed, provision passed"), "{}", factory.ended(2));
    assert_eq!(factory.world.count("boot change"), 2);
}

#[test]
fn old_changed_disks_go_when_nothing_lies_on_them_any_more() {
    let mut factory = changing();
    factory.policy.keep = 1;
    factory.policy.keep_for = Some(std::time::Duration::from_secs(86_400));
    factory.restart();
    for number in 1..=3 {
        factory.deliver(&[("images/web/files/first", &format!("The {number}th.\n"))]);
    }
    factory.collect();
    factory.world.days_pass(2);
    factory.collect();
    let of = |kind| factory.world.state().disks.values().filter(|disk| disk.kind == kind).count();
    assert_eq!((of(Kind::Changed), of(Kind::Sealed), of(Kind::Base)), (1, 1, 1), "what is served needs its own");
}
