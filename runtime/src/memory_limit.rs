//! The memory that this process may take, as its control group limits it.
//!
//! In a container the files below are those of the container itself: it has a namespace of control
//! groups of its own (`cgroup_namespaces(7)`). Elsewhere they are the root's, which has no limit.

use std::{fs, path::Path};

/// The limit by version 2 of control groups, then by version 1.
const FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// From this on a limit is none: version 1 writes the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that this process may take; `None` where nothing limits it.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    FILES.iter().find_map(|file| read(Path::new(file)))
}

fn read(file: &Path) -> Option<u64> {
    let limit = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < NO_LIMIT).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_no_limit_are_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let read_of = |text: &str| {
            let file = folder.path().join("limit");
            fs::write(&file, text).expect("writable");
            read(&file)
        };
        assert_eq!(read_of("3221225472\n"), Some(3 << 30));
        assert_eq!(read_of("max\n"), None);
        assert_eq!(read_of("9223372036854771712\n"), None);
        assert_eq!(read(&folder.path().join("absent")), None);
    }
}
