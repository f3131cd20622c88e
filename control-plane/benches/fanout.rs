//! What a change of the fleet costs for all subscribers: the messages that carry it, up to the
//! buffers of their connections.

#![expect(clippy::print_stdout, reason = "what is not a time is printed")]

use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use hermes_control_plane::snapshot_encoder::SnapshotEncoder;
use hermes_core::{
    delta::SnapshotDelta,
    policy::PoolPolicy,
    snapshot::{
        Endpoint, EndpointId, Epoch, Model, ModelHolders, Pool, PoolSpec, Role, Snapshot, Version,
    },
};
use hermes_proto::{
    Message,
    convert::snapshot_to_wire,
    v1::{self, FromControlPlane, from_control_plane},
};

const SUBSCRIBERS: usize = 200;

fn main() {
    for change in [CHANGE_OF_AN_ENDPOINT, CHANGE_OF_ADAPTERS] {
        let (old, new) = change.snapshots();
        let delta = v1::Delta::from(&SnapshotDelta::between(&old, &new)).encoded_len();
        let whole = snapshot_to_wire(&new, "replica-0").encoded_len();
        println!("{change:?}: delta {delta} bytes, whole snapshot {whole} bytes");
    }
    divan::main();
}

/// One endpoint restarts.
#[derive(Clone, Copy, Debug)]
struct Restart {
    endpoints: u64,
    /// Each is on every second endpoint, and on the one that restarts.
    adapters: u64,
}

const CHANGE_OF_AN_ENDPOINT: Restart = Restart {
    endpoints: 1_000,
    adapters: 0,
};
const CHANGE_OF_ADAPTERS: Restart = Restart {
    endpoints: 5_000,
    adapters: 100,
};

impl Restart {
    /// Before and after.
    fn snapshots(self) -> (Snapshot, Snapshot) {
        (self.snapshot(1, 1), self.snapshot(2, self.endpoints + 1))
    }

    /// One endpoint is `restarted`, the others stay.
    fn snapshot(self, version: u64, restarted: u64) -> Snapshot {
        let ids = (2..=self.endpoints).chain([restarted]);
        let endpoint = |id: u64| {
            Arc::new(Endpoint {
                id: EndpointId(id),
                address: format!("http://10.0.{}.{}:8000", id / 250, id % 250)
                    .parse()
                    .expect("an address"),
                name: format!("inference/vllm-{id}").into(),
                role: Role::Aggregate,
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
            })
        };
        let holders: Arc<[EndpointId]> = (3..=self.endpoints)
            .step_by(2)
            .chain([restarted])
            .map(EndpointId)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let model = |number: u64| {
            Arc::new(Model {
                name: format!("adapter-{number}").into(),
                parent: Some("base".into()),
                max_model_len: Some(32_768),
                holders: ModelHolders::Some(Arc::clone(&holders)),
            })
        };
        let pool = Pool {
            spec: Arc::new(PoolSpec::new("chat", PoolPolicy::default())),
            models: (0..self.adapters).map(model).collect(),
            endpoints: ids.map(endpoint).collect(),
        };
        Snapshot {
            epoch: Epoch(1),
            version: Version(version),
            pools: vec![Arc::new(pool)].into(),
            ..Snapshot::default()
        }
    }
}

/// The message as it is copied into the buffer of one connection.
fn buffered(delta: Bytes) -> Vec<u8> {
    let message = FromControlPlane {
        message: Some(from_control_plane::Message::Delta(delta)),
    };
    message.encode_to_vec()
}

/// Every subscriber computes and encodes its own.
#[divan::bench(args = [CHANGE_OF_AN_ENDPOINT, CHANGE_OF_ADAPTERS], sample_count = 10)]
fn each_for_itself(bencher: Bencher<'_, '_>, change: Restart) {
    let (old, new) = change.snapshots();
    bencher.bench(|| {
        let own = |_| {
            let delta = v1::Delta::from(&SnapshotDelta::between(&old, &new));
            buffered(delta.encode_to_vec().into()).len()
        };
        (0..SUBSCRIBERS).map(own).sum::<usize>()
    });
}

/// One is computed and encoded, and copied for every subscriber.
#[divan::bench(args = [CHANGE_OF_AN_ENDPOINT, CHANGE_OF_ADAPTERS], sample_count = 10)]
fn shared(bencher: Bencher<'_, '_>, change: Restart) {
    let (old, new) = change.snapshots();
    bencher
        .with_inputs(|| SnapshotEncoder::new("replica-0".into()))
        .bench_refs(|encoder| {
            let copy = |_| buffered(encoder.delta(&old, &new)).len();
            (0..SUBSCRIBERS).map(copy).sum::<usize>()
        });
}
