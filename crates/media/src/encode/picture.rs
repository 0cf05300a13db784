//! Frames of ours into FFmpeg's frames and back: plain row copies, or NVENC's 10-bit layouts.

use anyhow::{Result, bail};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video;

use upscaled_core::types::frame::{Chroma, Frame, PixelFormat};

use crate::ffi::output;

/// How an encoder wants its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleLayout {
    /// Planar, as ours.
    Planar,
    /// `p010le`: chroma interleaved, samples in the upper 10 of 16 bits.
    P010,
    /// `yuv444p16le`: planar, samples in the upper 10 of 16 bits.
    High444,
}

impl SampleLayout {
    /// The layout for an encoder: NVENC takes 10 bits only in the upper bits.
    pub fn of(encoder: &str, format: PixelFormat) -> SampleLayout {
        match (encoder.ends_with("_nvenc") && format.depth > 8, format.chroma) {
            (true, Chroma::C420) => SampleLayout::P010,
            (true, Chroma::C444) => SampleLayout::High444,
            _ => SampleLayout::Planar,
        }
    }

    /// FFmpeg's pixel format.
    pub fn pixel(self, format: PixelFormat) -> Pixel {
        output::pixel(match self {
            SampleLayout::Planar => format.ffmpeg_name(),
            SampleLayout::P010 => "p010le",
            SampleLayout::High444 => "yuv444p16le",
        })
    }
}

/// FFmpeg frames of one size, used again as soon as the encoder lets go of them.
pub struct FramePool {
    layout: SampleLayout,
    format: PixelFormat,
    width: u32,
    height: u32,
    free: Vec<Video>,
}

impl FramePool {
    pub fn new(layout: SampleLayout, format: PixelFormat, width: u32, height: u32) -> FramePool {
        FramePool { layout, format, width, height, free: Vec::new() }
    }

    /// An FFmpeg frame holding the samples of `frame`.
    ///
    /// # Errors
    /// When the frame is of another size or format than the pool.
    pub fn fill(&mut self, frame: &Frame) -> Result<Video> {
        if (frame.format, frame.width, frame.height) != (self.format, self.width, self.height) {
            bail!(
                "a frame of {}x{} {} came to an encoder of {}x{} {}",
                frame.width,
                frame.height,
                frame.format.ffmpeg_name(),
                self.width,
                self.height,
                self.format.ffmpeg_name()
            );
        }
        let reusable = self.free.iter_mut().position(output::is_writable);
        let mut video = match reusable {
            Some(index) => self.free.swap_remove(index),
            None => Video::new(self.layout.pixel(self.format), self.width, self.height),
        };
        if video.planes() == 0 {
            bail!("no memory for a frame of {}x{}", self.width, self.height);
        }
        match self.layout {
            SampleLayout::Planar => (0..3).for_each(|p| copy_rows(frame, p, &mut video)),
            SampleLayout::P010 => {
                copy_high(frame, 0, &mut video);
                interleave_high(frame, &mut video);
            }
            SampleLayout::High444 => (0..3).for_each(|p| copy_high(frame, p, &mut video)),
        }
        Ok(video)
    }

    /// Gives a frame back after it was sent.
    pub fn give_back(&mut self, video: Video) {
        self.free.push(video);
    }
}

fn copy_rows(frame: &Frame, plane: usize, video: &mut Video) {
    let (width, _) = frame.format.plane_size(plane, frame.width, frame.height);
    let row = width as usize * frame.format.sample_bytes();
    let stride = video.stride(plane);
    let source = frame.plane(plane).chunks_exact(row);
    for (to, from) in video.data_mut(plane).chunks_mut(stride).zip(source) {
        to[..row].copy_from_slice(from);
    }
}

fn high(sample: &[u8]) -> [u8; 2] {
    (u16::from_le_bytes([sample[0], sample[1]]) << 6).to_le_bytes()
}

fn copy_high(frame: &Frame, plane: usize, video: &mut Video) {
    let (width, _) = frame.format.plane_size(plane, frame.width, frame.height);
    let row = width as usize * 2;
    let stride = video.stride(plane);
    let source = frame.plane(plane).chunks_exact(row);
    for (to, from) in video.data_mut(plane).chunks_mut(stride).zip(source) {
        for (to, from) in to.chunks_exact_mut(2).zip(from.chunks_exact(2)) {
            to.copy_from_slice(&high(from));
        }
    }
}

fn interleave_high(frame: &Frame, video: &mut Video) {
    let (width, _) = frame.format.plane_size(1, frame.width, frame.height);
    let row = width as usize * 2;
    let stride = video.stride(1);
    let source = frame.plane(1).chunks_exact(row).zip(frame.plane(2).chunks_exact(row));
    for (to, (u, v)) in video.data_mut(1).chunks_mut(stride).zip(source) {
        for (to, (u, v)) in to.chunks_exact_mut(4).zip(u.chunks_exact(2).zip(v.chunks_exact(2))) {
            to[..2].copy_from_slice(&high(u));
            to[2..].copy_from_slice(&high(v));
        }
    }
}

