//! File descriptors: as many as the connections need, as far as the system gives them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Kept for files, pipes and sockets of the program's own.
const OWN: u64 = 512;
/// Connections of a listener, however little there is.
const LEAST: usize = 16;

/// Connections that a listener may have out of `wanted`, beside so many listeners of this process in all: raises the
/// limit of open files for that, and tells where it cannot be.
pub fn room(wanted: usize, listeners: usize) -> usize {
    let listeners = listeners.max(1) as u64;
    let need = OWN + wanted as u64 * listeners;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return LEAST };
    let mut limit = soft;
    if soft < need && hard > soft {
        let raised = need.min(hard);
        match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!("the limit of open files cannot be raised from {soft} to {raised}: {error}"),
        }
    }
    let room = connections(limit, wanted, listeners);
    if room < wanted {
        tracing::warn!(
            "{room} connections at a time, not {wanted}: this process may have {limit} open files, and {need} would be \
             needed (LimitNOFILE of its unit, or ulimit -n)"
        );
    }
    room
}

fn connections(limit: u64, wanted: usize, listeners: u64) -> usize {
    let room = limit.saturating_sub(OWN) / listeners;
    usize::try_from(room).unwrap_or(usize::MAX).clamp(LEAST.min(wanted), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_shared_out() {
        assert_eq!(connections(1 << 20, 4096, 3), 4096);
        assert_eq!(connections(1024, 4096, 1), 512);
        assert_eq!(connections(1024, 4096, 3), 170);
        assert_eq!(connections(256, 4096, 3), LEAST);
        assert_eq!(connections(256, 4, 1), 4);
    }

    #[test]
    fn the_limit_is_raised() {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let wanted = usize::try_from(hard.min(before + 8)).unwrap().saturating_sub(OWN as usize).max(1);
        let room = room(wanted, 1);
        let (after, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(room, wanted);
        assert!(after >= OWN + wanted as u64 && after >= before);
    }

    #[test]
    fn the_units_give_as_many_as_are_wanted() {
        let limits = crate::server::kit::limits::Limits::default();
        let need = OWN + (limits.connections * limits.listeners) as u64;
        for unit in [
            include_str!("../../../../../systemd/upscaled.service"),
            include_str!("../../../../../systemd/upscaled-worker@.service"),
        ] {
            let given = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")?.parse::<u64>().ok());
            assert!(given >= Some(need), "{given:?}, and {need} are wanted");
        }
    }
}
