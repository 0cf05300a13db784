//! What the page shows of a job at work: the middle of a frame, before and after.

use anyhow::Result;

use upscaled_core::types::frame::Frame;
use upscaled_core::types::plan::Plan;
use upscaled_core::types::source::Colour;
use upscaled_media::image::jpeg;

use crate::pipeline::rgb8::rgb8;

/// The largest part of an upscaled frame that is shown, in pixels, as displayed.
const WIDEST: u32 = 1280;
const HIGHEST: u32 = 720;

/// The same part of a source frame and of what became of it.
pub struct Preview {
    /// Of the source, counted from 0.
    pub index: u64,
    before: Frame,
    after: Frame,
    colour: Colour,
    /// Clockwise, in degrees, as it is displayed.
    rotation: i32,
}

/// Where one axis is cut: start and length in the source, and in the output.
fn cut(source: u32, output: u32, most: u32) -> [u32; 4] {
    let scaled = |n: u32| (u64::from(n) * u64::from(output) / u64::from(source)) as u32;
    if output <= most {
        return [0, source, 0, output];
    }
    let length = ((u64::from(most) * u64::from(source) / u64::from(output)) as u32).max(2) & !1;
    let start = ((source - length) / 2) & !1;
    [start, length, scaled(start) & !1, (scaled(length) & !1).max(2)]
}

impl Preview {
    /// Cuts the middle out of both; a copy of few pixels, and all that the pipeline waits for.
    pub fn cut(plan: &Plan, index: u64, source: &Frame, output: &Frame) -> Preview {
        let rotation = plan.info.video.rotation;
        let lies = rotation.rem_euclid(180) == 90;
        let (widest, highest) = if lies { (HIGHEST, WIDEST) } else { (WIDEST, HIGHEST) };
        let [x, width, out_x, out_width] = cut(source.width, output.width, widest);
        let [y, height, out_y, out_height] = cut(source.height, output.height, highest);
        Preview {
            index,
            before: source.part(x, y, width, height),
            after: output.part(out_x, out_y, out_width, out_height),
            colour: plan.info.video.colour,
            rotation,
        }
    }

    /// Both as JPEG files, upright: before, after.
    pub fn jpegs(&self) -> Result<[Vec<u8>; 2]> {
        let encode = |frame: &Frame| {
            let pixels = rgb8(frame, &self.colour);
            let (width, height, pixels) = jpeg::turned(frame.width, frame.height, pixels, self.rotation)?;
            jpeg::encode_rgb(width, height, &pixels)
        };
        Ok([encode(&self.before)?, encode(&self.after)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_cut_at_the_same_place() {
        assert_eq!(cut(320, 640, 1280), [0, 320, 0, 640]);
        assert_eq!(cut(321, 642, 1280), [0, 321, 0, 642]);
        assert_eq!(cut(1920, 3840, 1280), [640, 640, 1280, 1280]);
        assert_eq!(cut(1080, 4320, 720), [450, 180, 1800, 720]);
        for (source, output, most) in [(1921, 3842, 1280), (1001, 2997, 720), (719, 1439, 720), (5000, 5001, 720)] {
            let [start, length, out_start, out_length] = cut(source, output, most);
            assert!(start + length <= source && out_start + out_length <= output && out_length <= most);
            assert!([start, length, out_start, out_length].iter().all(|n| n % 2 == 0));
            let scale = f64::from(output) / f64::from(source);
            assert!((f64::from(out_start) - f64::from(start) * scale).abs() <= 2.0);
            assert!((f64::from(out_length) - f64::from(length) * scale).abs() <= 2.0);
        }
    }
}
