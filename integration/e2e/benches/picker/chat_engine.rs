//! A simulated engine that streams at the pace of a real one.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::process::Tree;
use crate::scene::free_port;

/// A running engine. Its own cost counts for nothing here.
pub struct ChatEngine {
    /// On 127.0.0.1.
    pub port: u16,
    _process: Tree,
    _files: TempDir,
}

impl ChatEngine {
    /// Starts one.
    pub fn start(hermes: &Path) -> io::Result<Self> {
        let files = TempDir::new()?;
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let args = ["engine", "--listen", &listen, "--prefill-rate", "200000"];
        let args = args.map(str::to_owned);
        Ok(Self {
            port,
            _process: Tree::start(hermes, &args, &files.path().join("log"))?,
            _files: files,
        })
    }
}
