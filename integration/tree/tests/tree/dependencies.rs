//! The dependency law: `core ← proto ← {control-plane, data-plane} ← bench-tools ← hermes`, with
//! `runtime` and `translation` beside `core` and `proto`, and `engine-sim` beside the planes. `testkit` and `e2e` are
//! for tests: nothing that is shipped depends on them. Read from the manifests and the lock file.

use std::collections::BTreeSet;

use hermes_tree::{
    assert_none, files,
    manifests::{Manifest, closure, lock, members},
};

/// Which crates of the workspace each one may depend on.
const LAW: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("runtime", &[]),
    ("translation", &[]),
    ("proto", &["core"]),
    ("control-plane", &["core", "proto", "runtime"]),
    ("data-plane", &["core", "proto", "runtime", "translation"]),
    // Its tests decode KV events as the control plane does; BANS keeps the planes out of its
    // production code.
    (
        "integration/engine-sim",
        &["core", "runtime", "control-plane"],
    ),
    (
        "integration/bench-tools",
        &[
            "core",
            "runtime",
            "control-plane",
            "data-plane",
            "integration/engine-sim",
        ],
    ),
    (
        "integration/testkit",
        &["core", "proto", "integration/engine-sim"],
    ),
    (
        "integration/e2e",
        &[
            "core",
            "proto",
            "runtime",
            "control-plane",
            "data-plane",
            "integration/engine-sim",
            "integration/bench-tools",
            "integration/testkit",
        ],
    ),
    // Its tests read traces with the test kit's collector.
    (
        "hermes",
        &[
            "core",
            "proto",
            "runtime",
            "control-plane",
            "data-plane",
            "integration/engine-sim",
            "integration/bench-tools",
            "integration/testkit",
        ],
    ),
    ("integration/tree", &[]),
];

/// What must not be in the production tree below a crate, however deep, and why.
const BANS: [(&str, &[&str], &str); 6] = [
    (
        "core",
        &[
            "tokio",
            "hyper",
            "tonic",
            "prost",
            "kube",
            "prometheus-client",
            "opentelemetry",
            "tracing",
            "reqwest",
            "rand",
        ],
        "core is pure: callers pass ages, samples and randomness as arguments",
    ),
    (
        "translation",
        &["tokio", "hyper", "http", "tracing", "rand"],
        "translation is pure: callers pass ids, names and times as arguments",
    ),
    (
        "proto",
        &["kube", "k8s-openapi", "reqwest", "prometheus-client"],
        "proto is the contract and its conversions",
    ),
    (
        "runtime",
        &["kube", "k8s-openapi", "prost-build"],
        "runtime knows no domain",
    ),
    (
        "data-plane",
        &["kube", "kube-client", "k8s-openapi"],
        "the data plane gets what it needs of Kubernetes from the control plane",
    ),
    (
        "integration/engine-sim",
        &["hermes-core", "hermes-control-plane", "hermes-data-plane"],
        "a simulated engine knows nothing of the router in front of it",
    ),
];

#[test]
fn crates_depend_only_on_those_below_them() {
    let mut complaints = Vec::new();
    for (name, allowed) in LAW {
        let depends = Manifest::of(name).all;
        for (other, _) in LAW {
            let is_allowed = other == name || allowed.contains(&other);
            if !is_allowed && depends.contains(&Manifest::of(other).package) {
                complaints.push(format!("{name} depends on {other}"));
            }
        }
    }
    assert_none(
        &complaints,
        "move the code to the lower crate, or pass a value or closure down",
    );
}

#[test]
fn every_member_of_the_workspace_has_a_place_in_the_law() {
    let members: BTreeSet<String> = members().into_iter().collect();
    let known: BTreeSet<String> = LAW.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        members, known,
        "add the new member to LAW, below those that may use it"
    );
}

#[test]
fn no_shipped_binary_depends_on_the_test_kit() {
    let (lock, members) = (lock(), manifests());
    let mut complaints = Vec::new();
    for directory in ["hermes", "control-plane", "data-plane"] {
        let below = closure(&members, &lock, &Manifest::of(directory).production);
        let tests = ["hermes-testkit", "hermes-e2e", "hermes-tree"];
        let found = tests.iter().filter(|name| below.contains(**name));
        complaints.extend(found.map(|name| format!("{directory} depends on {name}")));
    }
    assert_none(
        &complaints,
        "move what it uses to bench-tools or engine-sim",
    );
}

#[test]
fn banned_crates_are_nowhere_below() {
    let (lock, members) = (lock(), manifests());
    let mut complaints = Vec::new();
    for (name, banned, why) in BANS {
        let below = closure(&members, &lock, &Manifest::of(name).production);
        let found = banned.iter().filter(|banned| below.contains(**banned));
        complaints.extend(found.map(|banned| format!("{name} pulls in {banned}: {why}")));
    }
    assert_none(
        &complaints,
        "drop the dependency; `cargo tree -e normal -p PACKAGE -i BANNED` shows the way it came",
    );
}

#[test]
fn every_member_obeys_the_lints_of_the_workspace() {
    let mut careless: Vec<String> = LAW
        .iter()
        .map(|(name, _)| format!("{name}/Cargo.toml"))
        .collect();
    careless.retain(|path| !files::read(path).contains("[lints]\nworkspace = true"));
    assert_none(&careless, "add `[lints]` with `workspace = true`");
}

fn manifests() -> Vec<Manifest> {
    members()
        .iter()
        .map(|member| Manifest::of(member))
        .collect()
}

#[test]
fn the_check_itself_sees_direct_and_deep_dependencies() {
    let control_plane = Manifest::of("control-plane").production;
    let below = closure(&manifests(), &lock(), &control_plane);
    assert!(below.contains("kube") && below.contains("hermes-core"));
    assert!(
        below.contains("kube-client"),
        "found only through the lock file"
    );
    let core = Manifest::of("core");
    assert!(!core.production.contains("proptest") && core.all.contains("proptest"));
}
