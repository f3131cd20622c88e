//! Independent work on all cores, with results in the order of the jobs.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

/// What `work` makes of each job. The order in which jobs are done is left to chance, so `work`
/// must not depend on it.
pub(super) fn on_every_core<Job: Sync, Made: Send>(
    jobs: &[Job],
    work: &(dyn Fn(&Job) -> Made + Sync),
) -> Vec<Made> {
    let made: Vec<Mutex<Option<Made>>> = jobs.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some((job, place)) = take(&next, jobs, &made) {
            *place.lock() = Some(work(job));
        }
    };
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    made.into_iter().filter_map(Mutex::into_inner).collect()
}

fn take<'a, Job, Place>(
    next: &AtomicUsize,
    jobs: &'a [Job],
    places: &'a [Place],
) -> Option<(&'a Job, &'a Place)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    jobs.get(index).zip(places.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u64> = (0..100).collect();
        let squares = on_every_core(&jobs, &|job| job * job);
        assert_eq!(
            squares,
            jobs.iter().map(|job| job * job).collect::<Vec<_>>()
        );
        assert!(on_every_core(&[] as &[u64], &|job| *job).is_empty());
    }
}
