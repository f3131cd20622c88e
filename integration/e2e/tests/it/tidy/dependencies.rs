//! The dependency law: `core ← proto ← {control-plane, data-plane} ← bench-tools ← hermes`, with `runtime` beside `core`
//! and `proto`, and `engine-sim` beside the planes. `testkit` and `e2e` are for tests: nothing that is shipped depends on
//! them. Read from the manifests and the lock file.

use super::tree::{self, none};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Which crates of the workspace each one may depend on.
const LAW: [(&str, &[&str]); 10] = [
    ("core", &[]),
    ("runtime", &[]),
    ("proto", &["core"]),
    ("control-plane", &["core", "proto", "runtime"]),
    ("data-plane", &["core", "proto", "runtime"]),
    // Its tests decode KV events as the control plane does; BANS keeps the planes out of its production code.
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
];

/// What must not be in the production tree below a crate, however deep, and why.
const BANS: [(&str, &[&str], &str); 5] = [
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
        "the data plane learns of Kubernetes from the control plane",
    ),
    (
        "integration/engine-sim",
        &["hermes-core", "hermes-control-plane", "hermes-data-plane"],
        "a simulated engine knows nothing of the router in front of it",
    ),
];

/// The dependencies of one manifest, by package name.
#[derive(Default)]
struct Manifest {
    production: BTreeSet<String>,
    all: BTreeSet<String>,
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let mut complaints = Vec::new();
    for (name, allowed) in LAW {
        for (other, _) in LAW {
            let depends = manifest(name).all.contains(&package(other));
            if depends && other != name && !allowed.contains(&other) {
                complaints.push(format!("{name} depends on {other}"));
            }
        }
    }
    none(
        &complaints,
        "move the code to the lower crate, or pass a value or closure down",
    );
}

#[test]
fn every_member_of_the_workspace_has_a_place_in_the_law() {
    let manifest = read("Cargo.toml");
    let members = manifest
        .lines()
        .find(|line| line.starts_with("members"))
        .expect("a workspace lists its members");
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    let known: BTreeSet<&str> = LAW.into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        members, known,
        "add the new member to LAW, below those that may use it"
    );
}

#[test]
fn no_shipped_binary_depends_on_the_test_kit() {
    let shipped = ["hermes", "control-plane", "data-plane"];
    for directory in shipped {
        let below = closure(&lock(), manifest(directory).production);
        assert!(
            !below.contains("hermes-testkit") && !below.contains("hermes-e2e"),
            "{directory}: move what it uses to bench-tools or engine-sim"
        );
    }
}

#[test]
fn banned_crates_are_nowhere_below() {
    let lock = lock();
    let mut complaints = Vec::new();
    for (name, banned, why) in BANS {
        let below = closure(&lock, manifest(name).production);
        let found = banned.iter().filter(|banned| below.contains(**banned));
        complaints.extend(found.map(|banned| format!("{name} pulls in {banned}: {why}")));
    }
    none(
        &complaints,
        "drop the dependency; `cargo tree -e normal -p PACKAGE -i BANNED` shows the way it came",
    );
}

#[test]
fn every_member_obeys_the_lints_of_the_workspace() {
    let careless = LAW
        .into_iter()
        .map(|(name, _)| format!("{name}/Cargo.toml"));
    let careless: Vec<String> = careless
        .filter(|path| !read(path).contains("[lints]\nworkspace = true"))
        .collect();
    none(&careless, "add `[lints]` with `workspace = true`");
}

/// The package in a directory of the workspace.
fn package(directory: &str) -> String {
    match directory {
        "hermes" => directory.to_owned(),
        "integration/bench-tools" => "hermes-bench".to_owned(),
        _ => format!("hermes-{}", directory.trim_start_matches("integration/")),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(tree::root().join(path)).expect("a readable file")
}

/// Reads `name = …`, `name.workspace = …` and `[dependencies.name]`, which is all that our manifests use.
fn manifest(directory: &str) -> Manifest {
    let mut manifest = Manifest::default();
    let mut section = String::new();
    for line in read(&format!("{directory}/Cargo.toml")).lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
        }
        let (kind, named) = section
            .split_once("dependencies.")
            .unwrap_or((section.as_str(), ""));
        let name = if named.is_empty() {
            line.split(['=', '.']).next().unwrap_or_default().trim()
        } else {
            named
        };
        let is_entry =
            section.contains("dependencies") && !name.is_empty() && !name.starts_with(['#', '[']);
        if !is_entry {
            continue;
        }
        manifest.all.insert(name.to_owned());
        if !kind.starts_with("dev-") {
            manifest.production.insert(name.to_owned());
        }
    }
    manifest
}

/// Package to the packages that it needs, as `Cargo.lock` has them. Versions of one name are merged, which can only
/// make the check stricter.
fn lock() -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in read("Cargo.lock").split("[[package]]").skip(1) {
        let name = entry
            .lines()
            .find_map(|line| line.strip_prefix("name = "))
            .expect("a package has a name");
        let needs = entry
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"'));
        let needs = needs
            .filter_map(|need| need.split(['"', ' ']).next())
            .map(str::to_owned);
        graph
            .entry(name.trim_matches('"').to_owned())
            .or_default()
            .extend(needs);
    }
    graph
}

/// Everything below `roots`. Members of the workspace come by their manifests, as the lock file mixes in what only
/// their tests need.
fn closure(lock: &BTreeMap<String, BTreeSet<String>>, roots: BTreeSet<String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<String> = roots.into_iter().collect();
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        match LAW
            .into_iter()
            .find(|(directory, _)| package(directory) == name)
        {
            Some((directory, _)) => waiting.extend(manifest(directory).production),
            None => waiting.extend(lock.get(&name).cloned().unwrap_or_default()),
        }
    }
    seen
}

#[test]
fn the_check_itself_sees_direct_and_deep_dependencies() {
    let control_plane = closure(&lock(), manifest("control-plane").production);
    assert!(control_plane.contains("kube") && control_plane.contains("hermes-core"));
    assert!(
        control_plane.contains("kube-client"),
        "found only through the lock file"
    );
    assert!(
        !manifest("core").production.contains("proptest")
            && manifest("core").all.contains("proptest")
    );
}
