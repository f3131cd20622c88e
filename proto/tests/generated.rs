//! The files of `generated` are what those of `proto` say.

use std::{fs, path::Path};

use tempfile::tempdir;

/// The root of each service, and the file that is generated for its package.
const SERVICES: [(&str, &str); 3] = [
    ("hermes/v1/router.proto", "hermes.v1.rs"),
    (
        "envoy/service/ext_proc/v3/external_processor.proto",
        "envoy.service.ext_proc.v3.rs",
    ),
    ("grpc/health/v1/health.proto", "grpc.health.v1.rs"),
];

/// What encodes and decodes the messages of a service, if not tonic's own.
const CODECS: [(&str, &str); 1] = [(
    "envoy.service.ext_proc.v3.rs",
    "crate::small_buffers::SmallBufferCodec",
)];

/// Fields whose bytes are kept as they arrive, without a copy.
const SHARED_BYTES: [&str; 4] = [
    ".hermes.v1.PromptText",
    ".hermes.v1.FromControlPlane",
    ".envoy.service.ext_proc.v3",
    ".grpc.health.v1",
];

/// Messages whose `Debug` is written by hand: a field of theirs is a key.
const SECRET: [&str; 1] = [".hermes.v1.CertificatePem"];

/// The code is part of the repository, so that a build of a binary compiles no code generator.
#[test]
fn the_generated_code_equals_the_proto_files() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.join("proto");
    let mut outdated = Vec::new();
    for (service, generated) in SERVICES {
        let output = tempdir().expect("a folder for the output");
        let files =
            protox::compile([root.join(service)], [&root]).expect("the proto files compile");
        let builder = SHARED_BYTES
            .into_iter()
            .fold(tonic_prost_build::configure(), |builder, path| {
                builder.bytes(path)
            });
        let codec = CODECS.iter().find(|(service, _)| *service == generated);
        let builder = match codec {
            Some((_, codec)) => builder.codec_path(codec),
            None => builder,
        };
        builder
            .skip_debug(SECRET)
            .out_dir(output.path())
            .emit_rerun_if_changed(false)
            .compile_fds(files)
            .expect("the code is generated");
        let new = fs::read_to_string(output.path().join(generated)).expect("the generated code");
        let path = crate_folder.join("generated").join(generated);
        if fs::read_to_string(&path).unwrap_or_default() != new {
            fs::write(&path, new).expect("a writable repository");
            outdated.push(generated);
        }
    }
    assert!(
        outdated.is_empty(),
        "{outdated:?} in `generated` are written again: commit them, and test again"
    );
}
