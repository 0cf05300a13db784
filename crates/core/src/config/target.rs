//! How large the output is to be: a scale, a size to fit into, a height, or a task's name.

use anyhow::Result;

use crate::config::settings::JobSettings;
use crate::fault::Fault;

/// Most times larger than the source, in each direction.
pub const FACTOR_MAX: u32 = 8;
/// The settings of which the nearest layer that names one counts.
pub const NAMES: [&str; 4] = ["scale", "size", "height", "task"];
/// Tasks by name, and their scale.
pub const TASKS: [(&str, u32); 4] = [("SD2HD", 2), ("HD24K", 2), ("4K28K", 2), ("SD24K", 4)];
/// The same names, for messages.
pub const TASK_NAMES: &[&str] = &["SD2HD", "HD24K", "4K28K", "SD24K"];

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many times as wide and high.
    Scale(u32),
    /// As large as fits into this width and height, as displayed.
    Size(u32, u32),
    /// This height, as displayed.
    Height(u32),
}

impl Target {
    /// The target of a job; of several settings the one that names a task, a size or a height.
    pub fn of(settings: &JobSettings) -> Target {
        let task = settings.task.as_ref().and_then(|task| TASKS.iter().find(|(name, _)| name == task));
        match (task, settings.size, settings.height) {
            (Some((_, scale)), _, _) => Target::Scale(*scale),
            (_, Some((width, height)), _) => Target::Size(width, height),
            (_, _, Some(height)) => Target::Height(height),
            _ => Target::Scale(settings.scale),
        }
    }

    /// The size in pixels that a source of this size becomes, never distorted.
    ///
    /// `turned`: it is displayed rotated by a quarter. `step`: what width and height have to be
    /// multiples of where the target leaves a choice (2 for subsampled chroma).
    ///
    /// # Errors
    /// [`Fault::Unsupported`] when that is not larger than the source, or too large.
    pub fn size(self, source: (u32, u32), turned: bool, step: (u32, u32)) -> Result<(u32, u32)> {
        let (w, h) = (u64::from(source.0.max(1)), u64::from(source.1.max(1)));
        let step = (u64::from(step.0), u64::from(step.1));
        let near =
            |length: u64, of: u64, by: u64, step: u64| ((2 * length * by + of * step) / (2 * of * step)).max(1) * step;
        let (width, height) = match self {
            Target::Scale(scale) => (w * u64::from(scale), h * u64::from(scale)),
            Target::Size(wide, high) => {
                let (wide, high) = if turned { (high, wide) } else { (wide, high) };
                let (wide, high) = (u64::from(wide), u64::from(high));
                let (wide, high) = ((wide - wide % step.0).max(step.0), (high - high % step.1).max(step.1));
                if wide * h <= high * w {
                    (wide, near(h, w, wide, step.1).min(high))
                } else {
                    (near(w, h, high, step.0).min(wide), high)
                }
            }
            Target::Height(high) if turned => (u64::from(high), near(h, w, u64::from(high), step.1)),
            Target::Height(high) => (near(w, h, u64::from(high), step.0), u64::from(high)),
        };
        let shown = |(a, b): (u64, u64)| if turned { format!("{b}x{a}") } else { format!("{a}x{b}") };
        let source = shown((w, h));
        if width < w || height < h || (width, height) == (w, h) {
            let becomes = shown((width, height));
            let smallest = shown((2 * w, 2 * h));
            return Err(Fault::Unsupported.because(format!(
                "the source is {source} and {self} makes it {becomes}, which is not larger; set a larger one, or \
                 scale = 2 for {smallest}"
            )));
        }
        let most = u64::from(FACTOR_MAX);
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(wide), Ok(high)) if width <= most * w.max(step.0) && height <= most * h.max(step.1) => Ok((wide, high)),
            _ => {
                let becomes = shown((width, height));
                let largest = shown((most * w, most * h));
                Err(Fault::Unsupported.because(format!(
                    "the source is {source} and {self} makes it {becomes}; at most {FACTOR_MAX} times is possible, \
                     {largest}"
                )))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Scale(scale) => write!(f, "scale = {scale}"),
            Target::Size(width, height) => write!(f, "size = {width}x{height}"),
            Target::Height(height) => write!(f, "height = {height}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVEN: (u32, u32) = (2, 2);

    #[test]
    fn sizes_people_ask_for() {
        for (target, source, turned, step, want) in [
            (Target::Scale(3), (161, 121), false, EVEN, (483, 363)),
            (Target::Size(3840, 2160), (1920, 1080), false, EVEN, (3840, 2160)),
            (Target::Size(3840, 2160), (854, 480), false, EVEN, (3840, 2158)),
            (Target::Size(3840, 2160), (720, 576), false, EVEN, (2700, 2160)),
            (Target::Size(3840, 2160), (1920, 1080), true, EVEN, (2160, 1216)),
            (Target::Size(2160, 3840), (1920, 1080), true, EVEN, (3840, 2160)),
            (Target::Size(1921, 1081), (321, 241), false, EVEN, (1438, 1080)),
            (Target::Height(720), (320, 240), false, EVEN, (960, 720)),
            (Target::Height(1080), (854, 480), false, EVEN, (1922, 1080)),
            (Target::Height(1081), (854, 480), false, (1, 1), (1923, 1081)),
            (Target::Height(640), (480, 272), true, EVEN, (640, 362)),
            (Target::Size(8, 8), (1, 1), false, EVEN, (8, 8)),
        ] {
            assert_eq!(target.size(source, turned, step).unwrap(), want, "{target} of {source:?}");
        }
    }

    #[test]
    fn refusals_tell_the_sizes() {
        let words = |target: Target, turned| {
            let error = target.size((1920, 1080), turned, EVEN).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Unsupported);
            error.to_string()
        };
        let small = words(Target::Height(720), false);
        assert!(small.contains("1920x1080") && small.contains("1280x720") && small.contains("scale = 2"), "{small}");
        assert!(words(Target::Size(1920, 1080), false).contains("not larger"));
        assert!(words(Target::Size(1080, 1920), true).starts_with("the source is 1080x1920"));
        assert!(words(Target::Height(16384), false).contains("15360x8640"));
    }

    proptest! {
        /// Inside the box, in proportion to a step, even where it must be.
        #[test]
        fn fitted_is_never_distorted(
            (w, h) in (1u32..3000, 1u32..3000), (bw, bh) in (16u32..16384, 16u32..16384), turned in any::<bool>(),
        ) {
            if let Ok((width, height)) = Target::Size(bw, bh).size((w, h), turned, EVEN) {
                let (bw, bh) = if turned { (bh, bw) } else { (bw, bh) };
                prop_assert!(width <= bw && height <= bh && width % 2 == 0 && height % 2 == 0);
                prop_assert!(width + 2 > bw || height + 2 > bh, "{width}x{height} in {bw}x{bh}");
                let off = (f64::from(width) * f64::from(h) - f64::from(height) * f64::from(w)).abs();
                prop_assert!(off <= 2.0 * f64::from(w.max(h)) || width == 2 || height == 2);
            }
        }
    }
}
