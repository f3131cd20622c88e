//! Hermes, as one process and as two planes.

use std::io;
use std::path::{Path, PathBuf};

use super::{Command, Recipe, Site, free_port, strings};

/// `local`: both planes in one process, taking turns. `scored`: the planes as two processes and a
/// scoring call for each request; the CPU of both counts. `pair`: `local`, with each request split
/// between one backend that computes prompts and one that generates.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "hermes-local",
        start: local,
    },
    Recipe {
        name: "hermes-scored",
        start: scored,
    },
    Recipe {
        name: "hermes-pair",
        start: pair,
    },
];

/// `dist/hermes` in the target folder that cargo builds into.
pub fn default_binary() -> PathBuf {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = this_crate.ancestors().nth(2).unwrap_or(this_crate);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join("dist").join("hermes")
}

fn local(site: &Site<'_>) -> io::Result<Vec<Command>> {
    let admin = format!("127.0.0.1:{}", free_port()?);
    let mut args = strings([
        "serve",
        "--strategy",
        "round-robin",
        "--listen",
        &site.listen(),
        "--admin",
        &admin,
    ]);
    args.extend(
        site.backends
            .iter()
            .flat_map(|backend| ["--endpoint".to_owned(), backend.url.clone()]),
    );
    Ok(vec![Command {
        program: site.hermes.to_owned(),
        args,
    }])
}

fn pair(site: &Site<'_>) -> io::Result<Vec<Command>> {
    let [prefill, decode] = site.backends else {
        return Err(io::Error::other("a pair needs two backends"));
    };
    let config = format!(
        "pools:\n- name: bench\n  engine: vllm\n  strategy: round-robin\n  disaggregation:\n    dialect: vllm-nixl\n    \
         minUncachedTokens: 0\n    prefill: [\"{}\"]\n    decode: [\"{}\"]\n",
        prefill.url, decode.url
    );
    let config = site.write("hermes.yaml", &config)?;
    let admin = format!("127.0.0.1:{}", free_port()?);
    let args = strings([
        "serve",
        "--config",
        &config,
        "--listen",
        &site.listen(),
        "--admin",
        &admin,
    ]);
    Ok(vec![Command {
        program: site.hermes.to_owned(),
        args,
    }])
}

fn scored(site: &Site<'_>) -> io::Result<Vec<Command>> {
    let urls: Vec<&str> = site
        .backends
        .iter()
        .map(|backend| backend.url.as_str())
        .collect();
    let config = format!(
        "pools:\n- name: bench\n  engine: vllm\n  strategy: kv-aware\n  endpoints: [\"{}\"]\n",
        urls.join("\", \"")
    );
    let config = site.write("hermes.yaml", &config)?;
    let address = || free_port().map(|port| format!("127.0.0.1:{port}"));
    let (control, control_admin, data_admin) = (address()?, address()?, address()?);
    let beside = |name: &str| site.hermes.with_file_name(name);
    let control_args = strings([
        "--config",
        &config,
        "--listen",
        &control,
        "--admin",
        &control_admin,
    ]);
    let control_url = format!("http://{control}");
    let data_args = strings([
        "--control-plane",
        &control_url,
        "--listen",
        &site.listen(),
        "--admin",
        &data_admin,
    ]);
    Ok(vec![
        Command {
            program: beside("hermes-control-plane"),
            args: control_args,
        },
        Command {
            program: beside("hermes-data-plane"),
            args: data_args,
        },
    ])
}
