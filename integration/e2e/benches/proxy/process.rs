//! Child processes: started with room for many connections, measured through `/proc`, and ended
//! with all they started.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hermes_bench::processes::ProcessTable;
use tokio::process::{Child, Command};

/// Starts this binary in another role, with its standard input and output piped; it dies with the
/// handle.
pub fn itself(role: &str) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// A process of a contender and everything it has started; killed when dropped.
#[derive(Debug)]
pub struct Tree {
    root: u32,
    _child: Child,
}

/// Use of the machine so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory; pages that processes of one tree share are counted in each.
    pub resident_kib: u64,
}

impl Tree {
    /// Starts `program`, its output going to `log`, with as many open files as the system grants.
    pub fn start(program: &Path, args: &[String], log: &Path) -> io::Result<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let child = Command::new("/bin/sh")
            .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let root = child
            .id()
            .ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Self {
            root,
            _child: child,
        })
    }

    /// What the whole tree has used.
    pub fn usage(&self) -> Usage {
        let table = ProcessTable::read();
        let tree = table.tree(self.root);
        Usage {
            cpu: table.cpu(self.root).unwrap_or_default(),
            resident_kib: tree.into_iter().map(resident_kib).sum(),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let pids = ProcessTable::read().tree(self.root);
        // Benches need no grace, and a parent that is killed first could not start more.
        let pids = pids.iter().map(u32::to_string);
        _ = std::process::Command::new("kill")
            .arg("-KILL")
            .args(pids)
            .stderr(Stdio::null())
            .status();
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}
