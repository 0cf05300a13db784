//! A still picture through a diffusion model: settings in, a larger picture out.

use std::path::{Path, PathBuf};

use anyhow::Result;

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::path_text::unescape;
use upscaled_engine::diffusion::colour_fix::ColourFix;
use upscaled_engine::diffusion::encode::Latent;
use upscaled_engine::diffusion::field::Field;
use upscaled_engine::diffusion::memory::{Keep, TileOverride};
use upscaled_engine::diffusion::upscaler::{
    BYTES_PER_PIXEL, DiffusionOptions, DiffusionProgress, SCALE_MAX, Setup, Upscaler,
};
use upscaled_engine::models::diffusion::folder;
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::cascade;
use upscaled_media::image::still::Still;

use crate::pipeline::still;

/// The folder of the diffusion model that a setting names, if it names one.
pub fn folder(model: &str) -> Option<PathBuf> {
    let path = unescape(model).unwrap_or_else(|| Path::new(model).to_owned());
    folder::is_model(&path).then_some(path)
}

/// How the settings want the model to run.
pub fn setup(job: &JobSettings, run: &RunSettings) -> Setup {
    let keep = Keep::of(&run.model_parts);
    let memory = job.device_memory_mb << 20;
    Setup { device: job.device.clone(), threads: choice::threads(job), memory, keep, asked: TileOverride::default() }
}

/// What the settings want of a picture that becomes so many times as large.
pub fn options(job: &JobSettings, scale: usize) -> DiffusionOptions {
    named(scale, job.process_size, job.seed, &job.latent, &job.colour_fix)
}

/// The same by the settings' words.
pub fn named(scale: usize, process_size: u32, seed: u64, latent: &str, colour_fix: &str) -> DiffusionOptions {
    DiffusionOptions {
        scale,
        process: process_size as usize,
        seed,
        latent: Latent::of(latent).unwrap_or_default(),
        colours: ColourFix::of(colour_fix).unwrap_or_default(),
        odd_sides: true,
    }
}

/// The whole scale at which a picture is at least as large as it shall be.
pub fn scale((width, height): (u32, u32), to: (u32, u32)) -> usize {
    let factor = to.0.div_ceil(width.max(1)).max(to.1.div_ceil(height.max(1)));
    (factor as usize).clamp(1, SCALE_MAX)
}

/// Whether a picture may become as large as the model makes it on the way to a size.
///
/// # Errors
/// [`Fault::Unsupported`](upscaled_core::fault::Fault::Unsupported) for more pixels than a picture may have.
pub fn check(model: &str, from: (u32, u32), to: (u32, u32)) -> Result<()> {
    let scale = scale(from, to) as u64;
    let grown = (u64::from(from.0) * scale, u64::from(from.1) * scale);
    cascade::within(model, grown, to)
}

/// Bytes of memory for a picture that becomes so large, beside the model's own.
pub fn bytes(from: (u32, u32), to: (u32, u32)) -> u64 {
    let scale = scale(from, to) as u64;
    (u64::from(from.0) * u64::from(from.1)).saturating_mul(scale * scale).saturating_mul(BYTES_PER_PIXEL)
}

/// The picture as the model takes it: R, G and B.
pub fn field(source: &Still) -> Result<Field> {
    Field::new(3, source.width as usize, source.height as usize, source.rgb().concat())
}

/// The picture from what the model made of it, brought to a size. Alpha, and what the model left
/// to the size, by Lanczos.
pub fn of_field(source: &Still, made: &Field, (width, height): (u32, u32)) -> Still {
    let planes = made.planes().map(<[f32]>::to_vec);
    still::of_rgb(source, planes, (made.width, made.height), (width as usize, height as usize))
}

/// The picture in its new size.
pub fn enlarge(
    model: &mut Upscaler,
    job: &JobSettings,
    source: Still,
    to: (u32, u32),
    beat: &mut dyn FnMut(DiffusionProgress) -> Result<()>,
) -> Result<Still> {
    let options = options(job, scale((source.width, source.height), to));
    let made = model.upscale(&[field(&source)?], &options, beat)?;
    Ok(of_field(&source, &made[0], to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::test_util::runtime_is_here;
    use upscaled_media::image::still::StillKind;

    #[test]
    fn a_picture_comes_out_in_any_size_with_its_alpha() {
        if !runtime_is_here() {
            return;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model");
        let job = JobSettings { device: "cpu".into(), process_size: 64, ..JobSettings::default() };
        let mut model = Upscaler::open(&path, &setup(&job, &RunSettings::default())).unwrap();
        let (width, height) = (21u32, 18u32);
        let plane = |seed| upscaled_engine::planning::test_picture::plane(width as usize, height as usize, seed, 0);
        let still = Still {
            kind: StillKind::Png,
            width,
            height,
            luma: plane(1),
            cb: vec![0.5; 21 * 18],
            cr: vec![0.5; 21 * 18],
            alpha: Some(plane(2)),
            depth: 8,
            gray: false,
            icc: None,
            exif: None,
        };
        for (wide, high) in [(42, 36), (50, 43), (84, 72)] {
            let mut beats = 0;
            let beat = &mut |_| {
                beats += 1;
                Ok(())
            };
            let source = Still {
                luma: still.luma.clone(),
                alpha: still.alpha.clone(),
                cb: still.cb.clone(),
                cr: still.cr.clone(),
                ..still.bare()
            };
            let made = enlarge(&mut model, &job, source, (wide, high), beat).unwrap();
            assert_eq!((made.width, made.height), (wide, high));
            let count = (wide * high) as usize;
            assert!([&made.luma, &made.cb, &made.cr].iter().all(|plane| plane.len() == count) && beats >= 3);
            assert_eq!(made.alpha.as_ref().map(Vec::len), Some(count));
            // The wavelet fix keeps the tones.
            let mean = |plane: &[f32]| plane.iter().sum::<f32>() / plane.len() as f32;
            assert!((mean(&made.luma) - mean(&still.luma)).abs() < 0.03);
        }
    }

    #[test]
    fn scales_are_whole_and_large_enough() {
        assert_eq!(scale((100, 50), (200, 100)), 2);
        assert_eq!(scale((100, 50), (250, 125)), 3);
        assert_eq!(scale((100, 50), (100, 50)), 1);
        assert_eq!(scale((1, 1), (100, 100)), SCALE_MAX);
        assert_eq!(bytes((100, 50), (250, 125)), 100 * 50 * 9 * BYTES_PER_PIXEL);
        assert_eq!(folder("fast"), None);
    }
}
