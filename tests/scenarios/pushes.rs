//! What a push does, depending on what it changes.

use crate::factory::Factory;

const ALL_NEW: &str = "build: boot miss, provision miss, test miss, snapshot miss, render miss";
const ALL_KEPT: &str = "unchanged: boot hit, provision hit, test hit, snapshot hit, render hit";
const OUTPUT: &str = "images/target/web/output/stack.yml";

/// A factory whose first push is built.
fn built() -> Factory {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.world.forget_script();
    factory
}

#[test]
fn the_first_push_builds_everything_once() {
    let mut factory = Factory::new();
    factory.push();
    assert_eq!(factory.said("images/web"), ALL_NEW);
    factory.settle();

    assert_eq!(factory.ended(1), "passed: boot passed, provision passed, test passed, snapshot passed, render passed");
    let image = factory.served("images/web").expect("an image").image;
    assert_eq!(image.name, "web-2026-11-231402");
    assert_eq!(image.properties, [("os".to_owned(), "Debian".to_owned())]);
    assert_eq!(factory.artifact(1, OUTPUT), format!("image: {}\n", image.id));
    assert!(factory.artifact(1, "packer.latest.log").contains("provision: installing"));
    assert!(factory.artifact(1, "console/test.log").contains("booting"));
    assert!(factory.artifact(1, "reports/2-pytest.xml").contains("test_port"), "the report is archived");
    assert_eq!(
        factory.journal(1),
        [
            "queued",
            "started 1",
            "boot started",
            "boot resolved",
            "intent machine provision",
            "made machine provision",
            "boot Passed",
            "provision started",
            "provision resolved",
            "step 1 started: upload",
            "step 1 Passed",
            "step 2 started: ansible",
            "step 2 Passed",
            "step 3 started: script",
            "step 3 Passed",
            "step 4 started: clean",
            "step 4 Passed",
            "intent disk",
            "released machine provision",
            "provision Passed",
            "test started",
            "intent machine test",
            "made machine test",
            "test resolved",
            "step 1 started: boots",
            "step 1 Passed",
            "step 2 started: pytest",
            "step 2 Passed",
            "released machine test",
            "test Passed",
            "snapshot started",
            "snapshot resolved",
            "intent image",
            "made image",
            "served",
            "snapshot Passed",
            "render started",
            "render resolved",
            "render Passed",
            "finished passed",
        ]
    );
}

#[test]
fn the_same_tree_builds_nothing() {
    let mut factory = built();
    factory.deliver(&[]);
    assert_eq!(factory.said("images/web"), ALL_KEPT);
    factory.plan();
    assert_eq!((factory.queued(), factory.builds().len(), factory.world.state().script.len()), (0, 1, 0));
}

#[test]
fn a_readme_builds_nothing() {
    let mut factory = built();
    factory.deliver(&[("images/web/README.md", "More about it.\n"), ("NOTES", "of everybody\n")]);
    assert_eq!(factory.said("images/web"), ALL_KEPT);
    assert_eq!(factory.builds().len(), 1);
}

#[test]
fn white_space_and_comments_in_the_vars_build_nothing() {
    let mut factory = built();
    let vars = factory.clone.files["images/web/build-vars.yml"].0.clone();
    factory.deliver(&[("images/web/build-vars.yml", &format!("# for the web\n{vars}\n"))]);
    assert_eq!(factory.said("images/web"), ALL_KEPT);
}

#[test]
fn a_template_is_only_rendered() {
    let mut factory = built();
    let image = factory.served_id("images/web");
    factory.deliver(&[("images/web/output/stack.yml.j2", "server: {{ result_img_id }}\n")]);
    assert_eq!(factory.said("images/web"), "render: boot hit, provision hit, test hit, snapshot hit, render changed");
    assert_eq!(factory.ended(2), "passed: boot hit, provision hit, test hit, snapshot hit, render passed");
    assert_eq!(factory.artifact(2, OUTPUT), format!("server: {image}\n"));
    assert_eq!((factory.world.count("boot"), factory.served_id("images/web")), (0, image));
}

