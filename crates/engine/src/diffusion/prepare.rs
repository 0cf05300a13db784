//! The first step: the size that the networks work at, and the picture brought to it.

use crate::diffusion::field::Field;
use crate::pixels::kernel::Filter;
use crate::pixels::resample::resized;

/// What sizes inside the networks are multiples of, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// What the VAE reduces by: all that TSD-SR asks for.
    pub factor: usize,
    /// Latents that the transformer takes as one, along a side.
    pub patch: usize,
    /// Side of the transformer's tiles, in latents; `None`: every size is whole patches.
    pub tile: Option<usize>,
}

impl Units {
    /// Returns the unit of a size. A picture that goes through the transformer as a whole has to be whole patches. One
    /// of which each tile has its full side need not: tiles overlap as far as it takes, and their side is even.
    fn of(self, sides: (usize, usize)) -> usize {
        let (shorter, longer) = (sides.0.min(sides.1), sides.0.max(sides.1));
        let tiled = |tile: usize| {
            shorter / self.factor >= tile && longer / self.factor > tile && tile.is_multiple_of(self.patch)
        };
        if self.tile.is_some_and(tiled) { self.factor } else { self.factor * self.patch }
    }
}

/// Returns width and height that a picture has inside the networks, in pixels.
///
/// A picture with a side below `process / scale` is first taken as so much larger that its shorter
/// side has that length; then `scale` times as large; then down to multiples of the unit
/// (github.com/Microtreei/TSD-SR, `test/test_tsdsr.py`, which takes multiples of 8 always and fails where the
/// transformer gets an odd side).
pub fn working_size((width, height): (usize, usize), scale: usize, process: usize, units: Units) -> (usize, usize) {
    let (least, shorter) = (process / scale.max(1), width.min(height).max(1));
    let grown = |side: usize| match shorter < least {
        true => (least as f64 / shorter as f64 * side as f64) as usize,
        false => side,
    };
    let wanted = (grown(width) * scale, grown(height) * scale);
    let unit = units.of(wanted);
    let whole = |side: usize| (side / unit * unit).max(unit);
    (whole(wanted.0), whole(wanted.1))
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

    const REAL: Units = Units { factor: 8, patch: 2, tile: Some(64) };

    #[test]
    fn sizes_are_multiples_and_large_enough() {
        assert_eq!(working_size((100, 75), 4, 512, REAL), (680, 512));
        assert_eq!(working_size((24, 20), 2, 64, REAL), (64, 64));
        assert_eq!(working_size((1, 1), 2, 64, REAL), (64, 64));
        assert_eq!(working_size((1, 40), 8, 8, REAL), (16, 320));
        for width in 1..70 {
            let (w, h) = working_size((width, 33), 2, 64, REAL);
            assert!(w % 16 == 0 && h % 16 == 0 && w >= 16 && h >= 64, "{width}: {w}x{h}");
        }
    }

    #[test]
    fn odd_sides_are_kept_where_tiles_are_whole() {
        for (size, want) in [
            ((1928, 1080), (1928, 1080)),
            ((1932, 1087), (1928, 1080)),
            ((520, 512), (520, 512)),
            ((512, 520), (512, 520)),
            // One tile, or tiles with a shorter side than they have
            ((512, 512), (512, 512)),
            ((519, 519), (512, 512)),
            ((1024, 504), (1024, 496)),
            ((504, 1024), (496, 1024)),
            ((1024, 511), (1024, 496)),
        ] {
            assert_eq!(working_size(size, 1, 64, REAL), want, "{size:?}");
        }
        assert_eq!(working_size((480, 270), 4, 512, REAL), (1920, 1080));
        assert_eq!(working_size((300, 270), 4, 512, Units { tile: Some(7), ..REAL }), (1200, 1072), "an odd tile");
        assert_eq!(working_size((480, 270), 4, 512, Units { tile: None, ..REAL }), (1920, 1072), "as plans of before");
    }
}
