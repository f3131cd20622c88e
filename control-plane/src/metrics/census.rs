//! What can be counted at any moment is counted when it is asked for: endpoints, bookings, discoveries.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::time::Instant;

use crate::{
    brain::{Brains, Census},
    discovery::DiscoveryStatus,
    pipeline::Board,
};

/// Counts on every scrape.
#[derive(Debug)]
pub struct WorldCensus {
    /// Whose endpoints and bookings.
    pub brains: Arc<Brains>,
    /// Whose discoveries.
    pub board: Board,
}

type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

impl Collector for WorldCensus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let census = self.brains.census();
        write(&mut encoder, "endpoints", "Endpoints, by pool and health: up, warming, down", &endpoints(&census))?;
        let blind = each(&census, |census| census.blind);
        write(
            &mut encoder,
            "endpoints_without_figures",
            "Endpoints whose engine gives no figures, or stale ones, by pool",
            &blind,
        )?;
        let bookings = each(&census, |census| census.bookings);
        write(&mut encoder, "bookings", "Requests that are booked or open, by pool", &bookings)?;
        let board = self.board.read();
        let synced = discoveries(&board, |status| f64::from(u8::from(status.synced())));
        write(&mut encoder, "discovery_synced", "1 once everything was listed, by pool and source", &synced)?;
        let failing = discoveries(&board, |status| status.failure().map_or(0.0, |(_, failure)| age(failure.since)));
        write(
            &mut encoder,
            "discovery_failing_seconds",
            "For how long discovery has been failing, 0 while it works, by pool and source",
            &failing,
        )?;
        let failures = discoveries(&board, |status| status.watches.iter().map(|watch| watch.failures as f64).sum());
        write(
            &mut encoder,
            "discovery_failures",
            "Watches that failed since their source was configured, by pool and source",
            &failures,
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

fn write(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, samples: &Samples) -> Result<(), fmt::Error> {
    let name = format!("hermes_control_plane_{name}");
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

fn endpoints(census: &[(Arc<str>, Census)]) -> Samples {
    let of_pool = |(pool, census): &(Arc<str>, Census)| {
        let states = [("up", census.up), ("warming", census.warming), ("down", census.down)];
        states.map(|(health, count)| (vec![("pool", pool.to_string()), ("health", health.to_owned())], count as f64))
    };
    census.iter().flat_map(of_pool).collect()
}

fn each(census: &[(Arc<str>, Census)], count: impl Fn(&Census) -> usize) -> Samples {
    census.iter().map(|(pool, census)| (vec![("pool", pool.to_string())], count(census) as f64)).collect()
}

/// A pool may have several sources, so each is numbered.
fn discoveries(board: &[(Arc<str>, DiscoveryStatus)], value: impl Fn(&DiscoveryStatus) -> f64) -> Samples {
    let labels = |(source, (pool, status)): (usize, &(Arc<str>, DiscoveryStatus))| {
        (vec![("pool", pool.to_string()), ("source", source.to_string())], value(status))
    };
    board.iter().enumerate().map(labels).collect()
}

fn age(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
