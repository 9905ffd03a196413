//! What is kept, and what goes.

use factoryd::engine::views::{Standing, Which};

use crate::factory::Factory;
use crate::world::{Disk, Kind, Trouble};

/// A factory that served five images one after the other, of which one version back is kept.
fn five() -> (Factory, Vec<String>) {
    let mut factory = Factory::new();
    factory.policy.keep = 2;
    factory.policy.keep_for = Some(std::time::Duration::from_secs(86_400));
    factory.restart();
    let images = (1..=5).map(|number| {
        factory.deliver(&[("images/web/files/motd", &format!("Greeting {number}.\n"))]);
        factory.served_id("images/web")
    });
    let images = images.collect();
    (factory, images)
}

fn states(factory: &Factory) -> Vec<(String, &'static str)> {
    factory.images().into_iter().map(|record| (record.image.id.to_string(), record.image.state.word())).collect()
}

#[test]
fn old_images_are_deprecated_first_and_removed_later() {
    let (factory, images) = five();
    let collected = factory.collect();
    assert_eq!(collected.deprecated.len(), 3);
    let word = |id: &String| states(&factory).into_iter().find(|(known, _)| known == id).map(|(_, state)| state);
    assert_eq!(
        images.iter().map(word).collect::<Vec<_>>(),
        [Some("deprecated"), Some("deprecated"), Some("deprecated"), Some("published"), Some("published")]
    );
    factory.world.days_pass(2);
    factory.collect();
    assert_eq!(factory.images().len(), 2);
    let of = |kind| factory.world.state().disks.values().filter(|disk| disk.kind == kind).count();
    assert_eq!((of(Kind::Image), of(Kind::Base)), (2, 1));
    assert_eq!(of(Kind::Sealed), 1, "only the disk that is served is needed");
}

#[test]
fn a_pinned_image_stays() {
    let (factory, images) = five();
    let pinned = factoryd::domain::id::ImageId::new(images[0].clone());
    factory.run(|engine| async move { engine.store().pin(&pinned).await }).expect("pinned");
    factory.collect();
    factory.world.days_pass(2);
    factory.collect();
    assert!(states(&factory).contains(&(images[0].clone(), "published")));
    assert_eq!(factory.images().len(), 3);
}

#[test]
fn a_revert_to_a_deprecated_image_publishes_it_again() {
    let (mut factory, images) = five();
    factory.collect();
    factory.deliver(&[("images/web/files/motd", "Greeting 1.\n")]);
    assert_eq!(factory.served_id("images/web"), images[0]);
    assert_eq!(factory.image(&images[0]).image.state.word(), "published");
}

#[test]
fn a_revert_to_an_image_that_is_gone_builds_it_again() {
    let (mut factory, _) = five();
    factory.collect();
    factory.world.days_pass(2);
    factory.collect();
    factory.deliver(&[("images/web/files/motd", "Greeting 1.\n")]);
    assert!(factory.ended(6).starts_with("passed:"), "{}", factory.ended(6));
}

#[test]
fn an_image_that_a_waiting_revert_will_serve_is_not_collected() {
    let (mut factory, images) = five();
    factory.collect();
    factory.world.days_pass(2);
    let slots = std::mem::replace(&mut factory.policy.slots, 0);
    factory.restart();
    factory.commit(&[("images/web/files/motd", "Greeting 1.\n")]);
    factory.push();
    let collected = factory.collect();
    assert_eq!(collected.deprecated.len(), 0);
    assert_eq!(factory.images().len(), 3, "the two newest, and the one that is waited for");
    factory.policy.slots = slots;
    factory.restart();
    factory.settle();
    assert!(factory.ended(6).starts_with("passed:"), "{}", factory.ended(6));
    assert_eq!(factory.served_id("images/web"), images[0]);
}

#[test]
fn collecting_while_a_build_runs_harms_nothing() {
    for at in ["boot provision", "run echo cleaning", "seal ", "boot test", "publish "] {
        let mut factory = Factory::new();
        factory.policy.keep = 0;
        factory.policy.keep_for = Some(std::time::Duration::from_secs(1));
        factory.restart();
        factory.world.next(at, Trouble::Hold);
        factory.push();
        factory.until(at);
        factory.world.days_pass(1);
        factory.collect();
        factory.world.let_go();
        factory.settle();
        assert!(factory.ended(1).starts_with("passed:"), "{at}: {}", factory.ended(1));
    }
}

#[test]
fn what_is_served_needs_no_kept_disk_to_be_tested_again() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.lose_all_but(&[Kind::Base, Kind::Image]);
    let image = factory.served_id("images/web");
    factory.edit("images/web/build-vars.yml", "os: Debian", "os: Devuan");
    factory.world.forget_script();
    factory.deliver(&[]);
    assert_eq!((factory.served_id("images/web"), factory.world.count("boot")), (image, 0));
}

