//! `generated/hermes.v1.rs` is what `proto/hermes/v1/*.proto` says.

use std::{fs, path::Path};

use tempfile::tempdir;

const GENERATED: &str = "hermes.v1.rs";

/// The code is part of the repository, so that a build of a binary compiles no code generator.
#[test]
fn the_generated_code_equals_the_proto_files() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.join("proto");
    let output = tempdir().expect("a folder for the output");
    let files = protox::compile([root.join("hermes/v1/router.proto")], [root])
        .expect("the proto files compile");
    tonic_prost_build::configure()
        .bytes(".hermes.v1.PromptText")
        .bytes(".hermes.v1.FromControlPlane")
        .out_dir(output.path())
        .emit_rerun_if_changed(false)
        .compile_fds(files)
        .expect("the code is generated");

    let new = fs::read_to_string(output.path().join(GENERATED)).expect("the generated code");
    let path = crate_folder.join("generated").join(GENERATED);
    if fs::read_to_string(&path).unwrap_or_default() == new {
        return;
    }
    fs::write(&path, new).expect("a writable repository");
    panic!("generated/{GENERATED} was out of date and is regenerated: commit it, and test again");
}