#[test]
fn a_property_is_put_right_in_place_and_back() {
    let mut factory = built();
    let image = factory.served_id("images/web");
    factory.edit("images/web/build-vars.yml", "os: Debian", "os: Devuan");
    factory.deliver(&[]);
    assert_eq!(factory.said("images/web"), "publish: boot hit, provision hit, test hit, snapshot changed, render hit");
    assert_eq!(factory.served_id("images/web"), image);
    assert_eq!(factory.image(&image).image.properties[0].1, "Devuan");

    factory.edit("images/web/build-vars.yml", "os: Devuan", "os: Debian");
    factory.deliver(&[]);
    assert_eq!(factory.said("images/web"), "publish: boot hit, provision hit, test hit, snapshot changed, render hit");
    assert_eq!(factory.image(&image).image.properties[0].1, "Debian");
    assert_eq!((factory.images().len(), factory.world.count("boot"), factory.world.count("amend")), (1, 0, 2));
    factory.deliver(&[]);
    assert_eq!(factory.said("images/web"), ALL_KEPT);
}

#[test]
fn another_test_runs_on_the_kept_disk_and_the_image_stays() {
    let mut factory = built();
    let before = factory.served("images/web").expect("an image").image;
    factory
        .deliver(&[("images/web/tests/test_web.py", "def test_port():\n    assert True\ndef test_tls():\n    pass\n")]);
    assert_eq!(factory.said("images/web"), "build: boot hit, provision hit, test changed, snapshot miss, render miss");
    assert_eq!(factory.ended(2), "passed: boot hit, provision hit, test passed, snapshot passed, render passed");
    assert_eq!(factory.served("images/web").expect("an image").image, before);
    let counts = (factory.world.count("boot"), factory.world.count("seal"), factory.world.count("publish"));
    assert_eq!(counts, (1, 0, 0), "one clone was tested");
}

#[test]
fn a_stage_says_why_it_runs() {
    let mut factory = built();
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    let reasons: Vec<String> =
        factory.build(2).build.stages.iter().map(|(stage, run)| format!("{stage}: {}", run.reason)).collect();
    assert!(reasons[1].starts_with("provision: files/motd "), "{reasons:?}");
    assert_eq!(
        [&reasons[0], &reasons[2], &reasons[3], &reasons[4]],
        ["boot: from #1", "test: follows provision", "snapshot: follows provision", "render: follows provision"]
    );
    assert_eq!(
        factory.build(1).build.stages.values().map(|run| run.reason.as_str()).collect::<Vec<_>>()[..2],
        ["never done", "follows boot"]
    );
}

#[test]
fn another_step_keeps_the_base_image() {
    let mut factory = built();
    let before = factory.served_id("images/web");
    factory.deliver(&[("images/web/scripts/install.sh", "#!/bin/sh\necho installing more\n")]);
    assert_eq!(factory.said("images/web"), "build: boot hit, provision changed, test miss, snapshot miss, render miss");
    assert_eq!(factory.ended(2), "passed: boot hit, provision passed, test passed, snapshot passed, render passed");
    assert_ne!(factory.served_id("images/web"), before);
    assert_eq!((factory.world.count("base"), factory.world.count("boot")), (0, 2));
}

#[test]
fn another_mode_is_another_script() {
    let mut factory = built();
    factory.clone.mode("images/web/scripts/install.sh", false);
    factory.deliver(&[]);
    assert_eq!(factory.said("images/web"), "build: boot hit, provision changed, test miss, snapshot miss, render miss");
}

