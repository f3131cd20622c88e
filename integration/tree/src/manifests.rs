//! The dependencies between crates, from `Cargo.toml` and `Cargo.lock`.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::read;

/// One member of the workspace. Its dependencies are named as packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the package.
    pub package: String,
    /// What the library and the binaries need, to build and to run.
    pub production: BTreeSet<String>,
    /// These, and what only tests and benches need.
    pub all: BTreeSet<String>,
}

/// Package to the packages that it needs.
pub type Lock = BTreeMap<String, BTreeSet<String>>;

/// The directories of the members of the workspace, as the root manifest lists them.
///
/// # Panics
///
/// If the root manifest has no list of members.
#[must_use]
pub fn members() -> Vec<String> {
    let text = read("Cargo.toml");
    let (_, list) = text
        .split_once("\nmembers = [")
        .expect("a workspace lists its members");
    let (list, _) = list.split_once(']').expect("the list ends");
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// `Cargo.lock`. Versions of one name are merged, which can only make a check stricter.
///
/// # Panics
///
/// If an entry has no name.
#[must_use]
pub fn lock() -> Lock {
    let mut graph = Lock::new();
    for entry in read("Cargo.lock").split("[[package]]").skip(1) {
        let name = entry.lines().find_map(|line| line.strip_prefix("name = "));
        let name = name.expect("a package has a name").trim_matches('"');
        let needs = entry
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"'))
            .filter_map(|need| need.split(['"', ' ']).next());
        let entry = graph.entry(name.to_owned()).or_default();
        entry.extend(needs.map(str::to_owned));
    }
    graph
}

/// Everything below `roots`, however deep. Members of the workspace come by their manifests, as the
/// lock file mixes in what only their tests need.
#[must_use]
pub fn closure(members: &[Manifest], lock: &Lock, roots: &BTreeSet<String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<String> = roots.iter().cloned().collect();
    while let Some(name) = waiting.pop() {
        if seen.contains(&name) {
            continue;
        }
        match members.iter().find(|member| member.package == name) {
            Some(member) => waiting.extend(member.production.iter().cloned()),
            None => waiting.extend(lock.get(&name).cloned().unwrap_or_default()),
        }
        seen.insert(name);
    }
    seen
}

// === Manifest ===

impl Manifest {
    /// Reads the manifest of the member in this directory.
    #[must_use]
    pub fn of(directory: &str) -> Self {
        Self::parse(&read(&format!("{directory}/Cargo.toml")))
    }

    /// Reads `name = …`, `name.workspace = …` and `[dependencies.name]`, which is all that our
    /// manifests use.
    fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = "";
        for line in text.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
            }
            if let ("package", Some(name)) = (section, line.strip_prefix("name = ")) {
                name.trim_matches('"').clone_into(&mut manifest.package);
            }
            let (kind, named) = section.split_once("dependencies.").unwrap_or((section, ""));
            let word = line.split(['=', '.']).next().unwrap_or_default().trim();
            let name = if named.is_empty() { word } else { named };
            let is_entry = section.contains("dependencies")
                && !name.is_empty()
                && !name.starts_with(['#', '[']);
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
}

#[test]
fn dependencies_of_production_and_of_tests_are_kept_apart() {
    let text = "[package]\nname = \"a\"\n\n[dependencies]\nb.workspace = true\nc = \"1\"\n\n[dependencies.d]\n\
        version = \"1\"\n\n[dev-dependencies]\n# A comment.\ne = { version = \"1\" }\n\n[[bench]]\nname = \"f\"\n";
    let manifest = Manifest::parse(text);
    assert_eq!(manifest.package, "a");
    let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&manifest.production), "b c d");
    assert_eq!(names(&manifest.all), "b c d e");
}
