//! Memory for frames in flight, in bytes, shared out to bounded channels.

use upscaled_core::config::settings::RunSettings;
use upscaled_core::types::engine::ResourceShare;

use crate::scratch::memory;

const MIB: u64 = 1 << 20;
/// Most that is taken for frames in flight when no limit is set, and least.
const MOST: u64 = 768 * MIB;
const LEAST: u64 = 48 * MIB;

/// Bytes that the engine's sessions may take: half of what this process may ever take, or
/// half of `memory_limit_mb` where it is set. Not of what is free at the moment: what is chosen by
/// it must be the same next time.
pub fn engine_bytes(settings: &RunSettings) -> u64 {
    match settings.memory_limit_mb.saturating_mul(MIB) {
        0 => memory::whole() / 2,
        limit => limit / 2,
    }
}

/// The settings of a job that has a part of the RAM disk, and half of it in each step down in memory. No bit of an
/// output depends on it.
pub fn with_smaller_disk(settings: &RunSettings, share: ResourceShare) -> RunSettings {
    let part = |mb: u64| mb.checked_shr(share.lean).unwrap_or(0) / u64::from(share.together.max(1));
    let smaller = |mb: u64| if mb == 0 { 0 } else { part(mb).max(1) };
    RunSettings { ramdisk_limit_mb: smaller(settings.ramdisk_limit_mb), ..settings.clone() }
}

/// What is left to give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// A job's part of a quarter of what memory is free, within 48 and 768 MiB, or of a quarter of `memory_limit_mb`
    /// where it is set (the rest is for the model, the codecs and the program); a quarter of that in each step down.
    pub fn new(settings: &RunSettings, share: ResourceShare) -> Budget {
        let limit = settings.memory_limit_mb.saturating_mul(MIB);
        let all = if limit == 0 { (memory::room() / 4).min(MOST) } else { limit / 4 };
        Budget::of((all / u64::from(share.together.max(1))).max(LEAST)).leaner(share.lean)
    }

    pub fn of(bytes: u64) -> Budget {
        Budget { left: bytes }
    }

    /// A quarter in each of so many steps.
    fn leaner(self, steps: u32) -> Budget {
        Budget { left: self.left.checked_shr(2 * steps).unwrap_or(0) }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes room for items of `bytes` each: as many as `most`, as few as `least` (which is
    /// given even when nothing is left: a channel must hold something).
    pub fn slots(&mut self, bytes: u64, least: usize, most: usize) -> usize {
        let fitting = usize::try_from(self.left / bytes.max(1)).unwrap_or(usize::MAX);
        let slots = fitting.min(most).max(least);
        self.left = self.left.saturating_sub(bytes.saturating_mul(slots as u64));
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_out_what_there_is() {
        let mut budget = Budget::of(100);
        assert_eq!((budget.slots(10, 1, 4), budget.left()), (4, 60));
        assert_eq!((budget.slots(25, 1, 16), budget.left()), (2, 10));
        assert_eq!((budget.slots(50, 2, 4), budget.left()), (2, 0));
        assert_eq!(budget.slots(0, 1, 3), 1);
        assert_eq!(Budget::of(u64::MAX).slots(1, 0, usize::MAX), usize::MAX);
        assert_eq!(Budget::of(9).slots(u64::MAX, 3, 8), 3);
    }

    #[test]
    fn less_and_less_is_never_no_limit() {
        assert_eq!((Budget::of(64).leaner(0).left(), Budget::of(64).leaner(2).left()), (64, 4));
        assert_eq!(Budget::of(u64::MAX).leaner(40).left(), 0);
        let disk = |mb, lean, together| {
            let settings = RunSettings { ramdisk_limit_mb: mb, ..RunSettings::default() };
            with_smaller_disk(&settings, ResourceShare { together, lean }).ramdisk_limit_mb
        };
        assert_eq!((disk(100, 0, 1), disk(100, 2, 1), disk(100, 99, 1), disk(0, 3, 2)), (100, 25, 1, 0));
        assert_eq!((disk(100, 0, 2), disk(100, 1, 5), disk(3, 0, 32), disk(100, 0, 0)), (50, 10, 1, 100));
    }

    #[test]
    fn follows_the_setting_within_bounds() {
        let part =
            |mb, share| Budget::new(&RunSettings { memory_limit_mb: mb, ..RunSettings::default() }, share).left();
        let with = |mb| part(mb, ResourceShare::WHOLE);
        assert_eq!(part(4096, ResourceShare { together: 4, lean: 1 }), 64 * MIB);
        assert_eq!(part(4096, ResourceShare { together: 1000, lean: 0 }), LEAST);
        assert_eq!(with(4096), 1024 * MIB);
        assert_eq!(with(1), LEAST);
        assert!((LEAST..=MOST).contains(&with(0)));
        assert!(with(u64::MAX) > MOST);
    }
}
