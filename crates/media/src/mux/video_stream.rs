//! The clips as one stream: surveyed once, then read packet by packet with final times.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ffmpeg_next::Packet;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::user_data::UserData;

use crate::encode::parameter_sets::{ParameterSets, has_sets, without_sets};
use crate::encode::sei::{self, Sei};
use crate::segment::clip::ClipReader;
use crate::timestamps::{VideoTimes, check_order, reorder_delay};

/// A sealed clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipRef {
    pub path: PathBuf,
    pub frames: u64,
    /// Which of the job's encoders made it.
    pub spec: usize,
}

/// What joining the clips needs to know of all of them.
#[derive(Debug)]
pub struct Survey {
    pub codec: Codec,
    pub frames: u64,
    /// Largest reordering over all clips.
    pub delay: u64,
    pub extradata: Vec<u8>,
}

fn spec_of<'a>(clip: &ClipRef, specs: &'a [EncoderSpec]) -> Result<&'a EncoderSpec> {
    specs.get(clip.spec).ok_or_else(|| {
        Fault::Mismatch.because(format!("{} names an encoder the plan does not have", escape(&clip.path)))
    })
}

/// Reads all clips once: every frame there, each clip beginning with a key frame that brings
/// its parameter sets, no two different sets under one number.
///
/// # Errors
/// [`Fault::Mismatch`] naming the clip.
pub fn survey(clips: &[ClipRef], specs: &[EncoderSpec], beat: &dyn Fn() -> Result<()>) -> Result<Survey> {
    let Some(first) = clips.first() else {
        return Err(Fault::Mismatch.because("there are no clips to join"));
    };
    let codec = spec_of(first, specs)?.codec;
    let mut sets = ParameterSets::new(codec);
    let (mut frames, mut delay) = (0, 0);
    for clip in clips {
        beat()?;
        let spec = spec_of(clip, specs)?;
        let named = || format!("clip {}", escape(&clip.path));
        if spec.codec != codec {
            return Err(Fault::Mismatch.because(format!("{} is of another codec than the first", named())));
        }
        let mut reader = ClipReader::open(&clip.path, spec)?;
        let mut order = Vec::with_capacity(clip.frames as usize);
        while let Some((number, packet)) = reader.packet().with_context(named)? {
            let data = packet.data().unwrap_or_default();
            if order.is_empty() && !(number == 0 && packet.is_key() && has_sets(codec, data)) {
                return Err(Fault::Mismatch.because(format!("{} does not begin with a whole key frame", named())));
            }
            if packet.is_key() {
                sets.add(data).with_context(named)?;
            }
            order.push(number);
        }
        check_order(&order, clip.frames).with_context(named)?;
        delay = delay.max(reorder_delay(&order));
        frames += clip.frames;
    }
    Ok(Survey { codec, frames, delay, extradata: sets.extradata() })
}

/// The user data of the frames of a clip, by the clip's place among all.
pub type UserDataOf<'a> = &'a dyn Fn(usize) -> Result<Vec<UserData>>;

/// What is written into the packets beside what the encoder made.
pub struct Beside<'a> {
    /// Into every key frame.
    pub constant: Vec<Sei>,
    pub user_data: UserDataOf<'a>,
}

/// Reads the clips one after the other, in decoding order.
pub struct VideoFeed<'a> {
    clips: std::slice::Iter<'a, ClipRef>,
    beside: Beside<'a>,
    /// Of the current clip, in the order of its frames.
    user_data: Vec<UserData>,
    /// Place of the next clip.
    next: usize,
    /// Frames whose captions were written.
    captioned: u64,
    specs: &'a [EncoderSpec],
    codec: Codec,
    times: &'a VideoTimes,
    stream: usize,
    reader: Option<ClipReader>,
    /// Number of the current clip's first frame, and of the first one after it.
    start: u64,
    end: u64,
    /// Packets given out.
    packets: usize,
}

impl<'a> VideoFeed<'a> {
    /// For output stream `stream`, with times in its ticks.
    pub fn new(
        clips: &'a [ClipRef],
        specs: &'a [EncoderSpec],
        codec: Codec,
        times: &'a VideoTimes,
        stream: usize,
        beside: Beside<'a>,
    ) -> Self {
        VideoFeed {
            clips: clips.iter(),
            beside,
            user_data: Vec::new(),
            next: 0,
            captioned: 0,
            specs,
            codec,
            times,
            stream,
            reader: None,
            start: 0,
            end: 0,
            packets: 0,
        }
    }

    /// Frames whose captions were written so far.
    pub fn captioned(&self) -> u64 {
        self.captioned
    }

    /// The next packet, ready for the muxer.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] when a clip is not what the survey saw.
    pub fn packet(&mut self) -> Result<Option<Packet>> {
        loop {
            let found = match &mut self.reader {
                Some(reader) => reader.packet()?,
                None => None,
            };
            if let Some((number, packet)) = found {
                return self.timed(number, packet).map(Some);
            }
            let Some(clip) = self.clips.next() else {
                return Ok(None);
            };
            self.user_data = (self.beside.user_data)(self.next)?;
            self.next += 1;
            self.start = self.end;
            self.end += clip.frames;
            self.reader = Some(ClipReader::open(&clip.path, spec_of(clip, self.specs)?)?);
        }
    }

    fn timed(&mut self, number: u64, packet: Packet) -> Result<Packet> {
        let frame = (self.start + number) as usize;
        if frame as u64 >= self.end || frame >= self.times.len() || self.packets >= self.times.len() {
            return Err(Fault::Mismatch.because(format!("frame {frame} was not in the clips when they were counted")));
        }
        let key = packet.is_key();
        let stripped = match key {
            true => packet.data().and_then(|data| without_sets(self.codec, data)),
            false => None,
        };
        let messages = self.messages(number, key);
        let told = match messages.is_empty() {
            true => None,
            false => {
                let data = stripped.as_deref().or(packet.data()).unwrap_or_default();
                let told = sei::insert(self.codec, data, &messages);
                Some(told.ok_or_else(|| Fault::Mismatch.because(format!("frame {frame} of the clips is no picture")))?)
            }
        };
        let mut made = match told.or(stripped) {
            Some(data) => Packet::copy(&data),
            None => packet,
        };
        made.set_flags(if key { ffmpeg_next::packet::Flags::KEY } else { ffmpeg_next::packet::Flags::empty() });
        made.set_stream(self.stream);
        made.set_pts(Some(self.times.pts(frame)));
        made.set_dts(Some(self.times.dts(self.packets)));
        made.set_duration(self.times.packet_duration(self.packets, frame));
        self.packets += 1;
        Ok(made)
    }

    /// Returns what is written into the packet of a frame of the current clip.
    fn messages(&mut self, number: u64, key: bool) -> Vec<Sei> {
        let mut messages = if key { self.beside.constant.clone() } else { Vec::new() };
        if let Ok(at) = self.user_data.binary_search_by_key(&number, |data| data.frame) {
            let data = &self.user_data[at];
            self.captioned += u64::from(!data.captions.is_empty());
            messages.extend(sei::of_frame(data));
        }
        messages
    }
}
