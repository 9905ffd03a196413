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

#[test]
fn an_image_of_the_catalogue_is_a_base_by_its_name_and_by_its_id() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    let made = factory.served("images/web").expect("an image").image;
    // Two names of one thing; no bundle and no alias is called so.
    for (bundle, base) in [("images/named", made.name.as_str()), ("images/numbered", made.id.as_str())] {
        factory.bundle(bundle, base);
        factory.deliver(&[]);
        let number = number_of(&factory, bundle);
        assert!(factory.ended(number).starts_with("passed: boot passed"), "{}", factory.ended(number));
        let image = factory.served(bundle).expect("an image").image;
        assert_eq!(image.lineage.base, made.sha256, "{bundle} stands on the image");
    }
    assert_eq!(factory.world.count(&format!("base {}", made.copies[0].disk)), 2);

    // A beginning of an id is none, and a name that two images have does not say which.
    factory.bundle("images/numbered", &made.id.as_str()[..8]);
    factory.edit("images/web/build-vars.yml", "name: web", "name: twin");
    factory.edit("pipelines/images.yml", "{{ bundle.name }}-{{ build.stamp }}", "{{ bundle.name }}");
    factory.bundle("images/other", "debian");
    factory.edit("images/other/build-vars.yml", "name: other", "name: twin");
    factory.edit("images/other/files/motd", "Welcome.", "Hello.");
    factory.deliver(&[]);
    let unknown = number_of_newest(&factory, "images/numbered");
    let wanted = format!("no image, bundle or alias is called `{}`", &made.id.as_str()[..8]);
    assert_eq!(factory.failure(unknown).message, wanted);
    factory.bundle("images/named", "twin");
    factory.deliver(&[]);
    let failure = factory.failure(number_of_newest(&factory, "images/named"));
    assert!(failure.message.starts_with("2 images are called `twin`: "), "{failure:?}");
    assert_eq!(failure.help, "name one by its id");
}

fn number_of_newest(factory: &Factory, bundle: &str) -> u64 {
    let builds = factory.builds();
    let found = builds.iter().rfind(|record| record.order.key.path == crate::factory::path(bundle));
    found.unwrap_or_else(|| panic!("{bundle} is not built")).order.number.0
}
