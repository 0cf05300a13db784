//! Memory that a job's pictures need, reckoned beforehand: what cannot fit is refused in words,
//! not killed half way.

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::types::engine::EngineSpec;
use upscaled_engine::diffusion::upscaler;

use crate::scratch::memory;

/// Bytes of a sample between two passes and after the last.
const SAMPLE: u64 = 2;
/// Output frames that are held at once: an encoder's look-ahead (40 in preset medium of x264
/// and x265), its references, and what waits for it.
const FRAMES: u64 = 50;
/// Bytes for each pixel of a still that grows: samples of the last pass twice, floats of its
/// planes, what is fitted of them, and the file's own samples.
const STILL_LUMA: u64 = 20;
const STILL_RGB: u64 = 28;

/// Bytes for a video whose frames of `source` size become frames of `frame_bytes`.
pub fn of_video(pin: &EngineSpec, source: (u32, u32), frame_bytes: u64) -> u64 {
    if pin.diffusion.is_some() {
        let model = pixels(pin, source, 1).saturating_mul(upscaler::BYTES_PER_PIXEL);
        return frame_bytes.saturating_mul(FRAMES).saturating_add(model);
    }
    let picture = |pass: u32| pixels(pin, source, pass).saturating_mul(u64::from(pin.channels) * SAMPLE);
    // What each pass was given for this frame and the one before, and what it makes.
    let passes = (0..pin.passes).map(|n| picture(n).saturating_mul(2).saturating_add(picture(n + 1)));
    passes.fold(frame_bytes.saturating_mul(FRAMES), u64::saturating_add)
}

/// Bytes for a still picture of `source` size that becomes `output`.
pub fn of_still(pin: &EngineSpec, source: (u32, u32), output: (u32, u32)) -> u64 {
    let output = u64::from(output.0) * u64::from(output.1);
    let each = if pin.channels == 3 { STILL_RGB } else { STILL_LUMA };
    pixels(pin, source, pin.passes).max(output).saturating_mul(each)
}

/// Pixels before pass `n`, which are those after the pass before it.
fn pixels(pin: &EngineSpec, (width, height): (u32, u32), n: u32) -> u64 {
    let grown = u64::from(pin.model_scale).saturating_pow(2 * n);
    (u64::from(width) * u64::from(height)).saturating_mul(grown)
}

/// [`Fault::Unsupported`] where pictures of `output` size need more memory than this process
/// may ever have.
pub fn check(need: u64, output: (u32, u32)) -> Result<()> {
    fits(need, memory::whole(), output)
}

fn fits(need: u64, whole: u64, (width, height): (u32, u32)) -> Result<()> {
    if need <= whole {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(Fault::Unsupported.because(format!(
        "an output of {width}x{height} needs about {:.1} GiB of memory and there are {:.1} GiB here; choose a smaller \
         scale, size or height, or a machine with more",
        gib(need),
        gib(whole)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::models::model_file::ModelFile;
    use upscaled_engine::test_util::pin;

    #[test]
    fn what_cannot_fit_is_refused() {
        let once = pin(&ModelFile::open("fast").unwrap(), (64, 64));
        // 854x480 to 1708x960: 50 frames of 2.5 MB, and 5 MB of pictures.
        assert_eq!(of_video(&once, (854, 480), 2_459_520), 50 * 2_459_520 + 854 * 480 * 2 * (2 + 4));
        let large = EngineSpec { passes: 3, channels: 3, ..once.clone() };
        let side = (2048u64 * 2048) * 3 * 2;
        assert_eq!(of_video(&large, (2048, 2048), 0), side * (2 + 4 + 8 + 16 + 32 + 64));
        assert_eq!(of_video(&EngineSpec { passes: 40, ..large }, (65_535, 65_535), u64::MAX), u64::MAX);
        assert_eq!(of_still(&once, (100, 100), (150, 150)), 40_000 * 20);
        assert_eq!(of_still(&once, (100, 100), (400, 400)), 160_000 * 20);
        assert!(fits(5, 5, (1, 1)).is_ok());
        let error = fits(12 << 30, 8 << 30, (16_384, 16_384)).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported);
        assert!(error.to_string().contains("16384x16384 needs about 12.0 GiB"), "{error}");
    }
}
