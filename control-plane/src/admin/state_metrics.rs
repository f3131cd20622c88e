//! State that is read at each scrape instead of being counted: endpoints, bookings, queues,
//! indexes, discovery.

use std::{fmt, sync::Arc};

use hermes_core::scheduler::PoolPressure;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::time::Instant;

use crate::{
    cache_sources::kv_events::{PoolStreams, STANDINGS, standing_name},
    discovery::DiscoveryStatus,
    pipeline::DiscoveryHealth,
    pools::{PoolCensus, PoolDirectory},
};

/// Reads the state of every pool at each scrape.
#[derive(Debug)]
pub(crate) struct StateCollector {
    /// Endpoints, bookings and indexes.
    pub(crate) pools: Arc<PoolDirectory>,
    /// The state of discovery.
    pub(crate) discovery: DiscoveryHealth,
}

/// Writes families one after the other.
struct FamilyWriter<'a, 'e>(&'a mut DescriptorEncoder<'e>);

/// Label sets with their values.
type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

// === StateCollector ===

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encoder = FamilyWriter(&mut encoder);
        self.pools(&mut encoder)?;
        self.kv_events(&mut encoder)?;
        self.discovery(&mut encoder)
    }
}

impl StateCollector {
    fn pools(&self, encoder: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let census = self.pools.census();
        encoder.gauge(
            "hermes_control_plane_endpoints",
            "Endpoints, by pool and health: up, warming, down",
            &endpoints(&census),
        )?;
        encoder.gauge(
            "hermes_control_plane_endpoints_without_metrics",
            "Endpoints whose engine exposes no metrics, or stale ones, by pool",
            &each(&census, |census| census.blind),
        )?;
        encoder.gauge(
            "hermes_control_plane_bookings",
            "Requests that are booked or open, by pool",
            &each(&census, |census| census.bookings),
        )?;
        encoder.gauge(
            "hermes_control_plane_queued_requests",
            "Requests in the queue, by pool",
            &each(&census, |census| census.waiting),
        )?;
        encoder.gauge(
            "hermes_control_plane_queued_bytes",
            "Bytes of the prompts of queued requests, which proxies hold, by pool",
            &each(&census, |census| census.waiting_bytes as usize),
        )?;
        encoder.gauge(
            "hermes_control_plane_prefill_pressure_seconds",
            "Prefill that is booked or queued, for each prompt that the endpoints for it compute at once, by pool; only of pools with pairs",
            &pressures(&census, |pressure| pressure.prefill_seconds),
        )?;
        encoder.gauge(
            "hermes_control_plane_decode_pressure_ratio",
            "Share of the usable KV memory that is in use at endpoints that generate answers, by pool; only of pools with pairs",
            &pressures(&census, |pressure| pressure.decode_share),
        )?;
        encoder.gauge(
            "hermes_learned_index_blocks",
            "Pairs of a prompt block and an endpoint in the index learned from routed requests, by pool",
            &each(&census, |census| census.learned_blocks),
        )?;
        encoder.gauge(
            "hermes_learned_index_bytes",
            "Approximate memory of the index learned from routed requests, by pool",
            &each(&census, |census| census.learned_bytes),
        )
    }

    fn kv_events(&self, encoder: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let pools: Vec<(Arc<str>, PoolStreams)> = self
            .pools
            .kv_events()
            .into_iter()
            .map(|(pool, events)| (pool, events.view()))
            .collect();
        encoder.gauge(
            "hermes_kv_events_streams",
            "KV-event streams, by pool and state: synced, partial, unsynced",
            &streams(&pools),
        )?;
        encoder.gauge(
            "hermes_kv_events_index_blocks",
            "Blocks that engines cache according to their KV events, by pool",
            &each(&pools, |streams| {
                streams
                    .streams
                    .iter()
                    .map(|stream| stream.blocks as usize)
                    .sum()
            }),
        )?;
        encoder.gauge(
            "hermes_kv_events_index_bytes",
            "Approximate memory of the index of KV events, by pool",
            &each(&pools, |streams| streams.bytes as usize),
        )
    }

