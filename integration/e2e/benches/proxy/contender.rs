//! The proxies under test: how each is started in front of the same two backends, and how it is
//! known to be ready.
//!
//! Each is configured for what Hermes does too: keep-alive on both sides, no buffering of answers,
//! no access log, and turns taken between the backends, unless its name says otherwise.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermes_bench::load::client::{Client, Limits, Target};
use hermes_bench::load::exchange::Outcome;
use hermes_bench::load::workload::{Message, Shape};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, MODEL};
use crate::process::{Tree, Usage};
use crate::{BenchError, failed, say};

mod hermes;
mod peers;

/// How long a proxy may take to serve its first request.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running proxy.
#[derive(Debug)]
pub struct Contender {
    /// As in the table.
    pub name: &'static str,
    /// Where its load goes.
    pub url: String,
    processes: Vec<Tree>,
    /// Configuration and log files.
    _files: Option<TempDir>,
}

impl Contender {
    /// What all its processes have used.
    pub fn usage(&self) -> Usage {
        self.processes
            .iter()
            .map(Tree::usage)
            .fold(Usage::default(), |sum, usage| Usage {
                cpu: sum.cpu + usage.cpu,
                resident_kib: sum.resident_kib + usage.resident_kib,
            })
    }

    /// Whether this is no proxy at all, but the floor to compare with.
    pub fn is_direct(&self) -> bool {
        self.processes.is_empty()
    }
}

/// Which contenders to start.
#[derive(Debug)]
pub struct Wanted {
    /// The Hermes binary, if not the default one.
    pub hermes: Option<PathBuf>,
    /// Names; all when empty.
    pub only: Vec<String>,
}

/// How to start one contender.
pub struct Recipe {
    name: &'static str,
    start: fn(&Site<'_>) -> io::Result<Vec<Command>>,
}

/// A process to start.
pub struct Command {
    program: PathBuf,
    args: Vec<String>,
}

/// What a recipe has to work with.
pub struct Site<'a> {
    hermes: &'a Path,
    backends: &'a [Backend],
    folder: &'a Path,
    port: u16,
}

impl Site<'_> {
    fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

impl Wanted {
    /// Starts all that are wanted and installed, and waits until each serves.
    pub async fn start(&self, backends: &[Backend]) -> Result<Vec<Contender>, BenchError> {
        let hermes = self.hermes.clone().unwrap_or_else(hermes::default_binary);
        let direct = Contender {
            name: "direct",
            url: backends[0].url.clone(),
            processes: Vec::new(),
            _files: None,
        };
        let mut contenders = vec![direct];
        for recipe in peers::RECIPES.iter().chain(hermes::RECIPES) {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == recipe.name) {
                continue;
            }
            match start(recipe, &hermes, backends).await {
                Ok(contender) => contenders.push(contender),
                Err(reason) => say(&format!("{}: skipped, {reason}", recipe.name)),
            }
        }
        Ok(contenders)
    }
}

async fn start(
    recipe: &Recipe,
    hermes: &Path,
    backends: &[Backend],
) -> Result<Contender, BenchError> {
    let files = TempDir::new().map_err(failed("make a folder for its files"))?;
    let port = free_port().map_err(failed("find a free port"))?;
    let site = Site {
        hermes,
        backends,
        folder: files.path(),
        port,
    };
    let commands = (recipe.start)(&site).map_err(failed("prepare it"))?;
    if let Some(missing) = commands.iter().find(|command| !command.program.exists()) {
        let missing = missing.program.display();
        return Err(failed("start it")(io::Error::other(format!(
            "there is no {missing}"
        ))));
    }
    let log = files.path().join("log");
    let started = commands
        .iter()
        .map(|command| Tree::start(&command.program, &command.args, &log));
    let processes = started
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("start it"))?;
    let url = format!("http://{}", site.listen());
    if !serves(&url).await {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        return Err(failed("get an answer from it")(io::Error::other(
            last.join(" | "),
        )));
    }
    Ok(Contender {
        name: recipe.name,
        url,
        processes,
        _files: Some(files),
    })
}

/// Asks until a chat request is answered well.
async fn serves(url: &str) -> bool {
    let Ok(target) = Target::parse(url) else {
        return false;
    };
    let client = Client::new(target, Limits::answer_within(Duration::from_secs(5)));
    let shape = Shape {
        model: MODEL.to_owned(),
        stream: false,
        ignore_eos: false,
    };
    let call = shape.chat(
        &[Message {
            role: "user",
            content: "ready?".to_owned(),
        }],
        1,
    );
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if client.send(call.clone(), Instant::now()).await.outcome == Outcome::Ok {
            return true;
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

/// A port that was free a moment ago; proxies need theirs as an argument.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn strings<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).to_vec()
}
