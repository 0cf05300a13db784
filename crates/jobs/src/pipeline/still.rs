//! Still pictures enlarged: luma or RGB by the network, the rest by Lanczos.

use anyhow::Result;

use upscaled_core::types::engine::EngineSpec;
use upscaled_engine::pixels::kernel::{Axis, Filter};
use upscaled_engine::pixels::resample::{ResampleScratch, Resampler, resized};
use upscaled_engine::runtime::tiled::{Engine, Pass};
use upscaled_media::image::still::{self, Pixels, Still};

/// Output rows made together: their floats stay in the processor's cache.
const ROWS: usize = 16;

/// The pixels of the picture in the size that a pin's passes and final size give it.
///
/// `pin` may differ from the engine's own in both of those only. `beat` is called where the
/// network is done.
pub fn enlarge(engine: &Engine, pin: &EngineSpec, mut source: Still, beat: &dyn Fn()) -> Result<Pixels> {
    let from = (source.width as usize, source.height as usize);
    let scale = pin.model_scale.pow(pin.passes) as usize;
    let grown = (from.0 * scale, from.1 * scale);
    let to = pin.picture.map_or(grown, |(width, height)| (width as usize, height as usize));
    if pin.channels == 3 {
        let rgb = source.rgb();
        let made = engine.still(&[&rgb[0], &rgb[1], &rgb[2]], from, pin.passes)?;
        beat();
        return of_rgb(&source, made.floats(), grown, to).pixels();
    }
    let luma = std::mem::take(&mut source.luma);
    let made = engine.still(&[&luma], from, pin.passes)?;
    beat();
    if grown == to {
        return Ok(in_rows(&source, &made, to));
    }
    let luma = fitted(made.floats().remove(0), grown, to);
    let wide = |plane: &Vec<f32>| resized(Filter::Lanczos3, plane, from, to);
    sized(&source, [luma, wide(&source.cb), wide(&source.cr)], to).pixels()
}

/// The same picture as by [`sized`], some rows at a time: its planes are never held whole.
fn in_rows(source: &Still, luma: &Pass, to: (usize, usize)) -> Pixels {
    let from = (source.width as usize, source.height as usize);
    let about = Still { width: to.0 as u32, height: to.1 as u32, ..source.bare() };
    let mut pixels = Pixels::new(about, source.alpha.is_some());
    let axes = |(width, height)| (Axis::full(width), Axis::full(height));
    let resampler = Resampler::new(Filter::Lanczos3, axes(from), axes(to));
    let mut scratch = ResampleScratch::default();
    let mut planes = [(); 4].map(|()| vec![0.0; ROWS * to.0]);
    for start in (0..to.1).step_by(ROWS) {
        let rows = start..(start + ROWS).min(to.1);
        let count = rows.len() * to.0;
        let [y, cb, cr, alpha] = &mut planes;
        y.chunks_exact_mut(to.0).zip(rows.clone()).for_each(|(to, y)| luma.row(0, y, to));
        let mut widen = |from_plane: &[f32], out: &mut [f32]| {
            let load = |y: usize, row: &mut [f32]| row.copy_from_slice(&from_plane[y * from.0..][..from.0]);
            let put = |n: usize, row: &[f32]| out[n * to.0..][..to.0].copy_from_slice(row);
            resampler.floats(load, rows.clone(), &mut scratch, put);
        };
        if pixels.is_coloured() {
            widen(&source.cb, cb);
            widen(&source.cr, cr);
        }
        if let Some(plane) = &source.alpha {
            widen(plane, alpha);
        }
        pixels.push([&y[..count], &cb[..count], &cr[..count]], Some(&alpha[..count]));
    }
    pixels
}

/// The picture in the size `to` from its planes of R, G and B in the size `grown`.
pub fn of_rgb(
    source: &Still,
    planes: impl IntoIterator<Item = Vec<f32>>,
    grown: (usize, usize),
    to: (usize, usize),
) -> Still {
    let mut planes = planes.into_iter().map(|plane| fitted(plane, grown, to));
    let mut next = || planes.next().unwrap_or_default();
    sized(source, still::ycc([next(), next(), next()]), to)
}

fn fitted(plane: Vec<f32>, grown: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    if grown == to { plane } else { resized(Filter::Lanczos3, &plane, grown, to) }
}

/// The picture with these planes of luma, Cb and Cr, and its alpha brought to their size.
fn sized(source: &Still, [luma, cb, cr]: [Vec<f32>; 3], to: (usize, usize)) -> Still {
    let from = (source.width as usize, source.height as usize);
    let alpha = source.alpha.as_ref().map(|alpha| resized(Filter::Lanczos3, alpha, from, to));
    Still { width: to.0 as u32, height: to.1 as u32, luma, cb, cr, alpha, ..source.bare() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::models::model_file::ModelFile;
    use upscaled_engine::test_util::{pin, runtime_is_here};
    use upscaled_media::image::still::StillKind;

    #[test]
    fn rows_are_those_of_the_whole_planes() {
        if !runtime_is_here() {
            return;
        }
        let (width, height) = (53u32, 41u32);
        let pin = pin(&ModelFile::open("fast").unwrap(), (24, 16));
        let engine = Engine::open(&pin).unwrap();
        let plane = |seed| upscaled_engine::planning::test_picture::plane(width as usize, height as usize, seed, 0);
        for (depth, gray, alpha) in
            [(8, false, false), (8, false, true), (16, false, true), (8, true, false), (16, true, true)]
        {
            let (kind, luma, cb, cr) = (StillKind::Png, plane(1), plane(2), plane(3));
            let alpha = alpha.then(|| plane(4));
            let source = Still { kind, width, height, luma, cb, cr, alpha, depth, gray, icc: None, exif: None };
            let (from, to) = ((53, 41), (106, 82));
            let luma = engine.still(&[&source.luma], from, 1).unwrap().floats().remove(0);
            let wide = |plane: &Vec<f32>| resized(Filter::Lanczos3, plane, from, to);
            let whole = sized(&source, [luma, wide(&source.cb), wide(&source.cr)], to).encode().unwrap();
            assert!(enlarge(&engine, &pin, source, &|| {}).unwrap().encode().unwrap() == whole, "{depth} {gray}");
        }
    }
}
