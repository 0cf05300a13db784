//! The source's frames, one after the other, with their timestamps.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, Result};
use ffmpeg_next::frame;

use crate::decode::convert::FrameConverter;
use crate::decode::deinterlace::{Deinterlacer, PRE_ROLL};
use crate::decode::feed::{self, FrameReader};
use crate::decode::frame_data::SideDataWatch;
pub use crate::decode::seek::SeekPoint;
use crate::decode::stamps::Mender;
use crate::demux::FRAMES_MAX;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::frame::{Frame, SourceFrame, Stamp};
use upscaled_core::types::source::SourceInfo;
use upscaled_core::types::user_data::Extras;

/// How a source is decoded. Fixed by the plan: damaged streams decode differently with other
/// thread counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// 0 counts as 1.
    pub threads: u32,
    /// Deinterlace the frames flagged as interlaced.
    pub deinterlace: bool,
}

/// What the source has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeDamage {
    /// Frames the decoder marked as damaged.
    pub frames: u64,
    /// Packets that were unreadable or refused.
    pub packets: u64,
    /// Frames whose time was missing, doubled or backward.
    pub mended: u64,
    /// Frames brought to the size of the first.
    pub resized: u64,
    /// Restarts of the source's clock that were bridged.
    pub jumps: u64,
}

/// A source opened for its frames, in presentation order, from the first or from a resume point.
pub struct Decoder {
    pub(crate) feed: FrameReader,
    pub(crate) mender: Mender,
    converter: FrameConverter,
    deinterlace: bool,
    filter: Option<Deinterlacer>,
    /// Stamps and extras of the frames inside the filter, oldest first, with their numbers.
    inside: VecDeque<(u64, Stamp, Extras)>,
    /// The last frames skipped past: what the filter needs before the next one.
    recent: VecDeque<(u64, frame::Video)>,
    /// Number of the next frame decoded, and of the next one handed out.
    decoded: u64,
    pub(crate) index: u64,
    drained: bool,
    resized: u64,
    watch: SideDataWatch,
    name: String,
}

impl Decoder {
    /// Opens the video stream that the probe chose, at its first frame.
    pub fn open(path: &Path, info: &SourceInfo, options: DecodeOptions) -> Result<Decoder> {
        let video = &info.video;
        let name = escape(path);
        let input = feed::open_with(path, video.stream)?;
        let (start, ticks, watch) = {
            let stream = input.stream(video.stream).with_context(|| format!("{name} has lost its video stream"))?;
            let start = stream.start_time();
            let start = if start == ffmpeg_next::ffi::AV_NOPTS_VALUE { 0 } else { start };
            (start, nominal_ticks(info), SideDataWatch::new(info, &stream))
        };
        Ok(Decoder {
            feed: FrameReader::new(path, input, video.stream, options.threads)?,
            mender: Mender::new(ticks, start),
            converter: FrameConverter::new(video.format, video.width, video.height, video.colour),
            deinterlace: options.deinterlace,
            filter: None,
            inside: VecDeque::new(),
            recent: VecDeque::new(),
            decoded: 0,
            index: 0,
            drained: false,
            resized: 0,
            watch,
            name,
        })
    }

    /// The next frame; `None` after the last one.
    #[allow(clippy::should_implement_trait)] // an iterator cannot stop at an error and be asked again
    pub fn next(&mut self) -> Result<Option<SourceFrame>> {
        let Some((stamp, mut extras, picture)) = self.advance()? else { return Ok(None) };
        let frame = self.convert(&picture)?;
        self.watch.tell_once(&mut extras.losses);
        Ok(Some(SourceFrame { index: self.count()?, stamp, frame, extras }))
    }

    /// The index of the frame that was decoded now.
    fn count(&mut self) -> Result<u64> {
        let index = self.index;
        if index >= FRAMES_MAX {
            let words = format!("{} has more than {FRAMES_MAX} frames; cut it into parts", self.name);
            return Err(Fault::Unsupported.because(words));
        }
        self.index += 1;
        Ok(index)
    }