    fn discovery(&self, encoder: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let discovery = self.discovery.read();
        encoder.gauge(
            "hermes_control_plane_discovery_synced",
            "1 once everything was listed, by pool and source",
            &discoveries(&discovery, |status| f64::from(u8::from(status.synced()))),
        )?;
        let failing = |status: &DiscoveryStatus| {
            status
                .failure()
                .map_or(0.0, |(_, failure)| age(failure.since))
        };
        encoder.gauge(
            "hermes_control_plane_discovery_failing_seconds",
            "Time since discovery started to fail, 0 while it works, by pool and source",
            &discoveries(&discovery, failing),
        )?;
        let failures = |status: &DiscoveryStatus| {
            status
                .watches
                .iter()
                .map(|watch| watch.failures as f64)
                .sum()
        };
        encoder.counter(
            "hermes_control_plane_discovery_failures",
            "Watches that failed since their source was configured, by pool and source",
            &discoveries(&discovery, failures),
        )?;
        encoder.gauge(
            "hermes_control_plane_discovery_panic_endpoints",
            "Endpoints in use although Kubernetes reports them and most of their peers as not ready, by pool and source",
            &discoveries(&discovery, |status| status.doubted as f64),
        )?;
        encoder.gauge(
            "hermes_control_plane_discovery_skipped_addresses",
            "Ready addresses that cannot be used because no port matches or the role is invalid, by pool and source",
            &discoveries(&discovery, |status| status.left_out as f64),
        )
    }
}

// === FamilyWriter ===

impl FamilyWriter<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, samples: &Samples) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, samples: &Samples) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}

// === Samples ===

fn pressures(census: &[(Arc<str>, PoolCensus)], of: fn(PoolPressure) -> f64) -> Samples {
    let of_pool = |(pool, census): &(Arc<str>, PoolCensus)| {
        let pressure = census.pressure.map(of)?;
        Some((vec![("pool", pool.to_string())], pressure))
    };
    census.iter().filter_map(of_pool).collect()
}

fn endpoints(census: &[(Arc<str>, PoolCensus)]) -> Samples {
    let of_pool = |(pool, census): &(Arc<str>, PoolCensus)| {
        let states = [
            ("up", census.up),
            ("warming", census.warming),
            ("down", census.down),
        ];
        states.map(|(health, count)| {
            (
                vec![("pool", pool.to_string()), ("health", health.to_owned())],
                count as f64,
            )
        })
    };
    census.iter().flat_map(of_pool).collect()
}

fn streams(pools: &[(Arc<str>, PoolStreams)]) -> Samples {
    let of_pool = |(pool, streams): &(Arc<str>, PoolStreams)| {
        STANDINGS.map(|standing| {
            let standing = standing_name(standing);
            let count = streams
                .streams
                .iter()
                .filter(|stream| stream.standing == standing)
                .count();
            (
                vec![("pool", pool.to_string()), ("state", standing.to_owned())],
                count as f64,
            )
        })
    };
    pools.iter().flat_map(of_pool).collect()
}

fn each<T>(pools: &[(Arc<str>, T)], count: impl Fn(&T) -> usize) -> Samples {
    pools
        .iter()
        .map(|(pool, of)| (vec![("pool", pool.to_string())], count(of) as f64))
        .collect()
}

/// A pool may have several sources, so each is numbered.
fn discoveries(
    discovery: &[(Arc<str>, DiscoveryStatus)],
    value: impl Fn(&DiscoveryStatus) -> f64,
) -> Samples {
    let labels = |(source, (pool, status)): (usize, &(Arc<str>, DiscoveryStatus))| {
        (
            vec![("pool", pool.to_string()), ("source", source.to_string())],
            value(status),
        )
    };
    discovery.iter().enumerate().map(labels).collect()
}

fn age(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
