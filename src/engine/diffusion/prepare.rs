//! The first step: the size that the networks work at, and the picture brought to it.

use crate::engine::diffusion::field::Field;
use crate::pixel::kernel::Filter;
use crate::pixel::resample::resized;

/// Width and height that a picture has inside the networks.
///
/// A picture with a side below `process / scale` is first taken as so much larger that its shorter
/// side has that length; then `scale` times as large; then down to multiples of `unit`.
pub fn working_size((width, height): (usize, usize), scale: usize, process: usize, unit: usize) -> (usize, usize) {
    let (least, shorter) = (process / scale.max(1), width.min(height).max(1));
    let grown = |side: usize| match shorter < least {
        true => (least as f64 / shorter as f64 * side as f64) as usize,
        false => side,
    };
    let whole = |side: usize| (grown(side) * scale / unit * unit).max(unit);
    (whole(width), whole(height))
}

/// The picture (three channels, 0..1) at the working size, in -1..1: bicubic as PyTorch has it.
pub fn enlarged(picture: &Field, size: (usize, usize)) -> Field {
    let from = (picture.width, picture.height);
    let mut field = picture.resized(size, |plane| resized(Filter::Bicubic, plane, from, size));
    field.data.iter_mut().for_each(|v| *v = (*v * 2.0 - 1.0).clamp(-1.0, 1.0));
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_multiples_and_large_enough() {
        assert_eq!(working_size((100, 75), 4, 512, 16), (672, 512));
        assert_eq!(working_size((480, 270), 4, 512, 16), (1920, 1072));
        assert_eq!(working_size((24, 20), 2, 64, 16), (64, 64));
        assert_eq!(working_size((1, 1), 2, 64, 16), (64, 64));
        assert_eq!(working_size((1, 40), 8, 8, 16), (16, 320));
        for width in 1..70 {
            let (w, h) = working_size((width, 33), 2, 64, 16);
            assert!(w % 16 == 0 && h % 16 == 0 && w >= 16 && h >= 64, "{width}: {w}x{h}");
        }
    }
}
