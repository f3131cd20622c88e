//! Orphans, clocks in `core`, detached tasks, and what must not be in any file.

use std::collections::BTreeMap;

use hermes_tree::{
    assert_none,
    files::{self, File, lines},
    modules::is_root,
    source,
};

/// What reads a clock, draws random numbers or reaches the operating system.
const IMPURE: [&str; 8] = [
    "Instant",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "thread_rng",
];

/// Where code is that gets its times and random numbers as arguments.
const PURE: [&str; 2] = ["core/src/", "translation/src/"];

/// Where the production code of the planes is, and of what they stand on.
const SERVING: [&str; 4] = [
    "runtime/src/",
    "control-plane/src/",
    "data-plane/src/",
    "proto/src/",
];

#[test]
fn every_file_is_part_of_a_crate() {
    let files = files::ending_in(".rs").into_iter();
    let files: BTreeMap<String, String> = files.map(|file| (file.path, file.text)).collect();
    let mut orphans: Vec<String> = files.keys().cloned().collect();
    orphans.retain(|path| !is_declared(path, &files));
    assert_none(
        &orphans,
        "declare the file by `mod` in its parent, or delete it: nothing compiles it now",
    );
}

#[test]
fn no_test_is_switched_off() {
    let needle = concat!("#[", "ignore");
    let rust = files::ending_in(".rs");
    let ignored = lines(&rust, |_, line| line.trim_start().starts_with(needle));
    assert_none(&ignored, "make the test fast and sure, or delete it");
}

#[test]
fn core_and_translation_read_no_clock_and_no_environment() {
    let mut pure = files::ending_in(".rs");
    pure.retain(|file| PURE.iter().any(|source| file.path.starts_with(source)));
    for file in &mut pure {
        file.text = source::blank(&file.text);
    }
    let impure = lines(&pure, |_, line| {
        IMPURE.iter().any(|word| line.contains(word))
    });
    assert_none(
        &impure,
        "take the age, sample or random number as an argument",
    );
}

#[test]
fn no_task_is_detached() {
    let starts = [
        "tokio::spawn(",
        "tokio::task::spawn(",
        "let _ = tokio::spawn(",
    ];
    let detached = lines(&serving(), |_, line| {
        starts
            .iter()
            .any(|start| line.trim_start().starts_with(start))
    });
    assert_none(
        &detached,
        "give the task an owner: `hermes_runtime::tasks::Tasks`, a `JoinSet`, or a handle that aborts",
    );
}

/// Tasks of the control plane that may end by a panic, and what then restarts them.
const OWN_TASKS: [(&str, &str); 2] = [
    ("app/config_feed.rs", "the task `config` ends with it"),
    ("engines/key.rs", "the next probe reads again"),
];

#[test]
fn tasks_of_the_control_plane_outlive_a_panic() {
    let mut files = serving();
    files.retain(|file| file.path.starts_with("control-plane/src/"));
    files.retain(|file| !OWN_TASKS.iter().any(|(own, _)| file.path.ends_with(own)));
    let bare = lines(&files, |_, line| line.contains("tokio::spawn("));
    assert_none(
        &bare,
        "use `hermes_runtime::tasks`: a task that dies by a panic must not leave a pool without what it did",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("for ", "now"),
        concat!("as ", "requested"),
    ];
    let left = lines(&files::ending_in(".rs"), |_, line| {
        let comment = line.split_once("//").map_or("", |(_, comment)| comment);
        words.iter().any(|word| comment.contains(word))
    });
    assert_none(
        &left,
        "do it, or write an issue; a comment says what is, not what might be",
    );
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let homes = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/"),
    ];
    let endings = [".rs", ".toml", ".md", ".yaml", ".proto", ".json", ".sh"];
    let temporary = concat!("\"/t", "mp/");
    let mut files = files::all();
    files.retain(|file| endings.iter().any(|ending| file.path.ends_with(ending)));
    let complaints = lines(&files, |file, line| {
        let is_home = homes.iter().any(|home| line.contains(home));
        is_home || file.path.ends_with(".rs") && line.contains(temporary)
    });
    assert_none(
        &complaints,
        "use a path below the repository, or `tempfile` in tests",
    );
}

/// The production code of the planes, without comments and strings.
fn serving() -> Vec<File> {
    let mut files = files::ending_in(".rs");
    files.retain(|file| SERVING.iter().any(|source| file.path.starts_with(source)));
    files.retain(|file| !file.path.contains("/tests/") && !file.path.ends_with("/tests.rs"));
    for file in &mut files {
        file.text = source::production(&file.text);
    }
    files
}

/// Whether `path` is the root of a target, or its parent module declares it.
fn is_declared(path: &str, files: &BTreeMap<String, String>) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else {
        return true;
    };
    if is_root(path) {
        return true;
    }
    let declaration = format!("mod {};", name.trim_end_matches(".rs"));
    let parents = [
        format!("{folder}.rs"),
        format!("{folder}/lib.rs"),
        format!("{folder}/main.rs"),
    ];
    let mut texts = parents.iter().filter_map(|parent| files.get(parent));
    texts.any(|text| text.contains(&declaration))
}

#[test]
fn the_check_itself_distinguishes_orphans_from_modules() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = BTreeMap::from([
        file("core/src/lib.rs", "pub mod pick;"),
        file("core/src/pick.rs", "mod cost;"),
        file("core/src/pick/cost.rs", ""),
        file("core/src/pick/lost.rs", ""),
        file("integration/e2e/tests/it/main.rs", "mod route;"),
        file("integration/e2e/tests/it/route.rs", ""),
        file("integration/e2e/tests/it/forgotten.rs", ""),
    ]);
    let mut orphans: Vec<&String> = files.keys().collect();
    orphans.retain(|path| !is_declared(path, &files));
    assert_eq!(
        orphans,
        [
            "core/src/pick/lost.rs",
            "integration/e2e/tests/it/forgotten.rs"
        ]
    );
}
