//! Deinterlacing with bwdif: one frame out for each frame in, only frames flagged as interlaced.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use ffmpeg_next::filter::{self, Graph};
use ffmpeg_next::{Error, frame};

use upscaled_core::fault::Fault;

use crate::ffi::picture;

/// Frames that a deinterlaced frame depends on before it.
pub const PRE_ROLL: usize = 2;
/// bwdif's smallest picture.
const SIDE_MIN: u32 = 3;

/// A running filter. Frames are numbered by the caller and come out under their number.
pub struct Deinterlacer {
    graph: Option<(Geometry, Graph)>,
    ready: VecDeque<(u64, frame::Video)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Geometry {
    format: String,
    width: u32,
    height: u32,
}

impl Default for Deinterlacer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deinterlacer {
    pub fn new() -> Deinterlacer {
        Deinterlacer { graph: None, ready: VecDeque::new() }
    }

    /// Gives the next frame, numbered `number` (increasing), to the filter.
    pub fn push(&mut self, number: u64, mut picture: frame::Video) -> Result<()> {
        let geometry = Geometry {
            format: picture::frame_facts(&picture).map(|f| f.name).unwrap_or_default(),
            width: picture.width(),
            height: picture.height(),
        };
        if self.graph.as_ref().is_none_or(|(old, _)| *old != geometry) {
            self.finish()?;
            if geometry.width < SIDE_MIN || geometry.height < SIDE_MIN {
                self.ready.push_back((number, picture));
                return Ok(());
            }
            self.graph = Some((geometry.clone(), build(&geometry)?));
        }
        picture.set_pts(Some(number as i64));
        if let Some((_, graph)) = &mut self.graph {
            let mut source = graph.get("in").context("the deinterlacing filter has no input")?;
            source.source().add(&picture).map_err(failed)?;
            pull(graph, &mut self.ready)?;
        }
        Ok(())
    }

    /// The next finished frame with its number, in order.
    pub fn pop(&mut self) -> Option<(u64, frame::Video)> {
        self.ready.pop_front()
    }

    /// No more frames (or none of this size): the rest comes out.
    pub fn finish(&mut self) -> Result<()> {
        if let Some((_, mut graph)) = self.graph.take() {
            let mut source = graph.get("in").context("the deinterlacing filter has no input")?;
            source.source().flush().map_err(failed)?;
            pull(&mut graph, &mut self.ready)?;
        }
        Ok(())
    }
}

fn failed(error: Error) -> anyhow::Error {
    Fault::Internal.because(format!("deinterlacing failed: {error}"))
}

fn build(geometry: &Geometry) -> Result<Graph> {
    let find = |name| {
        filter::find(name).ok_or_else(|| Fault::Unsupported.because(format!("this FFmpeg has no filter \"{name}\"")))
    };
    let Geometry { format, width, height } = geometry;
    let mut graph = Graph::new();
    let arguments = format!("video_size={width}x{height}:pix_fmt={format}:time_base=1/1000:pixel_aspect=1/1");
    graph.add(&find("buffer")?, "in", &arguments).map_err(failed)?;
    graph.add(&find("buffersink")?, "out", "").map_err(failed)?;
    let spec = "bwdif=mode=send_frame:parity=auto:deint=interlaced";
    graph.output("in", 0).and_then(|p| p.input("out", 0)).and_then(|p| p.parse(spec)).map_err(failed)?;
    graph.validate().map_err(failed)?;
    Ok(graph)
}

fn pull(graph: &mut Graph, ready: &mut VecDeque<(u64, frame::Video)>) -> Result<()> {
    let mut sink = graph.get("out").context("the deinterlacing filter has no output")?;
    loop {
        let mut picture = frame::Video::empty();
        match sink.sink().frame(&mut picture) {
            // The filter halves the time base, whatever its mode.
            Ok(()) => {
                let number = picture.pts().and_then(|pts| u64::try_from(pts / 2).ok());
                ready.push_back((number.context("the deinterlacing filter lost a frame's number")?, picture));
            }
            Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, value: u8) -> frame::Video {
        let mut picture = frame::Video::new(ffmpeg_next::format::Pixel::YUV420P, width, height);
        for plane in 0..3 {
            picture.data_mut(plane).fill(value);
        }
        picture
    }

    fn numbers(sizes: &[(u32, u32)]) -> Vec<u64> {
        let mut filter = Deinterlacer::new();
        let mut out = Vec::new();
        for (i, (w, h)) in sizes.iter().enumerate() {
            filter.push(10 + i as u64, flat(*w, *h, i as u8)).unwrap();
            while let Some((number, picture)) = filter.pop() {
                // A progressive frame passes unchanged.
                assert_eq!(u64::from(picture.data(0)[0]) + 10, number);
                out.push(number);
            }
        }
        filter.finish().unwrap();
        out.extend(std::iter::from_fn(|| filter.pop()).map(|(n, _)| n));
        out
    }

    #[test]
    fn one_out_for_each_in() {
        crate::init();
        for count in 0..6 {
            let sizes = vec![(32, 16); count];
            assert_eq!(numbers(&sizes), (10..10 + count as u64).collect::<Vec<_>>(), "{count} frames");
        }
    }

    #[test]
    fn a_change_of_size_loses_nothing() {
        crate::init();
        assert_eq!(numbers(&[(32, 16), (32, 16), (16, 16), (1, 1), (16, 16), (16, 16)]), (10..16).collect::<Vec<_>>());
    }
}
