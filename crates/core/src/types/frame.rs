//! Frames: planar YUV pictures in memory, laid out as a Y4M frame is.

use serde::{Deserialize, Serialize};

use crate::types::user_data::Extras;

/// How the two chroma planes are subsampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Chroma {
    C420,
    C422,
    C444,
}

/// The only sample layouts inside the program: planar YUV, 8 bits in one byte or 10 bits in
/// two (little endian). Decoders convert everything else to the nearest of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PixelFormat {
    pub chroma: Chroma,
    /// 8 or 10.
    pub depth: u8,
}

impl PixelFormat {
    pub const YUV420: PixelFormat = PixelFormat { chroma: Chroma::C420, depth: 8 };

    /// Bytes of one sample: 1 or 2.
    pub fn sample_bytes(self) -> usize {
        if self.depth > 8 { 2 } else { 1 }
    }

    /// The largest code value: 255 or 1023.
    pub fn max_code(self) -> u32 {
        (1 << self.depth) - 1
    }

    /// Horizontal and vertical subsampling of a plane as shifts; plane 0 is luma.
    pub fn shifts(self, plane: usize) -> (u32, u32) {
        match (plane, self.chroma) {
            (0, _) | (_, Chroma::C444) => (0, 0),
            (_, Chroma::C422) => (1, 0),
            (_, Chroma::C420) => (1, 1),
        }
    }

    /// Width and height of a plane in samples; odd sizes round up.
    pub fn plane_size(self, plane: usize, width: u32, height: u32) -> (u32, u32) {
        let (sx, sy) = self.shifts(plane);
        ((width + (1 << sx) - 1) >> sx, (height + (1 << sy) - 1) >> sy)
    }

    /// Bytes of a plane, without padding.
    pub fn plane_bytes(self, plane: usize, width: u32, height: u32) -> usize {
        let (w, h) = self.plane_size(plane, width, height);
        w as usize * h as usize * self.sample_bytes()
    }

    /// Bytes of a whole frame, without padding.
    pub fn frame_bytes(self, width: u32, height: u32) -> usize {
        (0..3).map(|p| self.plane_bytes(p, width, height)).sum()
    }

    /// FFmpeg's name of the format (`yuv420p`, `yuv422p10le`, ..).
    pub fn ffmpeg_name(self) -> &'static str {
        match (self.chroma, self.depth) {
            (Chroma::C420, 8) => "yuv420p",
            (Chroma::C422, 8) => "yuv422p",
            (Chroma::C444, 8) => "yuv444p",
            (Chroma::C420, _) => "yuv420p10le",
            (Chroma::C422, _) => "yuv422p10le",
            (Chroma::C444, _) => "yuv444p10le",
        }
    }
}

/// One picture: Y, then U, then V, each row after row without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    /// `format.frame_bytes(width, height)` bytes.
    pub data: Vec<u8>,
}

impl Frame {
    /// A frame of zero bytes.
    pub fn new(format: PixelFormat, width: u32, height: u32) -> Self {
        Frame { format, width, height, data: vec![0; format.frame_bytes(width, height)] }
    }

    fn range(&self, plane: usize) -> std::ops::Range<usize> {
        let start = (0..plane).map(|p| self.format.plane_bytes(p, self.width, self.height)).sum();
        start..start + self.format.plane_bytes(plane, self.width, self.height)
    }

    /// The bytes of a plane (0 luma, 1 and 2 chroma).
    pub fn plane(&self, plane: usize) -> &[u8] {
        &self.data[self.range(plane)]
    }

    pub fn plane_mut(&mut self, plane: usize) -> &mut [u8] {
        let range = self.range(plane);
        &mut self.data[range]
    }

    /// The part of `width` x `height` whose upper left corner is at `x`, `y`, all in luma samples and even, or 0, or
    /// up to the frame's end.
    pub fn part(&self, x: u32, y: u32, width: u32, height: u32) -> Frame {
        let mut part = Frame::new(self.format, width, height);
        let bytes = self.format.sample_bytes();
        for (plane, out) in part.planes_mut().into_iter().enumerate() {
            let (sx, sy) = self.format.shifts(plane);
            let row = self.format.plane_size(plane, self.width, self.height).0 as usize * bytes;
            let (wide, _) = self.format.plane_size(plane, width, height);
            let (left, top) = ((x >> sx) as usize * bytes, (y >> sy) as usize);
            let rows = self.plane(plane).chunks_exact(row).skip(top);
            for (to, from) in out.chunks_exact_mut(wide as usize * bytes).zip(rows) {
                to.copy_from_slice(&from[left..left + to.len()]);
            }
        }
        part
    }

    /// All three planes at once, for writing.
    pub fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        let luma = self.format.plane_bytes(0, self.width, self.height);
        let chroma = self.format.plane_bytes(1, self.width, self.height);
        let (y, rest) = self.data.split_at_mut(luma);
        let (u, v) = rest.split_at_mut(chroma);
        [y, u, v]
    }
}

/// When a source frame is shown, in ticks of the source stream's time base, and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Presentation time; strictly increasing from frame to frame.
    pub pts: i64,
    /// Ticks until the next frame; 0 when the source does not say.
    pub duration: i64,
    /// The decoder reported damage in this frame.
    pub damaged: bool,
    /// The source's own pts was missing, doubled or backward and was mended.
    pub mended: bool,
}

/// A decoded source frame on its way.
#[derive(Clone, Debug)]
pub struct SourceFrame {
    /// Counted from 0 over the whole source.
    pub index: u64,
    pub stamp: Stamp,
    pub frame: Frame,
    pub extras: Extras,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_round_up() {
        let f = PixelFormat { chroma: Chroma::C420, depth: 8 };
        assert_eq!(f.plane_size(1, 161, 121), (81, 61));
        assert_eq!(f.frame_bytes(1, 1), 3);
        let ten = PixelFormat { chroma: Chroma::C422, depth: 10 };
        assert_eq!(ten.frame_bytes(3, 2), (6 + 4 + 4) * 2);
        let mut frame = Frame::new(ten, 3, 2);
        assert_eq!(frame.planes_mut().map(|p| p.len()), [12, 8, 8]);
        assert_eq!(frame.plane(2).len(), 8);
    }

    #[test]
    fn parts_are_cut_from_every_plane() {
        let mut frame = Frame::new(PixelFormat::YUV420, 7, 6);
        frame.data.iter_mut().enumerate().for_each(|(n, v)| *v = n as u8);
        let part = frame.part(2, 4, 5, 2);
        assert_eq!(part.plane(0), [30, 31, 32, 33, 34, 37, 38, 39, 40, 41]);
        assert_eq!((part.plane(1), part.plane(2)), (&[51, 52, 53][..], &[63, 64, 65][..]));
        assert_eq!(frame.part(0, 0, 7, 6), frame);
    }
}
