//! How a size is reached: passes of a network one after the other, then Lanczos to the size.

use anyhow::Result;

use upscaled_core::config::target::FACTOR_MAX;
use upscaled_core::fault::Fault;
use upscaled_core::types::engine::EngineSpec;

/// Most passes: 2x three times is 8x.
const PASSES_MAX: u32 = FACTOR_MAX.ilog2();
/// Most pixels of the picture that the last pass gives.
const PIXELS_MAX: u64 = 1 << 28;

/// Sets a pin's passes and picture so that `source` becomes `target` (width and height): the
/// fewest passes that reach it in both directions, and the final size where they go beyond.
///
/// # Errors
/// [`Fault::Unsupported`] when the network does not enlarge, or not in so few passes.
pub fn reach(pin: &mut EngineSpec, source: (u32, u32), target: (u32, u32)) -> Result<()> {
    let grown = |passes: u32| {
        let factor = u64::from(pin.model_scale).saturating_pow(passes);
        (factor.saturating_mul(source.0.into()), factor.saturating_mul(source.1.into()))
    };
    let (width, height) = (u64::from(target.0), u64::from(target.1));
    let enough = |passes: &u32| grown(*passes).0 >= width && grown(*passes).1 >= height;
    let Some(passes) = (1..=PASSES_MAX).find(enough) else {
        let (name, scale) = (&pin.model, pin.model_scale);
        return Err(Fault::Unsupported.because(format!(
            "model {name} enlarges {scale} times: {}x{} does not become {width}x{height} in {PASSES_MAX} passes; \
             choose another model or a smaller size",
            source.0, source.1
        )));
    };
    let (wide, high) = grown(passes);
    within(&pin.model, (wide, high), target)?;
    pin.passes = passes;
    pin.picture = ((wide, high) != (width, height)).then_some(target);
    Ok(())
}

/// Refuses pictures that a model would make beyond what a picture may have.
///
/// # Errors
/// [`Fault::Unsupported`].
pub fn within(model: &str, (wide, high): (u64, u64), (width, height): (u32, u32)) -> Result<()> {
    if wide.saturating_mul(high) <= PIXELS_MAX {
        return Ok(());
    }
    Err(Fault::Unsupported.because(format!(
        "model {model} would make a picture of {wide}x{high} on the way to {width}x{height}, beyond {PIXELS_MAX} \
         pixels; choose a smaller size or a model that enlarges less"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model_file::ModelFile;
    use crate::test_util::pin;

    #[test]
    fn the_fewest_passes_and_then_the_size() {
        let mut pin = pin(&ModelFile::open("fast").unwrap(), (64, 64));
        for (scale, target, want) in [
            (2, (200, 100), (1, None)),
            (2, (300, 150), (2, Some((300, 150)))),
            (2, (400, 200), (2, None)),
            (2, (800, 400), (3, None)),
            (2, (201, 100), (2, Some((201, 100)))),
            (4, (200, 100), (1, Some((200, 100)))),
            (3, (800, 400), (2, Some((800, 400)))),
            (8, (800, 400), (1, None)),
        ] {
            pin.model_scale = scale;
            reach(&mut pin, (100, 50), target).unwrap();
            assert_eq!((pin.passes, pin.picture), want, "{scale} {target:?}");
        }
        pin.model_scale = 1;
        assert!(reach(&mut pin, (100, 50), (200, 100)).unwrap_err().to_string().contains("enlarges 1 times"));
        pin.model_scale = 8;
        assert!(reach(&mut pin, (4000, 3000), (8000, 6000)).unwrap_err().to_string().contains("32000x24000"));
    }
}
