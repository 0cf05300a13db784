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
    let fitted = |plane: Vec<f32>| if grown == to { plane } else { resized(Filter::Lanczos3, &plane, grown, to) };
    let wide = |plane: &Vec<f32>| resized(Filter::Lanczos3, plane, from, to);
    let alpha = source.alpha.as_ref().map(wide);
    let (width, height) = (to.0 as u32, to.1 as u32);
    let sized = |luma, cb, cr| Still { width, height, luma, cb, cr, alpha, ..source.bare() };
    if pin.channels == 3 {
        let rgb = source.rgb();
        let planes = engine.planes(&[&rgb[0], &rgb[1], &rgb[2]], from, pin.passes)?;
        beat();
        let mut planes = planes.into_iter().map(fitted);
        let mut next = || planes.next().unwrap_or_default();
        let [luma, cb, cr] = still::ycc([next(), next(), next()]);
        return Ok(sized(luma, cb, cr));
    }
    let luma = fitted(engine.planes(&[&source.luma], from, pin.passes)?.remove(0));
    beat();
    Ok(sized(luma, wide(&source.cb), wide(&source.cr)))
}
