//! Which queued build starts, and why the others wait: decided here from plain facts, done by the scheduler.

use std::collections::BTreeMap;

use crate::domain::bundle::BundleKey;
use crate::domain::id::BuildNo;

/// A build that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its number.
    pub number: BuildNo,
    /// What it builds.
    pub key: BundleKey,
    /// What it is based on, where that is another bundle.
    pub base: Option<BaseState>,
    /// Bytes of memory that its machine has.
    pub memory: u64,
    /// What it is likely to write.
    pub disk: DiskNeed,
}

/// What a build is likely to write to the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskNeed {
    /// As much as the last build of its bundle left: its sealed layer and its image.
    Measured(u64),
    /// Nothing is known of earlier ones: as much as its machine could.
    Guessed(u64),
}

impl DiskNeed {
    /// The bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Measured(bytes) | Self::Guessed(bytes) => bytes,
        }
    }
}

/// The disk that machines write to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What is free.
    pub free: u64,
    /// What must stay free.
    pub keep: u64,
    /// What the builds that run are still likely to write.
    pub promised: u64,
}

/// Where the bundle stands that another is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseState {
    /// Its image is served with the inputs that count.
    Ready,
    /// A build of it is queued or runs.
    Building {
        /// The bundle.
        bundle: String,
        /// Its build.
        build: BuildNo,
    },
    /// Nothing of it is served with the inputs that count, and nothing is under way.
    Missing {
        /// The bundle.
        bundle: String,
        /// Why, where that is known: "provision failed in #4".
        why: String,
    },
}

/// What there is to start builds with.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// How many builds may run at once.
    pub slots: usize,
    /// The builds that run.
    pub running: BTreeMap<BuildNo, BundleKey>,
    /// Bytes of memory that machines may still take; `None` is no limit.
    pub memory: Option<u64>,
    /// Why nothing can be written down any more; `None` while all is well.
    pub broken: Option<String>,
    /// The disk.
    pub disk: Disk,
    /// Whether the daemon is stopping.
    pub draining: bool,
}

/// What becomes of a build that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It starts now.
    Start,
    /// It waits, for this reason.
    Wait(String),
}

/// Decides for every waiting build, in the order of their numbers.
pub fn decide(waiting: &[Waiting], capacity: &Capacity) -> Vec<(BuildNo, Decision)> {
    let mut busy: BTreeMap<&BundleKey, BuildNo> = capacity.running.iter().map(|(number, key)| (key, *number)).collect();
    let mut running = capacity.running.len();
    let (mut memory, mut disk) = (capacity.memory, capacity.disk);
    let mut decisions = Vec::with_capacity(waiting.len());
    for build in waiting {
        let decision = match obstacle(build, &busy, running, memory, disk, capacity) {
            Some(reason) => Decision::Wait(reason),
            None => {
                running += 1;
                memory = memory.map(|left| left.saturating_sub(build.memory));
                disk.promised = disk.promised.saturating_add(build.disk.bytes());
                Decision::Start
            }
        };
        busy.entry(&build.key).or_insert(build.number);
        decisions.push((build.number, decision));
    }
    decisions
}

fn obstacle(
    build: &Waiting,
    busy: &BTreeMap<&BundleKey, BuildNo>,
    running: usize,
    memory: Option<u64>,
    disk: Disk,
    capacity: &Capacity,
) -> Option<String> {
    if capacity.draining {
        return Some("for the daemon to start again".to_owned());
    }
    if let Some(why) = &capacity.broken {
        return Some(format!("for the store, which takes no writes: {why}"));
    }
    if let Some(other) = busy.get(&build.key) {
        return Some(format!("for {other} of the same bundle"));
    }
    match &build.base {
        Some(BaseState::Building { bundle, build }) => {
            return Some(format!("for its base {bundle}: {build} must publish first"));
        }
        Some(BaseState::Missing { bundle, why }) => {
            return Some(format!("for its base {bundle}, which is not published: {why}"));
        }
        Some(BaseState::Ready) | None => {}
    }
    if let Some(reason) = shortage(build.disk, disk, running) {
        return Some(reason);
    }
    if running >= capacity.slots {
        return Some("for a machine".to_owned());
    }
    // Alone, a build may have what there is: it would wait for ever otherwise.
    let short = memory.filter(|left| running > 0 && build.memory > *left);
    short.map(|left| format!("for memory: its machine has {}, {} are left", size(build.memory), size(left)))
}

/// Why the disk would not hold one more build. What is only guessed holds no build back that is alone: it would wait for
/// ever otherwise, and is ended in time if it was right.
fn shortage(need: DiskNeed, disk: Disk, running: usize) -> Option<String> {
    const WAY_OUT: &str = "(factoryd gc, or limits.disk_free)";
    let Disk { free, keep, promised } = disk;
    if free < keep {
        return Some(format!("for disk space: {} free, {} must be {WAY_OUT}", size(free), size(keep)));
    }
    let left = (free - keep).saturating_sub(promised);
    match need {
        need if need.bytes() <= left => None,
        DiskNeed::Guessed(_) if running == 0 => None,
        DiskNeed::Measured(bytes) if running == 0 => Some(format!(
            "for disk space: the last one wrote {}, {} are free and {} must stay free {WAY_OUT}",
            size(bytes),
            size(free),
            size(keep)
        )),
        need => Some(format!(
            "for disk space: it may write {}; of {} free, {} must stay free and {} are left to builds that run",
            size(need.bytes()),
            size(free),
            size(keep),
            size(promised)
        )),
    }
}

