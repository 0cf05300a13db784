//! Still pictures enlarged: luma or RGB by the network, the rest by Lanczos.

use anyhow::Result;

use crate::engine::enlarge::Engine;
use crate::media::still::{self, Still};
use crate::model::engine::EnginePin;
use crate::pixel::kernel::Filter;
use crate::pixel::resample::resized;

/// The picture in the size that a pin's passes and final size give it.
///
/// `pin` may differ from the engine's own in both of those only. `beat` is called where the
/// network is done.
pub fn enlarge(engine: &Engine, pin: &EnginePin, source: Still, beat: &dyn Fn()) -> Result<Still> {
    let from = (source.width as usize, source.height as usize);
    let scale = pin.model_scale.pow(pin.passes) as usize;
    let grown = (from.0 * scale, from.1 * scale);
    let to = pin.picture.map_or(grown, |(width, height)| (width as usize, height as usize));
    if pin.channels == 3 {
        let rgb = source.rgb();
        let planes = engine.planes(&[&rgb[0], &rgb[1], &rgb[2]], from, pin.passes)?;
        beat();
        return Ok(of_rgb(&source, planes, grown, to));
    }
    let luma = engine.planes(&[&source.luma], from, pin.passes)?.remove(0);
    beat();
    let luma = fitted(luma, grown, to);
    let wide = |plane: &Vec<f32>| resized(Filter::Lanczos3, plane, from, to);
    Ok(sized(&source, [luma, wide(&source.cb), wide(&source.cr)], to))
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