    /// Passes over the next frame without touching its pixels: its index and stamp, the same as
    /// [`Decoder::next`] would give.
    pub fn skip(&mut self) -> Result<Option<(u64, Stamp)>> {
        let stamp = if self.deinterlace && self.filter.is_none() {
            // Nothing is inside the filter yet: the frame needs not go through it.
            let Some((number, stamp, _, picture)) = self.decode()? else { return Ok(None) };
            if self.recent.len() == PRE_ROLL {
                self.recent.pop_front();
            }
            self.recent.push_back((number, picture));
            stamp
        } else {
            let Some((stamp, ..)) = self.advance()? else { return Ok(None) };
            stamp
        };
        Ok(Some((self.count()?, stamp)))
    }

    /// What the source has cost so far.
    pub fn damage(&self) -> DecodeDamage {
        let feed = self.feed.damage();
        DecodeDamage {
            frames: feed.frames,
            packets: feed.packets,
            mended: self.mender.mended(),
            resized: self.resized,
            jumps: self.feed.jumps(),
        }
    }

    pub(crate) fn convert(&mut self, picture: &frame::Video) -> Result<Frame> {
        self.converter.convert(picture).with_context(|| format!("frame {} of {}", self.index, self.name))
    }

    /// The next picture to hand out, deinterlaced where asked.
    pub(crate) fn advance(&mut self) -> Result<Option<(Stamp, Extras, frame::Video)>> {
        if !self.deinterlace {
            return Ok(self.decode()?.map(|(_, stamp, extras, picture)| (stamp, extras, picture)));
        }
        if self.filter.is_none() {
            let mut filter = Deinterlacer::new();
            for (number, picture) in self.recent.drain(..) {
                filter.push(number, picture)?;
            }
            self.filter = Some(filter);
        }
        let expected = self.inside.front().map_or(self.decoded, |(number, ..)| *number);
        loop {
            let ready = self.filter.as_mut().and_then(Deinterlacer::pop);
            match ready {
                Some((number, _)) if number < expected => continue,
                Some((number, picture)) => {
                    let found = self.inside.pop_front().filter(|(n, ..)| *n == number);
                    let (_, stamp, extras) = found.ok_or_else(|| {
                        Fault::Internal.because(format!("deinterlacing {} lost frame {expected}", self.name))
                    })?;
                    return Ok(Some((stamp, extras, picture)));
                }
                None if self.drained => {
                    return if self.inside.is_empty() {
                        Ok(None)
                    } else {
                        Err(Fault::Internal.because(format!("deinterlacing {} lost its last frames", self.name)))
                    };
                }
                None => {
                    let next = self.decode()?;
                    let Some(filter) = &mut self.filter else { return Ok(None) };
                    match next {
                        Some((number, stamp, extras, picture)) => {
                            self.inside.push_back((number, stamp, extras));
                            filter.push(number, picture)?;
                        }
                        None => {
                            self.drained = true;
                            filter.finish()?;
                        }
                    }
                }
            }
        }
    }

    /// The next picture of the decoder with its number, stamp and what else it says.
    fn decode(&mut self) -> Result<Option<(u64, Stamp, Extras, frame::Video)>> {
        let Some((picture, raw)) = self.feed.picture(u64::MAX)? else { return Ok(None) };
        feed::check_size(&self.name, &picture)?;
        self.resized += u64::from(self.converter.resizes(&picture));
        let number = self.decoded;
        self.decoded += 1;
        Ok(Some((number, self.mender.stamp(raw), self.watch.look(&picture), picture)))
    }
}

/// Ticks of the time base between two frames at the average rate; 0 when that is unknown.
pub(crate) fn nominal_ticks(info: &SourceInfo) -> i64 {
    let (rate, base) = (info.video.average_rate, info.video.time_base);
    if !rate.is_known() || !base.is_known() {
        return 0;
    }
    let ticks = i128::from(rate.den) * i128::from(base.den) / (i128::from(rate.num) * i128::from(base.num)).max(1);
    i64::try_from(ticks).unwrap_or(0)
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
