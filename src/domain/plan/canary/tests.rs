//! Shared changes over made-up bundles: each reads `/s`, and a file of its own.

use std::collections::HashMap;

use super::super::*;
use crate::domain::id::{BuildNo, Oid};
use crate::domain::inputs::{From, Input, Inputs, declared};
use crate::domain::tree::EntryKind;

/// A bundle at a commit: its name, the state of `/s`, of its own file, and what it is based on.
#[derive(Clone)]
struct Made {
    path: RepoPath,
    policy: SharedChange,
    stages: Vec<(Stage, Fingerprint, Inputs)>,
}

fn file(from: From, name: &str, content: u8) -> Input {
    let path = RepoPath::new(name).expect("inside");
    Input::File { from, path, kind: EntryKind::File, oid: Oid([content; 20]) }
}

fn made(name: &str, shared: u8, own: u8, base: Option<&Made>) -> Made {
    let base = base.map(|base| Input::Base { bundle: base.path.clone(), fingerprint: base.stages[1].1 });
    let inputs = [
        Inputs::new(base.into_iter().collect()),
        Inputs::new(vec![file(From::Root, "s", shared), file(From::Bundle, "own", own), Input::value("who", name)]),
        Inputs::new(vec![Input::value("name", name)]),
    ];
    let mut parent = None;
    let stages = [Stage::Boot, Stage::Provision, Stage::Snapshot].into_iter().zip(inputs).map(|(stage, own)| {
        let print = declared(stage, parent, own.digest());
        parent = Some(print);
        (stage, print, own)
    });
    let stages = stages.collect();
    Made { path: RepoPath::new(format!("images/{name}")).expect("inside"), policy: SharedChange::Canary, stages }
}

impl Made {
    fn prints(&self) -> Vec<(Stage, Fingerprint)> {
        self.stages.iter().map(|(stage, print, _)| (*stage, *print)).collect()
    }

    fn with(mut self, policy: SharedChange) -> Self {
        self.policy = policy;
        self
    }
}

/// What is known when these were built last.
fn after(bundles: &[Made]) -> Facts {
    let mut facts = Facts::default();
    bundles.iter().for_each(|bundle| built(&mut facts, bundle));
    facts
}

fn built(facts: &mut Facts, bundle: &Made) {
    facts.kept.extend(bundle.prints().into_iter().map(|(_, print)| (print, Kept::Usable)));
    Arc::make_mut(&mut facts.served).insert(bundle.path.clone(), bundle.prints());
    let own = bundle.stages.iter().map(|(stage, _, own)| (*stage, own.clone()));
    facts.last.insert(bundle.path.clone(), own.collect());
}

fn failed(facts: &mut Facts, bundle: &Made) {
    facts.failed.insert(bundle.stages[1].1, BuildNo(7));
}

/// `name action` of each bundle, `!` behind a canary, the reason behind one that is stale.
fn said(bundles: &[Made], facts: &Facts) -> Vec<String> {
    let mut bundles = bundles.to_vec();
    bundles.sort_by(|a, b| a.path.cmp(&b.path));
    let candidates: Vec<Candidate<'_>> = bundles
        .iter()
        .map(|bundle| Candidate {
            bundle: &bundle.path,
            policy: bundle.policy,
            stages: Ok(bundle
                .stages
                .iter()
                .map(|(stage, print, own)| StageNeed { stage: *stage, declared: *print, own_digest: own.digest(), own })
                .collect()),
        })
        .collect();
    let plan = plan(CommitId::from("c"), None, &candidates, facts);
    plan.bundles
        .iter()
        .map(|bundle| {
            let mark = if bundle.canary { "!" } else { "" };
            let name = String::from_utf8_lossy(bundle.bundle.name()).into_owned();
            let why = if bundle.action == Action::Stale { format!(": {}", bundle.reason) } else { String::new() };
            format!("{name} {}{mark}{why}", bundle.action.word())
        })
        .collect()
}

fn three(shared: u8) -> Vec<Made> {
    ["a", "b", "c"].map(|name| made(name, shared, 1, None)).to_vec()
}

const WAITS: &str = "stale: waits for canary images/a: /s 010101 → 020202";

#[test]
fn one_goes_first_and_the_others_follow_when_it_is_green() {
    let mut facts = after(&three(1));
    let now = three(2);
    assert_eq!(said(&now, &facts), ["a build!", &format!("b {WAITS}"), &format!("c {WAITS}")]);
    built(&mut facts, &now[0]);
    assert_eq!(said(&now, &facts), ["a unchanged", "b build", "c build"]);
}

#[test]
fn the_cheapest_goes_first_and_one_that_is_under_way_before_it() {
    let mut facts = after(&three(1));
    let now = three(2);
    facts.durations = HashMap::from([(now[0].path.clone(), 900), (now[2].path.clone(), 100)]);
    assert_eq!(said(&now, &facts)[2], "c build!");
    facts.active.insert(now[1].path.clone());
    assert_eq!(said(&now, &facts)[1], "b build!");
}

