//! The limit of open files: every connection is one.
//!
//! Processes often start with a soft limit of 1,024, which is for programs that use `select`. A
//! plane with hundreds of endpoints needs more, and may take what the hard limit allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for any plane; where the hard limit is higher or absent, this is taken.
const ENOUGH: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard limit, and logs it.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!(
            before = current,
            now = wanted,
            "raised the limit of open files"
        ),
        Err(error) => tracing::warn!(
            limit = current,
            wanted,
            %error,
            "the limit of open files cannot be raised: connections fail beyond it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(512),
            maximum,
        };
        setrlimit(Resource::Nofile, low).expect("a lower limit");
        raise_limit();
        let expected = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
        assert_eq!(getrlimit(Resource::Nofile).current, Some(expected));
    }
}
