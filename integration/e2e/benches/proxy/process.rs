//! Child processes: started with room for many connections, measured through `/proc`, and ended
//! with all they started.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

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
        let all = Entry::all();
        let mut usage = Usage::default();
        for pid in descendants(&all, self.root) {
            let entry = &all[&pid];
            usage.cpu += entry.cpu;
            usage.resident_kib += resident_kib(pid);
        }
        usage
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let pids = descendants(&Entry::all(), self.root);
        // Benches need no grace, and a parent that is killed first could not start more.
        let pids = pids.iter().map(u32::to_string);
        _ = std::process::Command::new("kill")
            .arg("-KILL")
            .args(pids)
            .stderr(Stdio::null())
            .status();
    }
}

/// One line of the process table.
struct Entry {
    parent: u32,
    cpu: Duration,
}

impl Entry {
    fn all() -> BTreeMap<u32, Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return BTreeMap::new();
        };
        let pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Self::parse(&stat)?))
        })
        .collect()
    }

    /// Reads `stat` of proc(5). The second field is a name in parentheses, which may hold anything,
    /// so counting starts after the last parenthesis: state, parent, …, and 12 fields on utime,
    /// stime, cutime and cstime.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = fields
            .get(11..15)?
            .iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            cpu: Duration::from_millis(ticks * MILLIS_PER_TICK),
        })
    }
}

/// Linux reports times to programs in hundredths of a second (`USER_HZ`) on all common
/// architectures.
const MILLIS_PER_TICK: u64 = 10;

/// `root` and all below it that are alive.
fn descendants(all: &BTreeMap<u32, Entry>, root: u32) -> Vec<u32> {
    let mut found: Vec<u32> = all
        .contains_key(&root)
        .then_some(root)
        .into_iter()
        .collect();
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            all.iter()
                .filter(|(_, entry)| entry.parent == parent)
                .map(|(&pid, _)| pid),
        );
        next += 1;
    }
    found
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}