#[test]
fn a_revert_serves_the_earlier_image_again() {
    let mut factory = built();
    let a = factory.served_id("images/web");
    let output = factory.artifact(1, OUTPUT);
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    let b = factory.served_id("images/web");
    assert_ne!(a, b);
    factory.world.forget_script();

    factory.deliver(&[("images/web/files/motd", "Welcome.\n")]);
    assert_eq!(factory.said("images/web"), "publish: boot hit, provision hit, test hit, snapshot hit, render hit");
    assert_eq!(factory.why("images/web"), "its result is kept, and another image is served");
    assert_eq!(factory.ended(3), "passed: boot hit, provision hit, test hit, snapshot hit, render hit");
    assert_eq!(factory.served_id("images/web"), a);
    assert_eq!(factory.artifact(3, OUTPUT), output);
    assert_eq!((factory.world.count("boot"), factory.world.count("publish")), (0, 0));
}

#[test]
fn a_revert_of_disk_and_property_puts_the_earlier_image_right() {
    let mut factory = built();
    let a = factory.served_id("images/web");
    factory.edit("images/web/build-vars.yml", "os: Debian", "os: Devuan");
    factory.deliver(&[]);
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    factory.edit("images/web/build-vars.yml", "os: Devuan", "os: Debian");
    factory.world.forget_script();
    factory.deliver(&[("images/web/files/motd", "Welcome.\n")]);
    assert_eq!(factory.world.count("boot"), 0);
    let served = factory.served("images/web").expect("an image").image;
    assert_eq!(served.properties[0].1, "Debian");
    assert_eq!(served.sha256, factory.image(&a).image.sha256);
}

#[test]
fn a_renamed_bundle_uses_what_is_kept() {
    let mut factory = built();
    factory.clone.copy("images/web", "images/site");
    factory.clone.remove("images/web");
    factory.deliver(&[]);
    assert_eq!(factory.said("images/site"), "publish: boot hit, provision hit, test hit, snapshot hit, render hit");
    assert_eq!(factory.ended(2), "passed: boot hit, provision hit, test hit, snapshot hit, render hit");
    assert!(factory.served("images/site").is_some());
    assert!(factory.served("images/web").is_none(), "the old path is served no more");
    assert_eq!(factory.world.count("boot"), 0);
}

#[test]
fn a_copied_bundle_shares_the_image_until_one_of_them_changes() {
    let mut factory = built();
    let image = factory.served_id("images/web");
    factory.clone.copy("images/web", "images/site");
    factory.deliver(&[]);
    assert_eq!((factory.served_id("images/site"), factory.served_id("images/web")), (image.clone(), image.clone()));

    factory.edit("images/site/build-vars.yml", "os: Debian", "os: Devuan");
    factory.deliver(&[]);
    let site = factory.served("images/site").expect("an image").image;
    assert_eq!(factory.image(&image).image.properties[0].1, "Debian", "the other one's image is left alone");
    assert_eq!((site.properties[0].1.as_str(), site.sha256), ("Devuan", factory.image(&image).image.sha256));
    assert_eq!(factory.world.count("boot"), 0, "it is a second image of the same disk");
}

#[test]
fn a_deleted_bundle_is_served_no_more_and_its_build_ends() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.clone.remove("images/web");
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("superseded:"), "{}", factory.ended(1));
    assert!(factory.served("images/web").is_none());

    factory.bundle("images/web", "debian");
    factory.deliver(&[]);
    let image = factory.served_id("images/web");
    factory.clone.remove("images/web");
    factory.deliver(&[]);
    assert!(factory.served("images/web").is_none());
    assert_eq!(factory.image(&image).image.id.to_string(), image, "its image stays until retention");
}

#[test]
fn a_newer_push_takes_the_place_of_a_queued_build() {
    let mut factory = Factory::new();
    factory.policy.slots = 1;
    factory.restart();
    factory.bundle("images/app", "debian");
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.commit(&[]);
    factory.push();
    factory.until("run echo cleaning");
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.world.let_go();
    factory.settle();
    assert!(factory.ended(2).starts_with("superseded:"));
    assert!(factory.build(2).build.reason.starts_with("superseded by "));
    assert!(factory.ended(3).starts_with("passed:"));
    assert_eq!(factory.builds().len(), 3);
}

