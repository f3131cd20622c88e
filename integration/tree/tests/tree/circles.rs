//! Modules form no circles: at each level, siblings can be ordered so that none imports from one
//! above it.

use hermes_tree::{
    arrows::{arrows, circles_of_siblings},
    assert_none, files,
    modules::targets,
};

#[test]
fn sibling_modules_form_no_circle() {
    let mut complaints = Vec::new();
    for target in targets(&files::ending_in(".rs")) {
        complaints.extend(circles_of_siblings(&target, &arrows(&target)));
    }
    assert_none(
        &complaints,
        "move what both name into a module of its own, or into their parent; what counts is in \
         integration/tree/src/arrows.rs",
    );
}

#[test]
fn the_check_itself_reads_the_modules_of_every_crate() {
    let targets = targets(&files::ending_in(".rs"));
    for root in [
        "core/src/lib.rs",
        "data-plane/src/lib.rs",
        "hermes/src/main.rs",
    ] {
        let target = targets.iter().find(|target| target.root == root);
        let target = target.expect("each crate has a root");
        assert!(target.files.len() > 5, "{root} has modules");
        assert!(arrows(target).len() > 5, "{root} has imports");
    }
}
