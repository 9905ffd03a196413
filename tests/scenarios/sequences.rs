//! Whatever is pushed in whatever order, and however often the daemon dies: what is served in the end is what a factory
//! would serve that never saw anything else.

use factoryd::engine::BuildRequest;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::factory::Factory;
use crate::world::Trouble;

/// One thing that people or fate do.
#[derive(Clone, Debug)]
enum Move {
    Greeting(u8),
    Property(u8),
    Test(u8),
    Template(u8),
    Readme(u8),
    Base(u8),
    Copy,
    Delete,
    Push,
    Settle,
    Restart,
    KillAt(&'static str),
    Collect,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let version = 0..3_u8;
    let one = prop_oneof![
        3 => version.clone().prop_map(Move::Greeting),
        2 => version.clone().prop_map(Move::Property),
        2 => version.clone().prop_map(Move::Test),
        1 => version.clone().prop_map(Move::Template),
        1 => version.clone().prop_map(Move::Readme),
        1 => version.prop_map(Move::Base),
        1 => Just(Move::Copy),
        1 => Just(Move::Delete),
        6 => Just(Move::Push),
        3 => Just(Move::Settle),
        1 => Just(Move::Restart),
        1 => prop::sample::select(vec!["seal", "publish", "boot test"]).prop_map(Move::KillAt),
        1 => Just(Move::Collect),
    ];
    prop::collection::vec(one, 4..16)
}

fn make(factory: &mut Factory, step: &Move) {
    match step {
        Move::Greeting(version) => drop(factory.commit(&[("images/web/files/motd", &format!("{version}\n"))])),
        Move::Property(version) => {
            let vars = format!("bundle:\n  name: web\n  img_base: base\n  properties:\n    os: Debian {version}\n");
            factory.commit(&[("images/web/build-vars.yml", &vars)]);
        }
        Move::Test(version) => {
            factory.commit(&[("images/web/tests/test_web.py", &format!("def test_{version}():\n    pass\n"))]);
        }
        Move::Template(version) => {
            factory.commit(&[("images/web/output/stack.yml.j2", &format!("{version}: {{{{ result_img_id }}}}\n"))]);
        }
        Move::Readme(version) => drop(factory.commit(&[("images/web/README.md", &format!("{version}\n"))])),
        Move::Base(version) => drop(factory.commit(&[("images/base/files/motd", &format!("{version}\n"))])),
        Move::Copy => {
            factory.clone.copy("images/web", "images/site");
            factory.clone.commit();
        }
        Move::Delete => {
            factory.clone.remove("images/site");
            factory.clone.commit();
        }
        Move::Push => factory.push(),
        Move::Settle => drop(factory.settle_or_die()),
        Move::Restart => factory.restart(),
        Move::KillAt(at) => factory.world.next(at, Trouble::Die),
        Move::Collect => drop(factory.collect_or_die()),
    }
    while factory.is_dead() {
        factory.restart();
    }
}

/// What people see of what is served: bundle, fingerprints, properties, bits.
fn served(factory: &Factory) -> Vec<String> {
    let bundles = ["images/base", "images/site", "images/web"];
    let all = bundles.into_iter().filter_map(|bundle| {
        let served = factory.served_on("main", bundle)?;
        let image = factory.image(served.image.as_str()).image;
        Some(format!("{bundle} {:?} {:?} {}", served.stages, image.properties, image.sha256))
    });
    all.collect()
}

/// A build whose daemon was killed twice has failed: somebody asks for it again, base first.
fn ask_again(factory: &mut Factory) {
    for bundle in ["images/base", "images/site", "images/web"] {
        factory.plan();
        if factory.said(bundle).starts_with("stale") {
            let request = BuildRequest { bundle: bundle.to_owned(), ..BuildRequest::default() };
            factory.request(request).expect("a build");
            factory.settle();
        }
    }
}

fn plays_out(moves: &[Move]) {
    let mut factory = Factory::new();
    factory.expected_errors = vec!["panicked"];
    factory.bundle("images/base", "debian");
    factory.edit("images/web/build-vars.yml", "img_base: debian", "img_base: base");
    factory.commit(&[]);
    for step in moves {
        make(&mut factory, step);
    }
    factory.world.calm();
    if factory.is_dead() {
        factory.restart();
    }
    factory.push();
    factory.settle();
    ask_again(&mut factory);
    factory.plan();
    assert_eq!(factory.queued(), 0, "the same plan twice does nothing");

    let mut fresh = Factory::empty();
    fresh.clone.files = factory.clone.files.clone();
    fresh.deliver(&[]);
    assert_eq!(served(&factory), served(&fresh));
}

#[test]
fn what_is_served_in_the_end_is_what_a_fresh_factory_would_serve() {
    let mut runner =
        TestRunner::new(Config { cases: 12, max_shrink_iters: 40, failure_persistence: None, ..Config::default() });
    let result = runner.run(&moves(), |moves| {
        plays_out(&moves);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