/// Whether a decoded frame is of this size and layout; full-range twins such as `yuvj420p`
/// count as the same.
pub fn is(video: &Video, format: PixelFormat, width: u32, height: u32) -> bool {
    let same = match video.format() {
        Pixel::YUVJ420P => format == PixelFormat::YUV420,
        Pixel::YUVJ422P => format == PixelFormat { chroma: Chroma::C422, depth: 8 },
        Pixel::YUVJ444P => format == PixelFormat { chroma: Chroma::C444, depth: 8 },
        other => other == output::pixel(format.ffmpeg_name()),
    };
    same && video.width() == width && video.height() == height
}

/// The samples of a decoded frame, without padding. `None` when [`is`] says no.
pub fn take(video: &Video, format: PixelFormat, width: u32, height: u32) -> Option<Frame> {
    if !is(video, format, width, height) {
        return None;
    }
    let mut frame = Frame::new(format, width, height);
    for plane in 0..3 {
        let row = format.plane_size(plane, width, height).0 as usize * format.sample_bytes();
        let source = video.data(plane).chunks(video.stride(plane));
        for (to, from) in frame.plane_mut(plane).chunks_exact_mut(row).zip(source) {
            to.copy_from_slice(&from[..row]);
        }
    }
    Some(frame)
}

/// Mean absolute difference of all samples of two frames alike in size and format, in 8-bit
/// steps.
pub fn mean_difference(a: &Frame, b: &Frame) -> f64 {
    let scale = if a.format.depth > 8 { 4.0 } else { 1.0 };
    let (sum, count) = if a.format.sample_bytes() == 1 {
        let sum = a.data.iter().zip(&b.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
        (sum, a.data.len())
    } else {
        let code = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let pairs = a.data.chunks_exact(2).zip(b.data.chunks_exact(2));
        (pairs.map(|(a, b)| u64::from(code(a).abs_diff(code(b)))).sum::<u64>(), a.data.len() / 2)
    };
    if count == 0 { 0.0 } else { sum as f64 / count as f64 / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(format: PixelFormat, width: u32, height: u32) -> Frame {
        let mut frame = Frame::new(format, width, height);
        let max = format.max_code() as usize;
        if format.depth == 8 {
            frame.data.iter_mut().enumerate().for_each(|(i, b)| *b = (i % (max + 1)) as u8);
        } else {
            let samples = frame.data.chunks_exact_mut(2).enumerate();
            samples.for_each(|(i, b)| b.copy_from_slice(&((i * 7 % (max + 1)) as u16).to_le_bytes()));
        }
        frame
    }

    #[test]
    fn planar_frames_come_back() {
        for chroma in [Chroma::C420, Chroma::C422, Chroma::C444] {
            for depth in [8, 10] {
                let format = PixelFormat { chroma, depth };
                let frame = ramp(format, 37, 23);
                let mut pool = FramePool::new(SampleLayout::Planar, format, 37, 23);
                let video = pool.fill(&frame).unwrap();
                assert_eq!(take(&video, format, 37, 23).as_ref(), Some(&frame));
                assert!(take(&video, format, 36, 23).is_none());
                let address = video.data(0).as_ptr();
                pool.give_back(video);
                assert_eq!(pool.fill(&frame).unwrap().data(0).as_ptr(), address, "the frame is used again");
            }
        }
    }

    #[test]
    fn nvenc_takes_ten_bits_in_the_upper_bits() {
        let format = PixelFormat { chroma: Chroma::C420, depth: 10 };
        assert_eq!(SampleLayout::of("hevc_nvenc", format), SampleLayout::P010);
        assert_eq!(SampleLayout::of("libx265", format), SampleLayout::Planar);
        let frame = ramp(format, 6, 4);
        let video = FramePool::new(SampleLayout::P010, format, 6, 4).fill(&frame).unwrap();
        let code = |bytes: &[u8], i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        let row = &video.data(0)[video.stride(0)..];
        assert_eq!(code(row, 2), code(frame.plane(0), 8) << 6);
        let row = &video.data(1)[video.stride(1)..];
        assert_eq!(code(row, 0), code(frame.plane(1), 3) << 6);
        assert_eq!(code(row, 1), code(frame.plane(2), 3) << 6);
        assert_eq!(code(row, 4), code(frame.plane(1), 5) << 6);
    }

    #[test]
    fn differences_are_in_eight_bit_steps() {
        let format = PixelFormat { chroma: Chroma::C444, depth: 10 };
        let (a, mut b) = (Frame::new(format, 4, 4), Frame::new(format, 4, 4));
        b.data.chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&8u16.to_le_bytes()));
        assert_eq!(mean_difference(&a, &b), 2.0);
    }
}