#[test]
fn a_canary_that_failed_holds_the_others_until_there_is_something_new() {
    let mut facts = after(&three(1));
    let now = three(2);
    failed(&mut facts, &now[0]);
    let held = "stale: canary images/a did not pass, provision failed in #7: /s 010101 → 020202";
    assert_eq!(said(&now, &facts), ["a stale: provision failed in #7", &format!("b {held}"), &format!("c {held}")]);
    let next = "stale: waits for canary images/a: /s 010101 → 030303";
    assert_eq!(said(&three(3), &facts), ["a build!", &format!("b {next}"), &format!("c {next}")]);
    // Deleted, it holds nobody.
    assert_eq!(said(&now[1..], &facts)[0], "b build!");
}

#[test]
fn what_changed_by_itself_is_built_and_is_the_canary() {
    let facts = after(&three(1));
    let mut now = three(2);
    now[1] = made("b", 2, 9, None);
    let waits = "stale: waits for canary images/b: /s 010101 → 020202";
    assert_eq!(said(&now, &facts), [&format!("a {waits}"), "b build!", &format!("c {waits}")]);
    now[1] = made("b", 1, 9, None);
    assert_eq!(said(&now, &facts), ["a build!", "b build", &format!("c {WAITS}")], "b does not have the change");
}

/// A bundle that reads a template, with its flavor and its one step.
fn of_template(name: &str, flavor: &str, step: &str) -> Made {
    let mut made = made(name, 1, 1, None);
    let values = [Input::value("packer builder flavor", flavor), Input::value("packer step 1", step)];
    let own = Inputs::new(values.into_iter().chain([Input::value("who", name)]).collect());
    made.stages[0] = (Stage::Boot, declared(Stage::Boot, None, own.digest()), own);
    made
}

#[test]
fn a_value_that_is_usual_in_another_template_is_tried_all_the_same() {
    let before = [of_template("a", "21", "apt"), of_template("b", "21", "apt"), of_template("other", "16", "yum")];
    let mut facts = after(&before);
    let now = [of_template("a", "16", "apt"), of_template("b", "16", "apt"), before[2].clone()];
    let waits = "b stale: waits for canary images/a: packer builder flavor 21 → 16";
    assert_eq!(said(&now, &facts), ["a build!", waits, "other unchanged"]);
    built(&mut facts, &now[0]);
    assert_eq!(said(&now, &facts), ["a unchanged", "b build", "other unchanged"]);
}

#[test]
fn what_was_never_published_is_built_whatever_the_policy() {
    let facts = after(&three(1)[..2]);
    assert_eq!(said(&three(2), &facts), ["a build!", &format!("b {WAITS}"), "c build"]);
}

#[test]
fn marked_images_stay_and_rebuilt_ones_do_not() {
    let facts = after(&three(1));
    let now: Vec<Made> = three(2).into_iter().map(|bundle| bundle.with(SharedChange::Mark)).collect();
    let marked = "stale: marked by a shared change: /s 010101 → 020202";
    assert_eq!(said(&now, &facts), [format!("a {marked}"), format!("b {marked}"), format!("c {marked}")]);
    let now: Vec<Made> = three(2).into_iter().map(|bundle| bundle.with(SharedChange::Rebuild)).collect();
    assert_eq!(said(&now, &facts), ["a build", "b build", "c build"]);
}

/// `base`, and `x` and `y` on it; the base reads another `/s`.
fn chain(base: u8, own: u8) -> Vec<Made> {
    let base = made("base", base, own, None);
    let on = |name| made(name, 1, 1, Some(&base));
    vec![on("x"), on("y"), base]
}

#[test]
fn dependents_follow_their_base_when_it_is_green() {
    let mut facts = after(&chain(1, 1));
    let now = chain(1, 9);
    let plans = said(&now, &facts);
    assert_eq!(plans[0], "base build!");
    assert!(plans[1].starts_with("x stale: waits for canary images/base: base images/base "), "{plans:?}");
    built(&mut facts, &now[2]);
    assert_eq!(said(&now, &facts), ["base unchanged", "x build", "y build"]);
    let mut facts = after(&chain(1, 1));
    failed(&mut facts, &now[2]);
    assert!(said(&now, &facts)[1].starts_with("x stale: canary images/base did not pass, provision failed in #7"));
    let marked: Vec<Made> = now.iter().cloned().map(|bundle| bundle.with(SharedChange::Mark)).collect();
    let plans = said(&marked, &after(&chain(1, 1)));
    assert_eq!(plans[0], "base build");
    assert!(plans[1].starts_with("x stale: marked by a shared change: base images/base "), "{plans:?}");
}

#[test]
fn what_must_be_built_frees_its_base() {
    let mut facts = after(&chain(1, 1));
    // Something else goes first for the base, and x was never published.
    let mut others = three(1);
    others.iter().for_each(|bundle| built(&mut facts, bundle));
    others = three(2);
    let mut now = chain(2, 1);
    now.extend(others);
    let plans = said(&now, &facts);
    assert_eq!(plans[2], "base stale: waits for canary images/a: /s 010101 → 020202");
    assert!(plans[4].starts_with("x stale: waits for its base images/base"), "{plans:?}");
    Arc::make_mut(&mut facts.served).remove(&now[0].path);
    facts.last.remove(&now[0].path);
    let plans = said(&now, &facts);
    assert!(plans[2].starts_with("base build"), "{plans:?}");
    assert_eq!(plans[4], "x build");
}
