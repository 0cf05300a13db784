//! The last step: from the decoder's picture to the size that was asked for, and its colours.

use crate::diffusion::colour_fix::{self, ColourFix};
use crate::diffusion::field::Field;
use crate::pixels::resample::resized_as_pillow;

/// The picture of `size`, in 0..1, from the decoder's (three channels, -1..1). `source`: the
/// picture before everything.
pub fn finished(mut decoded: Field, size: (usize, usize), colours: ColourFix, source: &Field) -> Field {
    decoded.data.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0) / 2.0 + 0.5);
    let from = (decoded.width, decoded.height);
    if from != size {
        decoded = decoded.resized(size, |plane| resized_as_pillow(plane, from, size));
    }
    colour_fix::fixed(colours, decoded, source)
}
