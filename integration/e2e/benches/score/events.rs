//! Engines that tell of blocks: each endpoint has an address of the loopback of its own, and a publisher there.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hermes_core::rng::SeededRng;
use hermes_engine_sim::{KvEventsConfig, LonePublisher};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::stage::address;

/// Tokens of a block, vLLM's default.
const BLOCK_TOKENS: usize = 16;
/// Blocks of one batch: with a batch every [`ROUND`] from each of 100 endpoints, 200,000 blocks a second.
const BATCH: usize = 20;
/// In which every endpoint tells once, at moments of their own.
const ROUND: Duration = Duration::from_millis(10);
/// Some of the endpoints tell at each tick.
const TICK: Duration = Duration::from_millis(1);
/// Batches of an endpoint that are stored before the first of them is removed again.
const HELD: usize = 200;
const CONNECT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone)]
pub(crate) struct Tellers(Arc<[LonePublisher]>);

impl Tellers {
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

    /// Returns once somebody listens to each.
    pub(crate) async fn heard(&self) {
        let all = async {
            while self.0.iter().any(|publisher| publisher.subscribers() == 0) {
                tokio::time::sleep(ROUND).await;
            }
        };
        timeout(CONNECT, all)
            .await
            .expect("every endpoint's events are followed");
    }

    /// Store and remove in turn, at an even pace, for ever.
    pub(crate) async fn tell(self) {
        let mut dice = SeededRng::new(1);
        let mut held = vec![VecDeque::<Vec<u64>>::new(); self.0.len()];
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let at_once = self
            .0
            .len()
            .div_ceil((ROUND.as_micros() / TICK.as_micros()) as usize);
        let tellers: Vec<usize> = (0..self.0.len()).collect();
        for some in tellers.chunks(at_once).cycle() {
            ticks.tick().await;
            for &teller in some {
                self.tell_one(teller, &mut held[teller], &mut dice);
            }
        }
    }

    fn tell_one(&self, teller: usize, held: &mut VecDeque<Vec<u64>>, dice: &mut SeededRng) {
        let publisher = &self.0[teller];
        if held.len() > HELD
            && let Some(names) = held.pop_front()
        {
            return publisher.remove(&names);
        }
        let names: Vec<u64> = (0..BATCH).map(|_| dice.next_u64()).collect();
        let tokens: Vec<u32> = (0..BATCH * BLOCK_TOKENS)
            .map(|_| dice.below(150_000) as u32)
            .collect();
        publisher.store(&names, &tokens);
        held.push_back(names);
    }
}
