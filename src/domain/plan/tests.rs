//! Plans over made-up bundles whose inputs are one value per stage.

use super::*;
use crate::domain::inputs::{Input, declared};

/// A bundle at a commit: one letter per stage, in order, is the value of that stage's own input.
struct Made {
    path: RepoPath,
    stages: Vec<(Stage, Fingerprint, Inputs)>,
}

fn made(letters: &str) -> Made {
    let mut parent = None;
    let stages = Stage::ALL
        .into_iter()
        .zip(letters.chars())
        .map(|(stage, letter)| {
            let own = Inputs::new(vec![Input::value(format!("{stage} value"), letter.to_string())]);
            let print = declared(stage, parent, own.digest());
            if stage != Stage::Snapshot {
                parent = Some(print);
            }
            (stage, print, own)
        })
        .collect();
    Made { path: RepoPath::new("images/bundle-x").expect("inside"), stages }
}

impl Made {
    fn candidate(&self) -> Candidate<'_> {
        let stages = self.stages.iter().map(|(stage, declared, own)| StageNeed {
            stage: *stage,
            declared: *declared,
            own_digest: own.digest(),
            own,
        });
        Candidate { bundle: &self.path, policy: SharedChange::default(), stages: Ok(stages.collect()) }
    }

    fn prints(&self) -> Vec<(Stage, Fingerprint)> {
        self.stages.iter().map(|(stage, print, _)| (*stage, *print)).collect()
    }
}

/// Everything that was ever built is kept; the last one is served.
fn after(builds: &[&str]) -> Facts {
    let mut facts = Facts::default();
    for build in builds {
        let made = made(build);
        facts.kept.extend(made.prints().into_iter().map(|(_, print)| (print, Kept::Usable)));
        Arc::make_mut(&mut facts.served).insert(made.path.clone(), made.prints());
        facts.last.insert(made.path.clone(), made.stages.into_iter().map(|(stage, _, own)| (stage, own)).collect());
    }
    facts
}

/// `action marks`, as the terminal marks stages.
fn planned(bundle: &str, facts: &Facts) -> String {
    let made = made(bundle);
    let plan = plan_bundle(&made.candidate(), facts);
    let marks = plan.stages.iter().map(|stage| match stage.state {
        StageState::Hit => '=',
        StageState::Changed => '~',
        StageState::Miss => '+',
        StageState::Skipped => '-',
    });
    format!("{} {}", plan.action.word(), marks.collect::<String>())
}

#[test]
fn the_first_stage_that_is_no_hit_names_the_action() {
    assert_eq!(planned("aaaaa", &Facts::default()), "build +++++");
    let facts = after(&["aaaaa"]);
    assert_eq!(planned("aaaaa", &facts), "unchanged =====");
    assert_eq!(planned("baaaa", &facts), "build ~++++");
    assert_eq!(planned("abaaa", &facts), "build =~+++");
    assert_eq!(planned("aabaa", &facts), "build ==~++");
    assert_eq!(planned("aaaba", &facts), "publish ===~=");
    assert_eq!(planned("aaaab", &facts), "render ====~");
    assert_eq!(planned("aaabb", &facts), "publish ===~~");
    assert_eq!(planned("ababa", &facts), "build =~+~+");
}

#[test]
fn a_revert_publishes_what_is_kept() {
    let facts = after(&["aaaaa", "abaaa"]);
    assert_eq!(planned("aaaaa", &facts), "publish =====");
}

#[test]
fn what_is_served_counts_even_where_its_disk_is_gone() {
    let mut facts = after(&["aaaaa"]);
    facts.kept.clear();
    assert_eq!(planned("aaaaa", &facts), "unchanged =====");
    assert_eq!(planned("aaaba", &facts), "publish ===~=");
    assert_eq!(planned("aaaab", &facts), "render ====~");
    assert_eq!(planned("aabaa", &facts), "build ++~++", "the test needs the disk again");
}

#[test]
fn an_expired_disk_is_not_used_and_what_is_published_does_not_expire() {
    let mut facts = after(&["aaaaa"]);
    let provision = made("aaaaa").prints()[1].1;
    facts.kept.insert(provision, Kept::Expired);
    assert_eq!(planned("aaaaa", &facts), "unchanged =====");
    assert_eq!(planned("aabaa", &facts), "build =+~++");
    let made = made("aabaa");
    assert_eq!(plan_bundle(&made.candidate(), &facts).stages[1].reason, "its kept result has expired");
}

#[test]
fn what_failed_is_not_repeated_until_its_inputs_change() {
    let mut facts = after(&["aaaaa"]);
    let provision = made("abaaa").prints()[1].1;
    facts.failed.insert(provision, BuildNo(7));
    assert_eq!(planned("abaaa", &facts), "stale =----");
    assert_eq!(planned("acaaa", &facts), "build =~+++");
    let made = made("abaaa");
    assert_eq!(plan_bundle(&made.candidate(), &facts).reason, "provision failed in #7");
}

#[test]
fn a_pipeline_that_publishes_nothing_is_unchanged_when_all_is_kept() {
    assert_eq!(planned("aaa", &after(&["aaa"])), "unchanged ===");
}

#[test]
fn the_reason_names_the_first_difference() {
    let made = made("abaaa");
    let plan = plan_bundle(&made.candidate(), &after(&["aaaaa"]));
    assert_eq!(plan.reason, "provision: provision value a → b");
    assert_eq!(plan.stages[2].reason, "follows provision");
}

#[test]
fn what_is_a_hit_by_another_bundle_is_still_the_cause_of_what_follows() {
    let mut facts = after(&["aaaaa"]);
    facts.kept.insert(made("baaaa").prints()[0].1, Kept::Usable);
    assert_eq!(planned("baaaa", &facts), "build =++++");
    let plan = plan_bundle(&made("baaaa").candidate(), &facts);
    assert_eq!(plan.reason, "provision: follows boot: boot value a → b");
}

#[test]
fn a_bundle_that_is_gone_is_listed_as_removed() {
    let mut facts = after(&["aaaaa"]);
    let never = RepoPath::new("images/bundle-broken").expect("inside");
    facts.unbuildable.push(never.clone());
    let removed = plan(CommitId::from("c"), None, &[], &facts).removed;
    assert_eq!(removed, [never, made("aaaaa").path], "also one that could not be built");
}
