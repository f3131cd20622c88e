//! Sends the requests of a trace at their times and notes what became of each.
//!
//! Times are measured from when a request was meant to be sent and given in the time of the trace,
//! that is multiplied by the compression, so that they can be read beside those of a simulation.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hermes_core::rng::SeededRng;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Pace;
use crate::fleet::Fleet;
use crate::load::client::{BadTarget, Call, Client, Target};
use crate::load::exchange::{Exchange, Outcome};
use crate::load::synthesis;
use crate::report::Served;
use crate::simulate::{Request, Settings, Traffic};

/// Blocks that a trace does not name get names from here up, which no trace uses.
const UNNAMED: u64 = 1 << 63;

/// The client of one run.
pub(super) struct Driver<'a> {
    traffic: &'a Traffic,
    pace: Pace,
    scale: f64,
    memory: usize,
    proxies: Vec<Arc<Client>>,
    /// Which server listens where.
    servers: HashMap<String, usize>,
    rng: SeededRng,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: String,
    max_tokens: u32,
    ignore_eos: bool,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        fleet: &Fleet,
        traffic: &'a Traffic,
        settings: &Settings,
        pace: Pace,
    ) -> Result<Self, BadTarget> {
        let client = |url: String| Ok(Arc::new(Client::new(Target::parse(&url)?, pace.limits)));
        let addresses = fleet.engines.iter().map(|engine| engine.addr().to_string());
        Ok(Self {
            traffic,
            pace,
            scale: settings.scale,
            memory: settings.blocks(traffic.block_tokens()) * traffic.block_tokens(),
            proxies: fleet
                .proxies
                .iter()
                .map(|proxy| client(proxy.url()))
                .collect::<Result<_, _>>()?,
            servers: addresses.zip(0..).collect(),
            rng: SeededRng::new(settings.seed),
        })
    }

    /// Sends everything. Answers what was served, and how many requests failed.
    pub(super) async fn run(
        mut self,
        policy: &str,
        stop: CancellationToken,
    ) -> (Vec<Served>, usize) {
        let progress = progress_bar(self.traffic.requests().len(), policy);
        let began = Instant::now();
        let exchanges = self.send_all(began, &progress, &stop).await;
        progress.finish_and_clear();
        self.served(exchanges, began)
    }

    /// Every request at its time. What is in flight when `stop` is cancelled is given up.
    async fn send_all(
        &mut self,
        began: Instant,
        progress: &ProgressBar,
        stop: &CancellationToken,
    ) -> Vec<(usize, Exchange)> {
        let slots = Arc::new(Semaphore::new(
            self.pace.concurrency.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let (mut sent, mut exchanges) = (JoinSet::new(), Vec::new());
        for (index, request) in self.traffic.requests().iter().enumerate() {
            // Made ahead of its time: a long text takes a while.
            let call = self.call(index, request);
            let intended = began + request.arrival(self.scale).div_f64(self.pace.compress);
            let Some(slot) = slot_at(intended, &slots, stop).await else {
                break;
            };
            let client = Arc::clone(&self.proxies[self.rng.below(self.proxies.len())]);
            sent.spawn(async move {
                let exchange = client.send(call, intended).await;
                drop(slot);
                (index, exchange)
            });
            while let Some(ended) = sent.try_join_next() {
                exchanges.extend(ended);
            }
            progress.set_position(exchanges.len() as u64);
        }
        while let Some(Some(ended)) = stop.run_until_cancelled(sent.join_next()).await {
            exchanges.extend(ended);
            progress.inc(1);
        }
        exchanges
    }

    fn call(&self, index: usize, request: &Request) -> Call {
        let (prompt_tokens, max_tokens) = request.clipped(self.memory);
        let block_tokens = self.traffic.block_tokens();
        let body = Body {
            model: "sim",
            prompt: synthesis::prompt(
                &blocks(index, request, prompt_tokens, block_tokens),
                prompt_tokens,
                block_tokens,
            ),
            max_tokens,
            ignore_eos: true,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
        };
        let body = serde_json::to_vec(&body)
            .expect("strings, numbers and booleans always have a JSON form");
        Call {
            path: "/v1/completions",
            body: Bytes::from(body),
            keep_text: false,
        }
    }

    /// In order of arrival, without those that failed.
    fn served(
        &self,
        mut exchanges: Vec<(usize, Exchange)>,
        began: Instant,
    ) -> (Vec<Served>, usize) {
        exchanges.sort_by_key(|(index, _)| *index);
        let all = exchanges.len();
        let served: Vec<Served> = exchanges
            .iter()
            .filter_map(|(_, exchange)| self.one(exchange, began))
            .collect();
        let failed = all - served.len();
        (served, failed)
    }

    fn one(&self, exchange: &Exchange, began: Instant) -> Option<Served> {
        let usage = exchange.usage.filter(|_| exchange.outcome == Outcome::Ok)?;
        let traced = |at: Instant| {
            at.saturating_duration_since(began)
                .mul_f64(self.pace.compress)
        };
        let endpoint = exchange
            .endpoint
            .as_ref()
            .and_then(|endpoint| endpoint.to_str().ok());
        Some(Served {
            arrived: traced(exchange.intended),
            placed: traced(exchange.sent),
            server: endpoint.and_then(|endpoint| self.server(endpoint)),
            decode: None,
            prefilled: None,
            first_token: traced(exchange.first_token?),
            finished: traced(exchange.ended),
            prompt_tokens: usize::try_from(usage.prompt_tokens).ok()?,
            cached_tokens: usize::try_from(usage.cached_tokens()).ok()?,
            output_tokens: u32::try_from(usage.completion_tokens).ok()?,
        })
    }

    /// The router may name an endpoint by its address or by its URL.
    fn server(&self, endpoint: &str) -> Option<usize> {
        let address = endpoint
            .strip_prefix("http://")
            .unwrap_or(endpoint)
            .trim_end_matches('/');
        self.servers.get(address).copied()
    }
}

/// A place among the requests in flight, once the time has come; `None` when the run is stopped
/// first.
async fn slot_at(
    intended: Instant,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    let slot = async {
        sleep_until(intended).await;
        Arc::clone(slots).acquire_owned().await.ok()
    };
    stop.run_until_cancelled(slot).await.flatten()
}

/// All blocks of a prompt: those that the trace names, and names of its own for the others.
fn blocks(index: usize, request: &Request, prompt_tokens: usize, block_tokens: usize) -> Vec<u64> {
    let own = UNNAMED + ((index as u64) << 20);
    let named = request
        .blocks
        .iter()
        .copied()
        .take(prompt_tokens / block_tokens);
    named
        .chain(own..)
        .take(prompt_tokens.div_ceil(block_tokens))
        .collect()
}

fn progress_bar(requests: usize, policy: &str) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64).with_message(policy.to_owned());
    match ProgressStyle::with_template("{elapsed_precise} {msg} {wide_bar} {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_the_blocks_of_the_trace_and_then_its_own() {
        let of = |index, prompt_tokens| {
            let blocks = Box::from([4, 5]);
            let request = Request {
                at_ms: 0,
                prompt_tokens,
                output_tokens: 1,
                blocks,
                tenant: None,
            };
            super::blocks(index, &request, prompt_tokens, 512)
        };
        assert_eq!(of(0, 1_024), [4, 5]);
        let (one, other) = (of(1, 1_600), of(2, 1_600));
        assert_eq!((&one[..2], one.len()), (&[4, 5][..], 4));
        assert!(one[2..].iter().all(|block| !other.contains(block)));
        assert_eq!(
            of(0, 600),
            [4, UNNAMED],
            "a clipped prompt has fewer full blocks"
        );
    }
}
