//! Generates the `hermes.v1` messages without `protoc`.

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([root.join("hermes/v1/router.proto")], [root])?;
    tonic_prost_build::configure()
        .bytes(".hermes.v1.PromptText")
        .bytes(".hermes.v1.FromControlPlane")
        .compile_fds(files)?;
    Ok(())
}
