//! What one control-plane core answers on a Score stream: calls a second, latency, and CPU on both
//! ends.
//!
//! One replica on one worker thread, one proxy on another, loopback between them; callers wait for
//! their answers and ask again at once. Every booking is taken back with a later batch, as a
//! proxy's reports would end it. First with unseen prompts, then with an index of a million blocks
//! that holds all of them, then while the same core takes in 200,000 blocks a second as KV events,
//! last in a fleet of 1,000 endpoints, which `-- --fleet` measures alone.
//! Run: `cargo bench -p hermes-e2e --bench score`.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod callers;
mod events;
mod figures;
mod fleet;
mod replica;

use self::{
    callers::Prompts,
    events::Publishers,
    figures::Figures,
    replica::{ReplicaUnderLoad, worker},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names of the two threads, by which their CPU time is found.
const SERVER: &str = "server";
const CLIENT: &str = "client";

/// Pairs of a block and an endpoint in a full index.
const BLOCKS: usize = 1_000_000;
/// Blocks of a prompt of 8,192 tokens, 64 tokens each.
const LONG: usize = 128;

fn main() {
    if std::env::args().any(|argument| argument == "--fleet") {
        return large_fleet();
    }
    println!("kv-aware, one Score stream, one worker thread on each side\n");
    head("Unseen prompts, 100 endpoints", "hashes");
    for callers in [1, 8, 64, 512] {
        for hashes in [16, LONG] {
            row(
                callers,
                hashes,
                &measure(100, Prompts::unseen(hashes), callers, false),
            );
        }
    }
    let known = Prompts {
        hashes: LONG,
        count: Some(BLOCKS / LONG),
    };
    head(
        "Prompts of 8,192 tokens, an index of 1,000,000 blocks",
        "endpoints",
    );
    for endpoints in [100, 1_000] {
        for callers in [1, 8, 64] {
            row(
                callers,
                endpoints,
                &measure(endpoints, known, callers, false),
            );
        }
    }
    head(
        "The same, while 200,000 blocks a second come in as KV events",
        "endpoints",
    );
    for callers in [1, 8, 64] {
        row(callers, 100, &measure(100, known, callers, true));
    }
    large_fleet();
}

/// 1,000 endpoints, 64 proxies, 1,000 requests that wait.
fn large_fleet() {
    let figures = fleet::measure();
    println!("\n1,000 endpoints, scraped once a second; one replica\n");
    println!("| proxies | requests/s | cores of the replica |\n|---|---|---|");
    println!("| 0 | 0 | {:.3} |", figures.scraping);
    println!("| 64 | 0 | {:.3} |", figures.streaming);
    println!("| 64 | 1,000 | {:.3} |", figures.changing);
    head(
        "The same with 64 proxies, while 1,000 requests wait for one endpoint",
        "endpoints",
    );
    for (callers, scoring) in &figures.scoring {
        row(*callers, 1_000, scoring);
    }
}

fn head(title: &str, column: &str) {
    println!("\n{title}\n");
    println!(
        "| callers | {column} | calls/s | p50 µs | p99 µs | server CPU µs/call | client CPU µs/call |"
    );
    println!("|---|---|---|---|---|---|---|");
}

fn row(callers: usize, what: usize, figures: &Figures) {
    println!("| {callers} | {what} | {figures} |");
}

fn measure(endpoints: usize, prompts: Prompts, callers: usize, publish: bool) -> Figures {
    let (server, client) = (worker(SERVER), worker(CLIENT));
    let publishers = publish.then(|| client.block_on(async { Publishers::start(endpoints) }));
    let replica = ReplicaUnderLoad::start(
        &server,
        endpoints,
        BLOCKS / endpoints,
        publishers.as_ref().map(Publishers::port),
    );
    if let Some(publishers) = publishers {
        client.block_on(publishers.await_subscribers());
        client.spawn(publishers.publish());
    }
    client
        .block_on(client.spawn(callers::drive(replica.grpc(), callers, prompts)))
        .expect("no panic")
}
