//! Bundles that are based on other bundles.

use crate::factory::Factory;
use crate::world::Trouble;

/// `images/app` is based on `images/base`, and nothing is pushed yet.
fn pair() -> Factory {
    let mut factory = Factory::new();
    factory.clone.remove("images/web");
    factory.bundle("images/base", "debian");
    factory.bundle("images/app", "base");
    factory.commit(&[]);
    factory
}

#[test]
fn a_base_is_built_before_what_stands_on_it() {
    let mut factory = pair();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.push();
    factory.until("run echo cleaning");
    let (app, base) = (number_of(&factory, "images/app"), number_of(&factory, "images/base"));
    factory.until_waiting(app);
    assert_eq!(factory.wait_reason(app), format!("for its base images/base: #{base} must publish first"));
    factory.world.let_go();
    factory.settle();
    assert!(factory.ended(app).starts_with("passed: boot passed"));
    let image = factory.served("images/base").expect("an image").image;
    assert_eq!(factory.served("images/app").expect("an image").image.lineage.base, image.sha256);
}

#[test]
fn what_stands_on_a_base_that_failed_waits_and_says_so() {
    let mut factory = pair();
    factory.world.next("run echo cleaning", Trouble::PowerOff);
    factory.push();
    factory.settle();
    let (app, base) = (number_of(&factory, "images/app"), number_of(&factory, "images/base"));
    assert!(factory.ended(base).starts_with("failed:"));
    assert_eq!(
        factory.wait_reason(app),
        format!("for its base images/base, which is not published: it failed in #{base} (factoryd show {base})")
    );
    let again = factory.retry(base);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed:"));
    assert!(factory.ended(app).starts_with("passed:"), "{}", factory.ended(app));
}

#[test]
fn a_base_that_is_rebuilt_takes_what_stands_on_it_along() {
    let mut factory = pair();
    factory.push();
    factory.settle();
    let before = factory.served("images/app").expect("an image").image;
    factory.deliver(&[("images/base/files/motd", "Hello.\n")]);
    assert_eq!(
        factory.said("images/app"),
        "build: boot changed, provision miss, test miss, snapshot miss, render miss"
    );
    assert!(factory.why("images/app").starts_with("boot: base images/base "), "{}", factory.why("images/app"));
    let (base, after) = (factory.served("images/base").expect("an image"), factory.served("images/app").expect("one"));
    assert_eq!(after.image.lineage.base, base.image.sha256);
    assert_ne!(after.image.sha256, before.sha256);
}

#[test]
fn a_base_whose_tests_changed_leaves_what_stands_on_it_alone() {
    let mut factory = pair();
    factory.push();
    factory.settle();
    factory.deliver(&[("images/base/tests/test_web.py", "def test_other():\n    pass\n")]);
    assert!(factory.said("images/app").starts_with("unchanged:"));
    assert_eq!(factory.builds().len(), 3);
}

fn number_of(factory: &Factory, bundle: &str) -> u64 {
    let builds = factory.builds();
    let found = builds.iter().find(|record| record.order.key.path == crate::factory::path(bundle));
    found.unwrap_or_else(|| panic!("{bundle} is not built")).order.number.0
}