#[test]
fn a_running_build_does_not_publish_what_a_newer_tip_does_not_want() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    assert_eq!(factory.queued(), 1);
    factory.world.let_go();
    factory.settle();
    assert_eq!(
        factory.ended(1),
        "superseded: boot passed, provision passed, test passed, snapshot cancelled, render skipped"
    );
    assert!(factory.ended(2).starts_with("passed: boot hit"));
    assert_eq!(factory.served_on("main", "images/web").expect("served").build.0, 2);
    assert_eq!(factory.images().len(), 1);
}

#[test]
fn a_running_build_publishes_if_the_newer_tip_wants_the_same() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.commit(&[("images/web/README.md", "More.\n")]);
    factory.push();
    assert_eq!(factory.queued(), 0, "what runs is what is wanted");
    factory.world.let_go();
    factory.settle();
    assert!(factory.ended(1).starts_with("passed:"));
    assert_eq!(factory.builds().len(), 1);
}

#[test]
fn what_is_pushed_while_the_daemon_is_away_is_built_when_it_comes() {
    let mut factory = built();
    factory.kill();
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.start();
    assert_eq!(factory.queued(), 1);
    factory.settle();
    assert!(factory.ended(2).starts_with("passed: boot hit"));
}

#[test]
fn a_faulty_pipeline_builds_nothing_and_serves_what_it_did() {
    let mut factory = built();
    let image = factory.served_id("images/web");
    let pipeline = factory.clone.files["pipelines/images.yml"].0.clone();
    factory.deliver(&[("pipelines/images.yml", &pipeline.replace("shell: echo running", "shel: echo running"))]);
    assert_eq!(factory.said("images/web"), "unbuildable: ");
    assert_eq!((factory.served_id("images/web"), factory.builds().len()), (image, 1));
    factory.deliver(&[("pipelines/images.yml", &pipeline)]);
    assert_eq!(factory.said("images/web"), ALL_KEPT);
}

#[test]
fn what_was_superseded_may_come_back() {
    let mut factory = Factory::new();
    let first = factory.commit(&[]);
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.world.let_go();
    factory.settle();
    factory.clone.reset(first);
    factory.push();
    assert_eq!(factory.said("images/web"), "publish: boot hit, provision hit, test hit, snapshot miss, render miss");
    factory.settle();
    assert!(factory.ended(3).starts_with("passed: boot hit, provision hit, test hit, snapshot passed"));
}

#[test]
fn two_bundles_that_part_in_one_push_do_not_share_a_name() {
    let mut factory = built();
    factory.clone.copy("images/web", "images/site");
    factory.edit("images/web/build-vars.yml", "os: Debian", "os: Devuan");
    factory.commit(&[]);
    factory.push();
    factory.settle();
    let os = |bundle: &str| factory.served(bundle).expect("an image").image.properties[0].1.clone();
    assert_eq!((os("images/site"), os("images/web")), ("Debian".to_owned(), "Devuan".to_owned()));
}

#[test]
fn a_plan_says_how_long_its_work_takes_once_there_is_history() {
    let mut factory = Factory::new();
    factory.bundle("images/mail", "debian");
    let planned = || {
        move |engine: factoryd::engine::Engine| async move {
            let planned = engine.plan_revision(&crate::factory::name(), "main").await.expect("a plan");
            engine.forecast(&planned).await.expect("a forecast")
        }
    };
    factory.commit(&[]);
    factory.world.always("run echo cleaning", crate::world::Trouble::Hold);
    factory.push();
    let (each, all) = factory.run(planned());
    assert!(each.is_empty() && all.is_none(), "nobody knows yet");
    factory.world.calm();
    factory.settle();

    factory.policy.slots = 1;
    factory.restart();
    factory.world.always("run echo cleaning", crate::world::Trouble::Hold);
    let step = "shell: echo cleaning";
    factory.edit("pipelines/images.yml", step, "shell: echo cleaning up");
    factory.commit(&[]);
    factory.push();
    let (each, all) = factory.run(planned());
    assert_eq!(each.len(), 2);
    assert_eq!(all, Some(each.values().sum()), "one after the other, with one slot");
    factory.world.calm();
    factory.settle();
}
