//! How the samples of a plane lie on the picture (ITU-T H.273, chroma sample location type).

use upscaled_core::types::frame::PixelFormat;
use upscaled_core::types::source::Colour;

/// How one axis of a plane lies to luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siting {
    /// As many samples as luma has, each in the same place.
    Full,
    /// Half as many; each stands where every second luma sample stands.
    Cosited,
    /// Half as many; each stands between two luma samples.
    Centred,
    /// Half as many; each stands where the luma sample after every second one stands.
    CositedSecond,
}

impl Siting {
    /// Across and down, of a plane of frames with these tags.
    pub fn of(format: PixelFormat, plane: usize, colour: &Colour) -> (Siting, Siting) {
        // ITU-T H.273: primaries of BT.2020, transfer of PQ. Such video is sited top-left.
        let location = match colour.chroma_location {
            0 if colour.primaries == 9 && colour.transfer == 16 => 3,
            location => location,
        };
        let across = match location {
            2 | 4 | 6 => Siting::Centred,
            _ => Siting::Cosited,
        };
        let down = match location {
            3 | 4 => Siting::Cosited,
            5 | 6 => Siting::CositedSecond,
            _ => Siting::Centred,
        };
        let (sx, sy) = format.shifts(plane);
        (if sx == 0 { Siting::Full } else { across }, if sy == 0 { Siting::Full } else { down })
    }

    /// Pixels from one sample to the next.
    pub fn step(self) -> f64 {
        if self == Siting::Full { 1.0 } else { 2.0 }
    }

    /// The place of the first sample, in pixels from the first pixel.
    pub fn first(self) -> f64 {
        match self {
            Siting::Full | Siting::Cosited => 0.0,
            Siting::Centred => 0.5,
            Siting::CositedSecond => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::types::frame::Chroma;

    #[test]
    fn siting_follows_the_tags() {
        let at = |location, primaries, transfer, format| {
            let colour = Colour { range: 1, primaries, transfer, matrix: 1, chroma_location: location };
            Siting::of(format, 1, &colour)
        };
        let f420 = PixelFormat::YUV420;
        assert_eq!(at(0, 1, 1, f420), (Siting::Cosited, Siting::Centred));
        assert_eq!(at(0, 9, 16, f420), (Siting::Cosited, Siting::Cosited));
        assert_eq!(at(2, 1, 1, f420), (Siting::Centred, Siting::Centred));
        assert_eq!(at(5, 1, 1, f420), (Siting::Cosited, Siting::CositedSecond));
        let f422 = PixelFormat { chroma: Chroma::C422, depth: 8 };
        assert_eq!(at(0, 1, 1, f422), (Siting::Cosited, Siting::Full));
        let f444 = PixelFormat { chroma: Chroma::C444, depth: 8 };
        assert_eq!(at(2, 1, 1, f444), (Siting::Full, Siting::Full));
    }
}
