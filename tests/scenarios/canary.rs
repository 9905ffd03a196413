//! Changes outside of bundles: marked, tried on a canary, or rebuilt.

use factoryd::domain::id::Branch;
use factoryd::domain::image::Freshness;

use crate::factory::Factory;
use crate::world::Trouble;

/// Three bundles whose provisioning reads `/shared/motd`, all of them built.
fn sharing(policy: &str) -> Factory {
    let mut factory = Factory::new();
    for bundle in ["images/mail", "images/news"] {
        factory.bundle(bundle, "debian");
    }
    let policy = format!("on_shared_change: {policy}");
    factory.edit("pipelines/images.yml", "on_shared_change: rebuild", &policy);
    let step = "- name: clean\n";
    factory.edit("pipelines/images.yml", step, &format!("{step}          inputs: [/shared/motd]\n"));
    factory.deliver(&[("shared/motd", "Welcome.\n")]);
    assert_eq!(factory.builds().len(), 3);
    factory
}

fn bundles(factory: &Factory) -> Vec<String> {
    ["mail", "news", "web"].map(|name| factory.said(&format!("images/{name}"))).into_iter().map(action).collect()
}

fn action(said: String) -> String {
    said.split(':').next().unwrap_or_default().to_owned()
}

/// The one that goes first, and one that waits for it.
fn canary(factory: &Factory) -> (String, String) {
    let plan = &factory.planned.iter().find(|planned| planned.branch.as_str() == "main").expect("a plan").plan;
    let (first, others): (Vec<_>, Vec<_>) = plan.bundles.iter().partition(|bundle| bundle.canary);
    assert_eq!((first.len(), others.len()), (1, 2));
    (first[0].bundle.to_string(), others[0].bundle.to_string())
}

#[test]
fn a_canary_goes_first_and_the_others_follow_by_themselves() {
    let mut factory = sharing("canary");
    factory.world.forget_script();
    factory.world.next("run echo cleaning", Trouble::Hold);
    factory.commit(&[("shared/motd", "Hello.\n")]);
    factory.push();
    let (first, other) = canary(&factory);
    let why = factory.why(&other);
    assert!(why.starts_with(&format!("waits for canary {first}: /shared/motd ")), "{why}");
    // A restart finds the same canary on its way.
    factory.until("run echo cleaning");
    factory.restart();
    assert_eq!(canary(&factory), (first, other));
    factory.settle();
    factory.plan();
    assert_eq!(bundles(&factory), ["unchanged", "unchanged", "unchanged"]);
    assert_eq!(factory.builds().len(), 6);
}

#[test]
fn a_canary_that_fails_holds_the_others_until_it_passes() {
    let mut factory = sharing("canary");
    let failed = factoryd::engine::ports::PortError::failed("broken");
    factory.world.next("run echo cleaning", Trouble::Fail(failed));
    factory.commit(&[("shared/motd", "Hello.\n")]);
    factory.push();
    let (first, other) = canary(&factory);
    factory.settle();
    factory.plan();
    assert_eq!(bundles(&factory), ["stale", "stale", "stale"]);
    let why = factory.why(&other);
    let wanted = format!("canary {first} did not pass, provision failed in #4: /shared/motd ");
    assert!(why.starts_with(&wanted), "{why}");
    assert_eq!(factory.builds().len(), 4);
    factory.retry(4);
    factory.settle();
    assert_eq!(factory.builds().len(), 4 + 3);
    factory.plan();
    assert_eq!(bundles(&factory), ["unchanged", "unchanged", "unchanged"]);
}

/// Whether the image that serves a bundle is what the branch wants.
fn freshness(factory: &Factory, bundle: &str) -> Option<Freshness> {
    let id = factory.served_id(bundle);
    let all = factory.run(|engine| async move { engine.freshness().await }).expect("freshness");
    all.into_iter().find(|(image, _)| image.as_str() == id).map(|(_, freshness)| freshness)
}

#[test]
fn marked_images_are_stale_until_somebody_builds_them() {
    let mut factory = sharing("mark");
    factory.deliver(&[("shared/motd", "Hello.\n"), ("images/web/files/motd", "Mine.\n")]);
    assert_eq!(bundles(&factory), ["stale", "stale", "build"]);
    assert_eq!(factory.builds().len(), 4);
    // Whoever looks at an image sees it, whatever they look at.
    assert_eq!(freshness(&factory, "images/web"), Some(Freshness::Fresh));
    let Some(Freshness::Stale(why)) = freshness(&factory, "images/mail") else { panic!("mail is stale") };
    assert!(why.starts_with("marked by a shared change: /shared/motd "), "{why}");
    let before = factory.served_id("images/mail");
    let request = factoryd::engine::BuildRequest { bundle: "mail".to_owned(), ..Default::default() };
    factory.request(request).expect("asked for");
    factory.settle();
    factory.plan();
    assert_eq!(bundles(&factory), ["unchanged", "stale", "unchanged"]);
    assert_eq!(freshness(&factory, "images/mail"), Some(Freshness::Fresh));
    assert_ne!(factory.served_id("images/mail"), before);
    let all = factory.run(|engine| async move { engine.freshness().await }).expect("freshness");
    assert!(all.keys().all(|image| image.as_str() != before), "what serves nothing is neither fresh nor stale");
}

#[test]
fn the_default_branch_says_what_a_shared_change_does() {
    let mut factory = sharing("mark");
    factory.policy.repositories[0].tracked = vec![Branch::from("main"), Branch::from("stable")];
    factory.restart();
    factory.clone.switch("stable");
    factory.push();
    factory.settle();
    factory.edit("pipelines/images.yml", "on_shared_change: mark", "on_shared_change: rebuild");
    factory.deliver(&[("shared/motd", "Hello.\n")]);
    let said = factory.said_on("stable", "images/web");
    assert!(said.starts_with("stale"), "{said}");
}
