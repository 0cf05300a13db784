//! One opened encoder: frames in, packets out, drained at the end.

use anyhow::{Context as _, Result};
use ffmpeg_next::{Dictionary, Packet, encoder, frame, picture};

use upscaled_core::fault::Fault;
use upscaled_core::sys::memory;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::source::Rational;

use crate::encode::options;
use crate::encode::picture::{FramePool, SampleLayout};
use crate::ffi::output;

/// Frame numbers begin here in clips, so that no decoding time is ever negative.
pub const FIRST_PTS: i64 = 1024;

/// An encoder that fails while less than this can be had has failed for lack of memory, bytes. Software keeps frames
/// for its look-ahead, references and threads (libx265 at 8K: 4.3 GiB), and each thread has a stack and a heap of its own.
const HARDWARE_NEED: u64 = 64 << 20;
const SOFTWARE_NEED: u64 = 512 << 20;
const SOFTWARE_FRAMES: u64 = 40;

/// Before what a library says of its failure.
const OUT_OF_MEMORY: &str = "memory has run out, give it more: ";

/// Returns whether an encoder has failed because memory has run out on this machine. Most encoders report that as an
/// error of a library; a graphics device that is full or has no session left is another thing.
fn is_for_memory(spec: &EncoderSpec, why: &str) -> bool {
    if spec.hardware {
        return memory::is_short(HARDWARE_NEED);
    }
    let frame = u64::from(spec.width) * u64::from(spec.height) * spec.format.sample_bytes() as u64 * 3;
    memory::has_run_out(why, SOFTWARE_NEED + frame.saturating_mul(SOFTWARE_FRAMES))
}

/// An encoder opened as a spec says. Its first frame is always a key frame that nothing
/// before it is needed for; parameter sets are in band.
pub struct Session {
    encoder: encoder::Video,
    pool: FramePool,
    sent: i64,
    spec: EncoderSpec,
}

impl Session {
    /// Opens the encoder.
    ///
    /// # Errors
    /// [`Fault::Memory`] when memory has run out; [`Fault::Encoder`] for hardware, else [`Fault::Unsupported`], with
    /// FFmpeg's words.
    pub fn open(spec: &EncoderSpec) -> Result<Session> {
        let refusal = |why: String| {
            let (fault, cause) = match spec.hardware {
                _ if is_for_memory(spec, &why) => (Fault::Memory, OUT_OF_MEMORY),
                true => (Fault::Encoder, ""),
                false => (Fault::Unsupported, ""),
            };
            let (name, width, height, format) = (&spec.name, spec.width, spec.height, spec.format.ffmpeg_name());
            fault.because(format!("encoder {name} does not open at {width}x{height} {format}: {cause}{why}"))
        };
        let name = options::ffmpeg_name(&spec.name);
        let Some(codec) = encoder::find_by_name(name) else {
            return Err(refusal("this FFmpeg was built without it".into()));
        };
        let layout = SampleLayout::of(&spec.name, spec.format);
        let mut context = ffmpeg_next::codec::Context::new_with_codec(codec);
        output::prepare_encoder(&mut context, spec.rate);
        let mut video = context.encoder().video().map_err(|e| refusal(output::explained(e).to_string()))?;
        video.set_width(spec.width);
        video.set_height(spec.height);
        video.set_format(layout.pixel(spec.format));
        video.set_gop(spec.gop);
        let aspect = spec.sample_aspect;
        if aspect.is_known() {
            video.set_aspect_ratio(ffmpeg_next::Rational::new(aspect.num, aspect.den));
        }
        let mut options = Dictionary::new();
        for (name, value) in output::colour_numbers(spec.colour) {
            options.set(name, &value.to_string());
        }
        for (name, value) in &spec.options {
            options.set(name, value);
        }
        let opened = video.open_as_with(codec, options).map_err(|e| refusal(output::explained(e).to_string()))?;
        Ok(Session {
            encoder: opened,
            pool: FramePool::new(layout, spec.format, spec.width, spec.height),
            sent: 0,
            spec: spec.clone(),
        })
    }

    /// What a muxer needs to know of the encoder.
    pub fn context(&self) -> &ffmpeg_next::codec::Context {
        &self.encoder
    }

    /// Time base of the packets.
    pub fn time_base(&self) -> Rational {
        let base = self.encoder.time_base();
        Rational::new(base.numerator(), base.denominator())
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent as u64
    }

    /// Encodes the next frame and hands each finished packet to `sink`.
    pub fn send(&mut self, frame: &Frame, sink: &mut dyn FnMut(Packet) -> Result<()>) -> Result<()> {
        let mut video = self.pool.fill(frame)?;
        video.set_pts(Some(FIRST_PTS + self.sent));
        video.set_kind(if self.sent == 0 { picture::Type::I } else { picture::Type::None });
        self.send_video(&video)?;
        self.pool.give_back(video);
        self.sent += 1;
        self.receive(sink)
    }

    fn send_video(&mut self, video: &frame::Video) -> Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        self.planned_failure()?;
        let sent = self.encoder.send_frame(video);
        sent.map_err(|e| self.broken(e)).with_context(|| format!("encoding frame {}", self.sent))
    }

    /// Lets a test break the encoder: `encode.hardware` only a hardware one.
    #[cfg(any(test, feature = "failpoints"))]
    fn planned_failure(&self) -> Result<()> {
        use upscaled_core::failpoint;
        let name = &self.spec.name;
        if self.spec.hardware {
            failpoint::hit("encode.hardware")
                .map_err(|e| Fault::Encoder.because(format!("encoder {name} failed: {e:#}")))?;
        }
        failpoint::hit("encode")
    }

    /// Drains the encoder.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Packet) -> Result<()>) -> Result<()> {
        self.encoder.send_eof().map_err(|e| self.broken(e))?;
        self.receive(sink)
    }

    fn receive(&mut self, sink: &mut dyn FnMut(Packet) -> Result<()>) -> Result<()> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => sink(packet)?,
                Err(ffmpeg_next::Error::Eof) => return Ok(()),
                Err(ffmpeg_next::Error::Other { errno }) if errno == libc::EAGAIN => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn broken(&self, error: ffmpeg_next::Error) -> anyhow::Error {
        let why = output::explained(error).to_string();
        let (fault, cause) = match self.spec.hardware {
            true => (Fault::Encoder, ""),
            false if is_for_memory(&self.spec, &why) => (Fault::Memory, OUT_OF_MEMORY),
            false => (Fault::Internal, ""),
        };
        fault.because(format!("encoder {} failed: {cause}{why}", self.spec.name))
    }
}
