//! How long the work of a plan is likely to take.

/// The build of one bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// How long it is likely to take, in milliseconds.
    pub millis: u64,
    /// The place of the job that must have ended before it begins.
    pub after: Option<usize>,
}

/// How long jobs take, in milliseconds, if as many run at once as there are slots and each begins as soon as it can.
pub fn span(jobs: &[Job], slots: usize) -> u64 {
    let mut free = vec![0; slots.max(1)];
    let mut ends: Vec<Option<u64>> = vec![None; jobs.len()];
    while ends.iter().any(Option::is_none) {
        let waits = |job: &Job| job.after.is_some_and(|base| ends.get(base).is_some_and(Option::is_none));
        let open = || jobs.iter().enumerate().filter(|(index, _)| ends[*index].is_none());
        // Where jobs wait for each other in a circle, the first is as good as any.
        let Some((index, job)) = open().find(|(_, job)| !waits(job)).or_else(|| open().next()) else { break };
        let ready = job.after.and_then(|base| ends.get(base).copied().flatten()).unwrap_or(0);
        let Some(slot) = free.iter_mut().min() else { break };
        *slot = (*slot).max(ready) + job.millis;
        ends[index] = Some(*slot);
    }
    ends.into_iter().flatten().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(millis: u64, after: Option<usize>) -> Job {
        Job { millis, after }
    }

    #[test]
    fn as_many_run_at_once_as_there_are_slots() {
        let jobs = [job(14, None), job(12, None)];
        assert_eq!(span(&jobs, 1), 26);
        assert_eq!(span(&jobs, 2), 14);
        assert_eq!(span(&[], 2), 0);
    }

    #[test]
    fn a_base_ends_before_what_stands_on_it() {
        assert_eq!(span(&[job(4, Some(1)), job(5, None), job(4, Some(1))], 2), 9);
        assert_eq!(span(&[job(1, Some(1)), job(1, Some(0))], 2), 2);
    }
}
