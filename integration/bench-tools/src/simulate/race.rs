//! Several policies on the same traffic, each in a simulation of its own, as many at once as there
//! are cores.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::policies::{Policy, Setup};
use super::run::{RunError, run};
use super::settings::Settings;
use super::traffic::Traffic;
use crate::report::Row;

/// A policy broke its contract.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy {policy}: {error}")]
pub struct RaceError {
    policy: &'static str,
    error: RunError,
}

/// Simulates each of `policies`. Outcomes come in their order and do not depend on how many run at
/// once. `progress` is called, from any thread, for each hundred requests that were served.
///
/// # Errors
/// The first policy, in their order, that misplaces a request or never places one.
pub fn race(
    settings: &Settings,
    traffic: &Traffic,
    policies: &[Policy],
    proxies: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Row>, RaceError> {
    let lanes: Vec<Mutex<Option<Result<Row, RaceError>>>> =
        policies.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let racer = || {
        while let Some((policy, lane)) =
            take(&next, policies).map(|index| (policies[index], &lanes[index]))
        {
            *lane.lock() = Some(one(settings, traffic, policy, proxies, progress));
        }
    };
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(policies.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(racer);
        }
    });
    lanes.into_iter().filter_map(Mutex::into_inner).collect()
}

fn take(next: &AtomicUsize, policies: &[Policy]) -> Option<usize> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    (index < policies.len()).then_some(index)
}

fn one(
    settings: &Settings,
    traffic: &Traffic,
    policy: Policy,
    proxies: usize,
    progress: &dyn Fn(usize),
) -> Result<Row, RaceError> {
    let block_tokens = traffic.block_tokens();
    let Settings { servers, seed, .. } = *settings;
    let setup = Setup {
        servers,
        block_tokens,
        blocks: settings.blocks(block_tokens),
        seed,
    };
    let mut dispatcher = policy.dispatcher(setup, proxies);
    let mut reported = 0;
    let outcome = run(settings, traffic, &mut *dispatcher, &mut |served| {
        progress(served - reported);
        reported = served;
    });
    let outcome = outcome.map_err(|error| RaceError {
        policy: policy.name,
        error,
    })?;
    Ok(Row::new(policy.name, outcome))
}