/// Bytes as a person reads them: `4.0 GiB`, `24.0 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1 << 30 { (1 << 20, "MiB") } else { (1 << 30, "GiB") };
    let tenths = bytes / unit * 10 + bytes % unit * 10 / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{Branch, RepoName};
    use crate::domain::path::RepoPath;

    fn key(path: &str) -> BundleKey {
        BundleKey {
            repository: RepoName::from("factory"),
            branch: Branch::from("main"),
            path: RepoPath::new(path).expect("inside"),
        }
    }

    fn waiting(number: u64, path: &str) -> Waiting {
        Waiting {
            number: BuildNo(number),
            key: key(path),
            base: None,
            memory: 2 << 30,
            disk: DiskNeed::Guessed(1 << 30),
        }
    }

    fn capacity(slots: usize, running: &[(u64, &str)]) -> Capacity {
        let running = running.iter().map(|(number, path)| (BuildNo(*number), key(path))).collect();
        Capacity {
            slots,
            running,
            memory: None,
            broken: None,
            disk: Disk { free: 10 << 30, keep: 1 << 30, promised: 0 },
            draining: false,
        }
    }

    fn said(waiting: &[Waiting], capacity: &Capacity) -> Vec<String> {
        decide(waiting, capacity)
            .into_iter()
            .map(|(number, decision)| match decision {
                Decision::Start => format!("{number} starts"),
                Decision::Wait(reason) => format!("{number} waits {reason}"),
            })
            .collect()
    }

    #[test]
    fn builds_start_in_order_while_there_are_machines() {
        let waiting = [waiting(2, "a"), waiting(3, "b"), waiting(4, "c")];
        assert_eq!(
            said(&waiting, &capacity(2, &[(1, "x")])),
            ["#2 starts", "#3 waits for a machine", "#4 waits for a machine"]
        );
    }

    #[test]
    fn one_build_runs_per_bundle_and_others_pass_it_by() {
        let waiting = [waiting(2, "a"), waiting(3, "a"), waiting(4, "b")];
        assert_eq!(
            said(&waiting, &capacity(9, &[(1, "a")])),
            ["#2 waits for #1 of the same bundle", "#3 waits for #1 of the same bundle", "#4 starts"]
        );
    }

    #[test]
    fn a_dependent_waits_for_its_base() {
        let mut dependent = waiting(2, "a");
        dependent.base = Some(BaseState::Building { bundle: "images/base".into(), build: BuildNo(1) });
        assert_eq!(
            said(&[dependent.clone()], &capacity(9, &[])),
            ["#2 waits for its base images/base: #1 must publish first"]
        );
        dependent.base = Some(BaseState::Ready);
        assert_eq!(said(&[dependent], &capacity(9, &[])), ["#2 starts"]);
    }

    #[test]
    fn machines_share_the_memory_there_is() {
        let mut capacity = capacity(9, &[]);
        capacity.memory = Some(3 << 30);
        let waiting = [waiting(1, "a"), waiting(2, "b")];
        assert_eq!(
            said(&waiting, &capacity),
            ["#1 starts", "#2 waits for memory: its machine has 2.0 GiB, 1.0 GiB are left"]
        );
        capacity.memory = Some(1 << 30);
        assert_eq!(said(&waiting[..1], &capacity), ["#1 starts"], "alone, it has what there is");
    }

    #[test]
    fn nothing_starts_that_could_not_be_written_down() {
        let capacity = Capacity { broken: Some("the disk failed".into()), ..capacity(9, &[]) };
        assert_eq!(
            said(&[waiting(1, "a")], &capacity),
            ["#1 waits for the store, which takes no writes: the disk failed"]
        );
    }

    #[test]
    fn a_disk_that_is_too_full_starts_nothing() {
        let mut capacity = capacity(9, &[]);
        capacity.disk.keep = 20 << 30;
        assert_eq!(
            said(&[waiting(1, "a")], &capacity),
            ["#1 waits for disk space: 10.0 GiB free, 20.0 GiB must be (factoryd gc, or limits.disk_free)"]
        );
    }

    #[test]
    fn what_running_builds_may_still_write_is_not_given_away_twice() {
        let mut capacity = capacity(9, &[(1, "x")]);
        capacity.disk.promised = 4 << 30;
        let mut all = [waiting(2, "a"), waiting(3, "b"), waiting(4, "c")];
        all[0].disk = DiskNeed::Measured(3 << 30);
        all[1].disk = DiskNeed::Guessed(3 << 30);
        assert_eq!(
            said(&all, &capacity),
            [
                "#2 starts",
                "#3 waits for disk space: it may write 3.0 GiB; of 10.0 GiB free, 1.0 GiB must stay free and 7.0 GiB \
                 are left to builds that run",
                "#4 starts"
            ]
        );
    }

    #[test]
    fn alone_a_build_is_held_back_by_what_was_measured_and_not_by_a_guess() {
        let mut build = waiting(1, "a");
        build.disk = DiskNeed::Guessed(50 << 30);
        assert_eq!(said(&[build.clone()], &capacity(9, &[])), ["#1 starts"]);
        build.disk = DiskNeed::Measured(10 << 30);
        assert_eq!(
            said(&[build], &capacity(9, &[])),
            ["#1 waits for disk space: the last one wrote 10.0 GiB, 10.0 GiB are free and 1.0 GiB must stay free \
              (factoryd gc, or limits.disk_free)"]
        );
    }
}
