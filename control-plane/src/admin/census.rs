//! What can be counted at any moment is counted when it is asked for: endpoints, bookings, discoveries.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::time::Instant;

use crate::{
    cache_sources::kv_events::{PoolStreams, STANDINGS, standing_name},
    discovery::DiscoveryStatus,
    pipeline::DiscoveryHealth,
    pools::{PoolCensus, PoolDirectory},
};

/// Counts on every scrape.
#[derive(Debug)]
pub(crate) struct WorldCensus {
    /// Whose endpoints and bookings.
    pub(crate) pools: Arc<PoolDirectory>,
    /// Whose discoveries.
    pub(crate) board: DiscoveryHealth,
}

type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

impl Collector for WorldCensus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let census = self.pools.census();
        write(
            &mut encoder,
            "endpoints",
            "Endpoints, by pool and health: up, warming, down",
            &endpoints(&census),
        )?;
        let blind = each(&census, |census| census.blind);
        write(
            &mut encoder,
            "endpoints_without_figures",
            "Endpoints whose engine gives no figures, or stale ones, by pool",
            &blind,
        )?;
        let bookings = each(&census, |census| census.bookings);
        write(
            &mut encoder,
            "bookings",
            "Requests that are booked or open, by pool",
            &bookings,
        )?;
        encode_waiting(&mut encoder, &census)?;
        encode_learned(&mut encoder, &census)?;
        self.encode_kv_events(&mut encoder)?;
        let board = self.board.read();
        let synced = discoveries(&board, |status| f64::from(u8::from(status.synced())));
        write(
            &mut encoder,
            "discovery_synced",
            "1 once everything was listed, by pool and source",
            &synced,
        )?;
        let failing = discoveries(&board, |status| {
            status
                .failure()
                .map_or(0.0, |(_, failure)| age(failure.since))
        });
        write(
            &mut encoder,
            "discovery_failing_seconds",
            "For how long discovery has been failing, 0 while it works, by pool and source",
            &failing,
        )?;
        let failures = discoveries(&board, |status| {
            status
                .watches
                .iter()
                .map(|watch| watch.failures as f64)
                .sum()
        });
        write(
            &mut encoder,
            "discovery_failures",
            "Watches that failed since their source was configured, by pool and source",
            &failures,
        )?;
        let doubted = discoveries(&board, |status| status.doubted as f64);
        write(
            &mut encoder,
            "discovery_doubted",
            "Endpoints in use although Kubernetes calls them, and most of their peers, not ready, by pool and source",
            &doubted,
        )?;
        let left_out = discoveries(&board, |status| status.left_out as f64);
        write(
            &mut encoder,
            "discovery_left_out",
            "Ready addresses that cannot be used: no port matches, or the role is not understood",
            &left_out,
        )
    }
}

impl WorldCensus {
    fn encode_kv_events(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let pools: Vec<(Arc<str>, PoolStreams)> = self
            .pools
            .kv_events()
            .into_iter()
            .map(|(pool, events)| (pool, events.view()))
            .collect();
        write(
            encoder,
            "kv_event_streams",
            "Streams of KV events, by pool and by what is known through them: whole, partial, dark",
            &streams(&pools),
        )?;
        let blocks = each(&pools, |streams| {
            streams
                .streams
                .iter()
                .map(|stream| stream.blocks as usize)
                .sum()
        });
        write(
            encoder,
            "kv_event_blocks",
            "Blocks in the index of KV events, by pool",
            &blocks,
        )?;
        let bytes = each(&pools, |streams| streams.bytes as usize);
        write(
            encoder,
            "kv_event_index_bytes",
            "About how many bytes the index of these blocks takes, by pool",
            &bytes,
        )
    }
}

fn encode_waiting(
    encoder: &mut DescriptorEncoder<'_>,
    census: &[(Arc<str>, PoolCensus)],
) -> Result<(), fmt::Error> {
    let waiting = each(census, |census| census.waiting);
    write(
        encoder,
        "waiting_requests",
        "Requests that wait for an endpoint with room, by pool",
        &waiting,
    )?;
    let bytes = each(census, |census| census.waiting_bytes as usize);
    write(
        encoder,
        "waiting_bytes",
        "Bytes of their prompts, which proxies hold meanwhile, by pool",
        &bytes,
    )
}

fn encode_learned(
    encoder: &mut DescriptorEncoder<'_>,
    census: &[(Arc<str>, PoolCensus)],
) -> Result<(), fmt::Error> {
    let blocks = each(census, |census| census.learned_blocks);
    write(
        encoder,
        "learned_blocks",
        "Pairs of a prompt block and an endpoint in the learned index, by pool",
        &blocks,
    )?;
    let bytes = each(census, |census| census.learned_bytes);
    write(
        encoder,
        "learned_index_bytes",
        "About how many bytes what was learned takes, by pool",
        &bytes,
    )
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &Samples,
) -> Result<(), fmt::Error> {
    let name = format!("hermes_control_plane_{name}");
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
    }
    Ok(())
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
                vec![
                    ("pool", pool.to_string()),
                    ("standing", standing.to_owned()),
                ],
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
    board: &[(Arc<str>, DiscoveryStatus)],
    value: impl Fn(&DiscoveryStatus) -> f64,
) -> Samples {
    let labels = |(source, (pool, status)): (usize, &(Arc<str>, DiscoveryStatus))| {
        (
            vec![("pool", pool.to_string()), ("source", source.to_string())],
            value(status),
        )
    };
    board.iter().enumerate().map(labels).collect()
}

fn age(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
