//! Spilled frames of one batch, read in order, however the segments overlap.

use std::path::PathBuf;
use std::vec;

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::frame::Frame;
use upscaled_media::encode::lossless;

/// A run of frames of a batch that is durable on disk, compressed without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first frame in the batch.
    pub first: u64,
    /// Frames of it that are believed; the file may hold more.
    pub count: u64,
    pub path: PathBuf,
}

/// The segments that hold frames from 0 on without a gap, in order; each adds to those before it.
pub fn chain(mut all: Vec<Segment>) -> Vec<Segment> {
    all.sort_by_key(|s| (s.first, s.count));
    let mut chained: Vec<Segment> = Vec::new();
    for segment in all {
        let end = end_of(&chained);
        if segment.first <= end && segment.first + segment.count > end {
            chained.push(segment);
        }
    }
    chained
}

/// One past the last frame of chained segments.
pub fn end_of(chained: &[Segment]) -> u64 {
    chained.last().map_or(0, |s| s.first + s.count)
}

type Frames = Box<dyn Iterator<Item = Result<Frame>> + Send>;

/// Each frame of chained segments once, with its index in the batch. After an error there is nothing more.
pub struct SegmentFrames {
    segments: vec::IntoIter<Segment>,
    /// The open segment, its frames, and the index of the next of them.
    open: Option<(Segment, Frames, u64)>,
    next: u64,
}

impl SegmentFrames {
    pub fn new(chained: Vec<Segment>) -> SegmentFrames {
        SegmentFrames { segments: chained.into_iter(), open: None, next: 0 }
    }

    fn step(&mut self) -> Result<Option<(u64, Frame)>> {
        loop {
            let Some((segment, frames, at)) = &mut self.open else {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                let frames: Frames = Box::new(lossless::read(&segment.path)?);
                let first = segment.first;
                self.open = Some((segment, frames, first));
                continue;
            };
            if *at == segment.first + segment.count {
                self.open = None;
                continue;
            }
            let Some(frame) = frames.next() else {
                let message = format!("{} holds fewer frames than its name says", escape(&segment.path));
                return Err(Fault::Mismatch.because(message));
            };
            let (index, frame) = (*at, frame?);
            *at += 1;
            if index == self.next {
                self.next += 1;
                return Ok(Some((index, frame)));
            }
        }
    }
}

impl Iterator for SegmentFrames {
    type Item = Result<(u64, Frame)>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.open = None;
            self.segments = Vec::new().into_iter();
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::types::frame::PixelFormat;

    fn segment(first: u64, count: u64) -> Segment {
        Segment { first, count, path: format!("{first}-{count}").into() }
    }

    #[test]
    fn chains_end_at_the_first_gap() {
        let made = chain(vec![segment(20, 5), segment(0, 10), segment(5, 2), segment(8, 4), segment(12, 3)]);
        assert_eq!(made, [segment(0, 10), segment(8, 4), segment(12, 3)]);
        assert_eq!(end_of(&made), 15);
        assert!(chain(vec![segment(1, 9)]).is_empty());
    }

    #[test]
    fn overlapping_segments_give_each_frame_once() {
        let folder = tempfile::tempdir().unwrap();
        let frame = |i: u64| {
            let mut frame = Frame::new(PixelFormat::YUV420, 32, 16);
            frame.data.fill(i as u8);
            frame
        };
        let made = |first: u64, count: u64| {
            let path = folder.path().join(format!("{first}-{count}.nut"));
            let frames = (first..first + count).map(|i| Ok(frame(i)));
            lossless::write(&path, PixelFormat::YUV420, 32, 16, frames).unwrap();
            Segment { first, count, path }
        };
        let mut cut = made(7, 6);
        cut.count = 4;
        let chained = chain(vec![made(0, 5), made(3, 4), cut]);
        let all: Vec<_> = SegmentFrames::new(chained).map(Result::unwrap).collect();
        assert_eq!(all.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
        assert!(all.iter().all(|(i, f)| *f == frame(*i)));
        let mut long = made(0, 5);
        long.count = 6;
        let mut short = SegmentFrames::new(vec![long]);
        assert_eq!(short.by_ref().take_while(Result::is_ok).count(), 5);
        assert!(short.next().is_none());
    }
}
