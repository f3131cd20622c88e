//! Hermes as a picker, and Envoys beside it.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::envoy::{self, EnvoyPorts};
use crate::process::Tree;
use crate::{BenchError, failed};

/// How long a process may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A process that listens, and its files.
pub struct Served {
    /// On 127.0.0.1; that of gateways, of a picker.
    pub port: u16,
    /// Its use of the machine.
    pub process: Tree,
    files: TempDir,
}

/// `hermes serve`: both planes, `kv-aware`.
pub async fn picker(hermes: &Path, endpoints: &[u16]) -> Result<Served, BenchError> {
    let port = free_port().map_err(failed("find a free port"))?;
    let listen = format!("127.0.0.1:{port}");
    let mut args: Vec<String> = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        .map(str::to_owned)
        .to_vec();
    args.extend(["--picker-listen".to_owned(), listen]);
    for port in endpoints {
        args.extend(["--endpoint".to_owned(), format!("http://127.0.0.1:{port}")]);
    }
    served(hermes, port, |_| Ok(args)).await
}

/// An Envoy that asks the picker at this port.
pub async fn asking(picker: u16) -> Result<Served, BenchError> {
    envoy(|ports| envoy::asking(ports, picker)).await
}

/// An Envoy without a picker.
pub async fn alone(backends: &[u16]) -> Result<Served, BenchError> {
    envoy(|ports| envoy::alone(ports, backends)).await
}

async fn envoy(
    config: impl FnOnce(EnvoyPorts) -> io::Result<String>,
) -> Result<Served, BenchError> {
    let free = || free_port().map_err(failed("find a free port"));
    let ports = EnvoyPorts {
        clients: free()?,
        admin: free()?,
    };
    let workers = std::thread::available_parallelism().map_err(failed("count cores"))?;
    served(&envoy::binary(), ports.clients, |files| {
        let file = files.join("envoy.yaml");
        std::fs::write(&file, config(ports)?)?;
        let file = file.display().to_string();
        let args = [
            "-c",
            &file,
            "--concurrency",
            &workers.to_string(),
            "-l",
            "error",
        ];
        let mut args = args.map(str::to_owned).to_vec();
        args.push("--use-dynamic-base-id".to_owned());
        Ok(args)
    })
    .await
}

async fn served(
    program: &Path,
    port: u16,
    args: impl FnOnce(&Path) -> io::Result<Vec<String>>,
) -> Result<Served, BenchError> {
    if !program.exists() {
        let missing = format!("there is no {}", program.display());
        return Err(failed("start a process")(io::Error::other(missing)));
    }
    let files = TempDir::new().map_err(failed("make a folder"))?;
    let args = args(files.path()).map_err(failed("write a configuration"))?;
    let process = Tree::start(program, &args, &files.path().join("log"));
    let process = process.map_err(failed("start a process"))?;
    let served = Served {
        port,
        process,
        files,
    };
    served.listens().await?;
    Ok(served)
}

impl Served {
    /// Where its clients go.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn listens(&self) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.files.path().join("log"));
                let log = log.unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last = io::Error::other(last.join(" | "));
                return Err(failed("connect to a process")(last));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// `dist/hermes` in the target folder that cargo builds into.
pub fn default_binary() -> PathBuf {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = this_crate.ancestors().nth(2).unwrap_or(this_crate);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join("dist").join("hermes")
}

/// A port that was free a moment ago.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