#[test]
fn a_disk_grows_old_where_the_pipeline_says_so() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "  - provision:\n", "  - provision:\n      expire: 7d\n");
    factory.deliver(&[]);
    let before = factory.served_id("images/web");
    factory.world.days_pass(8);
    factory.plan();
    assert!(factory.said("images/web").starts_with("unchanged:"), "age alone builds nothing");
    let freshness = factory.run(|engine| async move { engine.freshness().await }).expect("freshness");
    let told = format!("{:?}", freshness.values().collect::<Vec<_>>());
    assert!(told.contains("Stale(\"its disk is older than `expire`"), "{told}");
    let standings = factory.run(|engine| async move { engine.standings(Which::All).await }).expect("standings");
    let web = standings.shown.iter().find(|state| state.key.path.to_string() == "images/web").expect("shown");
    assert_eq!((web.standing, web.reason.starts_with("its disk is older")), (Standing::Stale, true));
    factory.deliver(&[("images/web/tests/test_web.py", "def test_other():\n    pass\n")]);
    assert_eq!(factory.said("images/web"), "build: boot hit, provision miss, test changed, snapshot miss, render miss");
    assert!(factory.ended(2).starts_with("passed: boot hit, provision passed, test passed"), "{}", factory.ended(2));
    assert_ne!(factory.served_id("images/web"), before, "the new disk was tested, so it is served");
}

#[test]
fn a_disk_that_grew_old_while_nothing_happened_is_not_counted_on() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "  - provision:\n", "  - provision:\n      expire: 7d\n");
    factory.deliver(&[("images/web/tests/test_web.py", "def test_port():\n    assert False\n")]);
    factory.plan();
    let held = "test skipped, snapshot skipped, render skipped";
    assert_eq!(factory.said("images/web"), format!("stale: boot hit, provision hit, {held}"));
    factory.world.days_pass(8);
    factory.plan();
    assert_eq!(factory.said("images/web"), format!("stale: boot hit, provision skipped, {held}"));
}

#[test]
fn verification_reads_the_images_and_misses_the_disks_that_are_gone() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    assert_eq!(factory.verify(), Vec::<String>::new());
    let id = factory.served_id("images/web");
    let image = factory.image(&id).image;
    let disk = image.copies[0].disk.clone();
    let set = |content: &str| {
        let mut state = factory.world.state();
        std::mem::replace(&mut state.disks.get_mut(&disk).expect("kept").content, content.to_owned())
    };
    let right = set("one bit is other");
    let problems = factory.verify();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let name = format!("the image {} ({id}) has other bytes in {disk}: they sum to sha256:", image.name);
    assert!(problems[0].starts_with(&name) && problems[0].ends_with("was published"), "{problems:#?}");
    set(&right);

    let lost = factory.world.state().disks.remove(&disk).expect("kept");
    let problems = factory.verify();
    let wanted = format!("the image {} ({id}) has lost its file {disk}, or the file's head is broken", image.name);
    assert_eq!(problems, [wanted]);
    factory.world.state().disks.insert(disk, lost);

    factory.lose_all_but(&[Kind::Base, Kind::Image]);
    let problems = factory.verify();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].starts_with("the disk sealed-1-") && problems[0].contains("kept from provision of #1"));

    // None of it stops anything: what is lost is made again.
    factory.deliver(&[("images/web/files/motd", "Hello.\n")]);
    assert!(factory.ended(2).starts_with("passed:"), "{}", factory.ended(2));
}

#[test]
fn of_a_system_image_the_newest_stay_and_nothing_else_is_ever_touched() {
    let mut factory = Factory::new();
    factory.policy.keep = 2;
    factory.policy.keep_for = Some(std::time::Duration::from_secs(86_400));
    factory.restart();
    factory.edit("pipelines/images.yml", "bundles: [images/*]", "bundles: [images/*, os/*]");
    factory.bundle("os/debian-12", "debian");
    factory.deliver(&[]);
    // Somebody else's images in the driver: one with a name like ours.
    let name = factory.image(&factory.served_id("os/debian-12")).image.name;
    let mut foreign: Vec<factoryd::domain::id::DiskId> = vec![name.as_str().into(), "debian-12-genericcloud".into()];
    // And copies that somebody made of ours.
    let copies = |id: &factoryd::domain::id::DiskId| [format!("{id}-before-test"), format!("{id}.bak")];
    foreign.extend(factory.world.state().disks.keys().flat_map(copies).map(factoryd::domain::id::DiskId::new));
    for id in &foreign {
        let disk = Disk::new(Kind::Foreign, "not ours".to_owned(), Vec::new());
        factory.world.state().disks.insert(id.clone(), disk);
    }
    let of_os: Vec<String> = (1..=4)
        .map(|number| {
            factory.deliver(&[("os/debian-12/files/motd", &format!("Greeting {number}.\n"))]);
            factory.served_id("os/debian-12")
        })
        .collect();
    let collected = factory.collect();
    assert_eq!(collected.deprecated.len(), 3, "{collected:?}");
    let published = |id: &String| states(&factory).contains(&(id.clone(), "published"));
    assert_eq!(of_os.iter().map(published).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(published(&factory.served_id("images/web")), "another bundle's only image, older than all of these");
    factory.world.days_pass(2);
    factory.collect();
    assert_eq!(factory.images().len(), 3, "the two newest of os/debian-12, and that of images/web");
    let state = factory.world.state();
    assert!(foreign.iter().all(|id| state.disks.contains_key(id)), "what is not ours is gone");
}
