//! Branches: which publish, and what becomes of them.

use factoryd::domain::id::Branch;
use factoryd::engine::{BuildRequest, RequestError};

use crate::factory::{Factory, name};
use crate::world::Trouble;

/// A factory whose main is built, and which is at a branch of its own with another greeting.
fn with_topic() -> Factory {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.clone.switch("topic");
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.push();
    factory.settle();
    factory.world.forget_script();
    factory
}

fn ask(factory: &mut Factory, bundle: &str, revision: Option<&str>) -> Result<u64, RequestError> {
    let revision = revision.map(str::to_owned);
    factory.request(BuildRequest { bundle: bundle.to_owned(), revision, ..BuildRequest::default() })
}

#[test]
fn a_branch_that_is_not_tracked_is_planned_and_not_built() {
    let factory = with_topic();
    let said = factory.said_on("topic", "images/web");
    assert_eq!(said, "build: boot hit, provision changed, test miss, snapshot miss, render miss");
    assert_eq!(factory.builds().len(), 1);
}

#[test]
fn a_branch_that_is_where_it_was_is_not_planned_with_every_push() {
    let mut factory = with_topic();
    factory.plan();
    let planned: Vec<&str> = factory.planned.iter().map(|planned| planned.branch.as_str()).collect();
    assert_eq!(planned, ["main"], "main may have become stale, and nothing ever comes of the other's plan");
}

#[test]
fn built_by_hand_it_goes_up_to_its_tests_and_never_serves_main() {
    let mut factory = with_topic();
    let before = factory.served_id("images/web");
    let number = ask(&mut factory, "web", Some("topic")).expect("a build");
    factory.settle();
    assert_eq!(
        factory.ended(number),
        "passed: boot hit, provision passed, test passed, snapshot skipped, render skipped"
    );
    assert!(factory.served_on("topic", "images/web").is_none());
    assert_eq!((factory.served_id("images/web"), factory.images().len()), (before, 1));

    factory.clone.switch("main");
    factory.clone.merge("topic");
    factory.push();
    assert_eq!(factory.said("images/web"), "build: boot hit, provision changed, test miss, snapshot miss, render miss");
    factory.settle();
    assert!(factory.ended(3).starts_with("passed: boot hit, provision passed"), "{}", factory.ended(3));
}

#[test]
fn an_untracked_branch_that_fails_holds_nobody_back() {
    let mut factory = with_topic();
    factory.world.next("run echo cleaning", crate::world::Trouble::PowerOff);
    let number = ask(&mut factory, "web", Some("topic")).expect("a build");
    factory.settle();
    assert!(factory.ended(number).starts_with("failed:"));
    factory.clone.switch("main");
    factory.clone.merge("topic");
    factory.push();
    factory.settle();
    assert!(factory.ended(3).starts_with("passed:"), "{}", factory.ended(3));
}

#[test]
fn a_merge_is_planned_by_what_it_brings() {
    let mut factory = with_topic();
    factory.clone.switch("main");
    factory.deliver(&[("images/web/README.md", "Main went on.\n")]);
    factory.clone.merge("topic");
    factory.push();
    assert_eq!(factory.said("images/web"), "build: boot hit, provision changed, test miss, snapshot miss, render miss");
    factory.settle();
    factory.clone.merge("topic");
    factory.push();
    assert!(factory.said("images/web").starts_with("unchanged:"));
}

#[test]
fn a_force_push_is_planned_like_any_other() {
    let mut factory = Factory::new();
    let first = factory.deliver(&[]);
    let image = factory.served_id("images/web");
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    factory.deliver(&[("images/web/files/motd", "Good day.\n")]);
    factory.clone.reset(first);
    factory.push();
    assert_eq!(factory.said("images/web"), "publish: boot hit, provision hit, test hit, snapshot hit, render hit");
    factory.settle();
    assert_eq!(factory.served_id("images/web"), image);
}

#[test]
fn a_deleted_branch_serves_nothing_and_its_builds_end() {
    let mut factory = Factory::new();
    factory.policy.repositories[0].tracked = vec![Branch::from("main"), Branch::from("topic")];
    factory.policy.slots = 1;
    factory.restart();
    factory.push();
    factory.settle();
    factory.clone.switch("topic");
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert!(factory.served_on("topic", "images/web").is_some());
    factory.world.next("run echo cleaning", crate::world::Trouble::Hold);
    factory.bundle("images/app", "debian");
    factory.commit(&[("images/web/files/motd", "Good day.\n")]);
    factory.push();
    factory.until("run echo cleaning");
    factory.clone.delete("topic");
    factory.plan();
    factory.settle();
    assert!(factory.ended(3).starts_with("superseded:"), "{}", factory.ended(3));
    assert!(factory.ended(4).starts_with("superseded:"), "{}", factory.ended(4));
    assert!(factory.served_on("topic", "images/web").is_none());
    assert!(factory.served("images/web").is_some(), "main is as it was");
}

#[test]
fn a_deleted_default_branch_serves_nothing() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.clone.delete("main");
    factory.plan();
    assert!(factory.served("images/web").is_none());
}

