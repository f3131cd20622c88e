//! Publishers of KV events: each endpoint has a loopback address of its own, with a publisher on
//! it.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hermes_core::rng::SeededRng;
use hermes_engine_sim::{KvEventsConfig, LonePublisher};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::replica::address;

/// Tokens of a block, vLLM's default.
const BLOCK_TOKENS: usize = 16;
/// Blocks of one batch: with a batch every [`ROUND`] from each of 100 endpoints, 200,000 blocks a
/// second.
const BATCH: usize = 20;
/// Period in which every endpoint publishes one batch, spread over the period.
const ROUND: Duration = Duration::from_millis(10);
/// At each tick a part of the endpoints publishes.
const TICK: Duration = Duration::from_millis(1);
/// Batches of an endpoint that are stored before the first of them is removed again.
const HELD: usize = 200;
const CONNECT: Duration = Duration::from_secs(30);

/// The publishers of all endpoints.
#[derive(Clone)]
pub(crate) struct Publishers(Arc<[LonePublisher]>);

impl Publishers {
    /// Listen on one free port of every endpoint's address; call it inside a runtime.
    pub(crate) fn start(endpoints: usize) -> Self {
        let at = |address: IpAddr, port| {
            let publish = SocketAddr::new(address, port);
            let config = KvEventsConfig {
                publish,
                replay: None,
                ..KvEventsConfig::default()
            };
            LonePublisher::start(config, BLOCK_TOKENS).expect("a free port")
        };
        let first = at(address(0), 0);
        let port = first.addr().port();
        let others = (1..endpoints).map(|endpoint| at(address(endpoint), port));
        Self(std::iter::once(first).chain(others).collect())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0[0].addr().port()
    }

    /// Waits until each publisher has a subscriber.
    pub(crate) async fn await_subscribers(&self) {
        let all = async {
            while self.0.iter().any(|publisher| publisher.subscribers() == 0) {
                tokio::time::sleep(ROUND).await;
            }
        };
        timeout(CONNECT, all)
            .await
            .expect("every endpoint's events are followed");
    }

    /// Stores and removes blocks at a constant rate, without end.
    pub(crate) async fn publish(self) {
        let mut rng = SeededRng::new(1);
        let mut held = vec![VecDeque::<Vec<u64>>::new(); self.0.len()];
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let at_once = self
            .0
            .len()
            .div_ceil((ROUND.as_micros() / TICK.as_micros()) as usize);
        let publishers: Vec<usize> = (0..self.0.len()).collect();
        for some in publishers.chunks(at_once).cycle() {
            ticks.tick().await;
            for &endpoint in some {
                self.publish_one(endpoint, &mut held[endpoint], &mut rng);
            }
        }
    }

    fn publish_one(&self, endpoint: usize, held: &mut VecDeque<Vec<u64>>, rng: &mut SeededRng) {
        let publisher = &self.0[endpoint];
        if held.len() > HELD
            && let Some(names) = held.pop_front()
        {
            return publisher.remove(&names);
        }
        let names: Vec<u64> = (0..BATCH).map(|_| rng.next_u64()).collect();
        let tokens: Vec<u32> = (0..BATCH * BLOCK_TOKENS)
            .map(|_| rng.below(150_000) as u32)
            .collect();
        publisher.store(&names, &tokens);
        held.push_back(names);
    }
}