#[test]
fn a_bundle_of_an_untracked_branch_stands_on_the_base_that_main_serves() {
    let mut factory = Factory::new();
    factory.bundle("images/app", "web");
    factory.deliver(&[]);
    factory.clone.switch("topic");
    factory.deliver(&[("images/app/files/motd", "Hello.\n")]);
    let request = BuildRequest { no_cache: true, ..BuildRequest::default() };
    let app = factory.request(BuildRequest { bundle: "app".to_owned(), revision: Some("topic".to_owned()), ..request });
    factory.settle();
    let app = app.expect("a build");
    assert!(factory.ended(app).starts_with("passed: boot passed, provision passed"), "{}", factory.ended(app));

    factory.deliver(&[("images/web/files/motd", "Another base.\n")]);
    let refused = ask(&mut factory, "app", Some("topic")).expect("a build");
    factory.settle();
    let message = factory.failure(refused).message;
    assert!(message.starts_with("the base images/web is not served on main with the inputs it has at "), "{message}");
}

#[test]
fn a_branch_deleted_while_the_daemon_was_away_serves_nothing() {
    let mut factory = Factory::new();
    factory.policy.repositories[0].tracked = vec![Branch::from("main"), Branch::from("topic")];
    factory.restart();
    factory.push();
    factory.clone.switch("topic");
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    factory.kill();
    factory.clone.delete("topic");
    factory.start();
    factory.settle();
    assert!(factory.served_on("topic", "images/web").is_none());
}

#[test]
fn a_branch_is_served_what_another_one_made() {
    let mut factory = Factory::new();
    factory.policy.repositories[0].tracked = vec![Branch::from("main"), Branch::from("topic")];
    factory.restart();
    factory.push();
    factory.settle();
    factory.clone.switch("topic");
    factory.deliver(&[]);
    assert_eq!(
        factory.said_on("topic", "images/web"),
        "publish: boot hit, provision hit, test hit, snapshot hit, render hit"
    );
    let served = factory.served_on("topic", "images/web").expect("served");
    assert_eq!(served.image.to_string(), factory.served_id("images/web"));
}

#[test]
fn what_can_t_be_asked_for_is_refused_with_a_reason() {
    let mut factory = with_topic();
    let missing = ask(&mut factory, "mail", None).expect_err("no such bundle");
    assert_eq!(missing.to_string(), "there is no bundle mail; there are: images/web");
    let missing = ask(&mut factory, "web", Some("nowhere")).expect_err("no such branch");
    assert!(missing.to_string().contains("\"nowhere\" names no commit"), "{missing}");
}

#[test]
fn no_cache_does_everything_again() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    let before = factory.served_id("images/web");
    let request = BuildRequest { bundle: "images/web".to_owned(), no_cache: true, ..BuildRequest::default() };
    let number = factory.request(request).expect("a build");
    factory.settle();
    assert_eq!(
        factory.ended(number),
        "passed: boot passed, provision passed, test passed, snapshot passed, render passed"
    );
    assert_eq!(
        factory.build(number).build.stages.values().next().map(|run| run.reason.as_str()),
        Some("asked for by ada")
    );
    assert_ne!(factory.served_id("images/web"), before, "what was tested is what is served");
}

#[test]
fn a_branch_that_can_t_be_read_hides_no_other() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    // Git takes a message of any length; whoever shows commits need not.
    factory.clone.switch("a-flood");
    factory.clone.message = Some("x".repeat(2 << 20));
    factory.commit(&[("images/web/more", "x")]);
    factory.push();
    factory.clone.switch("main");
    factory.clone.message = None;
    factory.commit(&[("images/web/files/motd", "Hello.\n")]);
    factory.world.forget_script();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.restart();
    factory.settle();
    assert!(factory.ended(2).starts_with("passed"), "{}", factory.ended(2));
    let trouble = factory.engine().trouble(&name()).expect("it is shown");
    assert!(trouble.starts_with("a-flood can't be planned: "), "{trouble}");
}

/// A factory that publishes from two branches, whose main is built.
fn with_stable() -> Factory {
    let mut factory = Factory::new();
    factory.policy.repositories[0].tracked = vec![Branch::from("main"), Branch::from("stable")];
    factory.restart();
    factory.push();
    factory.settle();
    factory.clone.switch("stable");
    factory
}

#[test]
fn a_branch_that_publishes_has_the_secrets_that_the_default_branch_gives() {
    let mut factory = with_stable();
    factory.edit("pipelines/images.yml", "- pytest: tests", "- pytest: tests\n          secrets: [token]");
    factory.clone.commit();
    factory.push();
    factory.settle();
    let failure = factory.failure(2);
    assert!(failure.message.starts_with("the step is not given the secret token: "), "{failure:?}");
    // The same words on the default branch are enough for both.
    let asked = factory.clone.files["pipelines/images.yml"].0.clone();
    factory.clone.switch("main");
    factory.deliver(&[("pipelines/images.yml", &asked)]);
    let again = factory.retry(2);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed"), "{}", factory.ended(again));
}

#[test]
fn a_branch_that_is_tracked_no_more_is_served_no_more() {
    let mut factory = with_stable();
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert!(factory.served_on("stable", "images/web").is_some());
    factory.policy.repositories[0].tracked = vec![Branch::from("main")];
    factory.restart();
    factory.settle();
    assert!(factory.served_on("stable", "images/web").is_none());
    assert!(factory.served_on("main", "images/web").is_some());
}

#[test]
fn builds_of_a_repository_that_is_configured_no_more_end() {
    let mut factory = Factory::new();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    factory.kill();
    let before = std::mem::take(&mut factory.policy.repositories);
    factory.start();
    let ended = factory.ended(1);
    assert!(ended.starts_with("superseded"), "{ended}");
    factory.policy.repositories = before;
}
