//! Muxing: an output file (or its rehearsal in memory) with streams copied or built by hand.
#![allow(unsafe_code)] // ffmpeg-next has no calls for side data, chapters or muxing to memory.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, Result, anyhow};
use ffmpeg_next::codec::packet::Mut as _;
use ffmpeg_next::ffi::{self, AVCodecID, AVFormatContext, AVMediaType, AVStream};
use ffmpeg_next::{Packet, Stream};

use upscaled_core::types::encoder::Codec;
use upscaled_core::types::frame::PixelFormat;
use upscaled_core::types::source::{Colour, Rational};
use upscaled_core::{atomic_file, path_text};

use crate::ffi::muxer_header::dictionary;
use crate::ffi::output::{av, channels, checked, colour_numbers, failure, length, pixel, stream_at, url};
use crate::pcm_format::Pcm;

/// The encoded video stream, as the container must describe it.
pub struct VideoTrack<'a> {
    pub codec: Codec,
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    pub sample_aspect: Rational,
    pub colour: Colour,
    /// Parameter sets in annex B form, or the AV1 sequence header OBU.
    pub extradata: &'a [u8],
    /// Frames by which decoding runs ahead of showing.
    pub delay: usize,
    /// `hvc1` for HEVC in MP4 and MOV.
    pub tag: Option<[u8; 4]>,
    pub time_base: Rational,
    /// Only for a constant rate.
    pub rate: Option<Rational>,
}

/// An output file (or a rehearsal of one, in memory).
pub struct Muxer {
    pub(super) context: *mut AVFormatContext,
    in_memory: bool,
}

// SAFETY: the context is owned by this value alone and FFmpeg ties it to no thread.
unsafe impl Send for Muxer {}

impl Muxer {
    /// Creates the file at `path` for the muxer of that name; an existing file is replaced.
    pub fn create(path: &Path, muxer: &str) -> Result<Muxer> {
        let what = || format!("cannot create {}", path_text::told(path));
        let fresh = atomic_file::create_fresh(path).with_context(what)?;
        Self::onto(&fresh, path, muxer).with_context(what)
    }

    /// Writes to an open file, which FFmpeg opens once more; `path` is its name.
    pub fn onto(file: &File, path: &Path, muxer: &str) -> Result<Muxer> {
        // FFmpeg opens by name: this one leads to the very file that was made, and through no link put there since.
        let itself = url(&Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()))?;
        let made = Self::allocate(muxer, url(path)?.as_ptr(), false)?;
        // SAFETY: the context is ours; pb is null until opened here.
        checked(unsafe { ffi::avio_open(&mut (*made.context).pb, itself.as_ptr(), ffi::AVIO_FLAG_WRITE) })?;
        Ok(made)
    }

    /// A muxer that writes to memory, to ask it what it accepts.
    pub fn rehearse(muxer: &str) -> Result<Muxer> {
        let made = Self::allocate(muxer, c"rehearsal".as_ptr(), true)?;
        // SAFETY: as above.
        checked(unsafe { ffi::avio_open_dyn_buf(&mut (*made.context).pb) })?;
        Ok(made)
    }

    fn allocate(muxer: &str, url: *const libc::c_char, in_memory: bool) -> Result<Muxer> {
        let name = CString::new(muxer)?;
        let mut context = ptr::null_mut();
        // SAFETY: both strings are C strings; on failure the context stays null.
        checked(unsafe { ffi::avformat_alloc_output_context2(&mut context, ptr::null_mut(), name.as_ptr(), url) })
            .with_context(|| format!("FFmpeg has no muxer {muxer}"))?;
        Ok(Muxer { context, in_memory })
    }

    fn new_stream(&mut self) -> Result<*mut AVStream> {
        // SAFETY: the context is ours; a null codec is allowed.
        let stream = unsafe { ffi::avformat_new_stream(self.context, ptr::null()) };
        if stream.is_null() { Err(failure(-libc::ENOMEM)) } else { Ok(stream) }
    }

    /// Streams so far.
    pub fn streams(&self) -> usize {
        // SAFETY: the context is ours.
        unsafe { (*self.context).nb_streams as usize }
    }

    pub(super) fn stream(&self, index: usize) -> *mut AVStream {
        assert!(index < self.streams(), "stream {index} of {}", self.streams());
        // SAFETY: the index was checked.
        unsafe { stream_at(self.context, index) }
    }

    /// Adds a copy of a source stream: codec parameters, time base, aspect, rates,
    /// disposition and side data. The tag is kept where this container knows it.
    pub fn copy_stream(&mut self, from: &Stream<'_>) -> Result<usize> {
        let to = self.new_stream()?;
        // SAFETY: both streams are alive; the copy is deep; side data is duplicated with
        // FFmpeg's allocator before the stream takes it over.
        unsafe {
            let from = from.as_ptr();
            checked(ffi::avcodec_parameters_copy((*to).codecpar, (*from).codecpar))?;
            let par = (*to).codecpar;
            let tags = (*(*self.context).oformat).codec_tag;
            let mut known = 0;
            let keep = tags.is_null()
                || ffi::av_codec_get_id(tags, (*par).codec_tag) == (*par).codec_id
                || ffi::av_codec_get_tag2(tags, (*par).codec_id, &mut known) == 0;
            if !keep {
                (*par).codec_tag = 0;
            }
            (*to).time_base = (*from).time_base;
            (*to).sample_aspect_ratio = (*from).sample_aspect_ratio;
            (*to).avg_frame_rate = (*from).avg_frame_rate;
            (*to).disposition = (*from).disposition;
            for i in 0..(*from).nb_side_data as usize {
                let side = (*from).side_data.add(i);
                let bytes = std::slice::from_raw_parts((*side).data, length((*side).size));
                self.attach(to, (*side).type_, bytes)?;
            }
        }
        Ok(self.streams() - 1)
    }

    /// Returns whether the container lists the codec of a stream among those that it holds. Some are written without
    /// being listed; and with the tag of another container some are written that no reader knows.
    pub fn lists(&self, stream: &Stream<'_>) -> bool {
        // SAFETY: the context and the stream are alive, and so are format and parameters.
        unsafe {
            let codec = (*(*stream.as_ptr()).codecpar).codec_id;
            ffi::avformat_query_codec((*self.context).oformat, codec, ffi::FF_COMPLIANCE_NORMAL) != 0
        }
    }

    /// Adds a stream of plain PCM with the rate, channels, disposition and side data of a source stream.
    pub fn pcm_stream(&mut self, from: &Stream<'_>, pcm: Pcm) -> Result<usize> {
        let name = CString::new(pcm.codec())?;
        let index = self.copy_stream(from)?;
        // SAFETY: the parameters belong to the stream just made; extradata is FFmpeg's own and freed once.
        unsafe {
            let par = (*self.stream(index)).codecpar;
            let codec = ffi::avcodec_find_decoder_by_name(name.as_ptr());
            if codec.is_null() {
                return Err(anyhow!("this FFmpeg has no {}", pcm.codec()));
            }
            let frame = channels(par) * i32::try_from(pcm.bytes())?;
            (*par).codec_id = (*codec).id;
            (*par).codec_tag = 0;
            (*par).format = ffi::AVSampleFormat::from(pcm.decoded()) as i32;
            (*par).bits_per_coded_sample = 8 * i32::try_from(pcm.bytes())?;
            (*par).bits_per_raw_sample = (*par).bits_per_coded_sample;
            (*par).bit_rate = i64::from((*par).bits_per_coded_sample) * i64::from(channels(par) * (*par).sample_rate);
            (*par).block_align = frame;
            (*par).frame_size = 0;
            (*par).initial_padding = 0;
            (*par).trailing_padding = 0;
            (*par).seek_preroll = 0;
            (*par).profile = ffi::FF_PROFILE_UNKNOWN;
            ffi::av_freep(ptr::addr_of_mut!((*par).extradata).cast());
            (*par).extradata_size = 0;
            (*self.stream(index)).time_base = ffi::AVRational { num: 1, den: (*par).sample_rate.max(1) };
        }
        Ok(index)
    }

    /// Adds the encoded video stream.
    pub fn video_stream(&mut self, track: &VideoTrack<'_>) -> Result<usize> {
        let to = self.new_stream()?;
        let id = codec_id(track.codec);
        // SAFETY: a context of no particular codec is made only to translate colour numbers
        // through FFmpeg's own options (which check their range) and freed below; extradata is
        // allocated with the padding FFmpeg asks for and owned by the parameters.
        unsafe {
            let mut context = ffi::avcodec_alloc_context3(ptr::null());
            if context.is_null() {
                return Err(failure(-libc::ENOMEM));
            }
            (*context).codec_type = AVMediaType::AVMEDIA_TYPE_VIDEO;
            (*context).codec_id = id;
            (*context).width = track.width as i32;
            (*context).height = track.height as i32;
            (*context).pix_fmt = pixel(track.format.ffmpeg_name()).into();
            (*context).sample_aspect_ratio = av(track.sample_aspect);
            for (name, value) in colour_numbers(track.colour) {
                let name = CString::new(name)?;
                // A number this FFmpeg does not know stays unspecified.
                ffi::av_opt_set_int(context.cast(), name.as_ptr(), i64::from(value), 0);
            }
            let code = ffi::avcodec_parameters_from_context((*to).codecpar, context);
            ffi::avcodec_free_context(&mut context);
            checked(code)?;
            let par = (*to).codecpar;
            (*par).codec_tag = track.tag.map_or(0, u32::from_le_bytes);
            (*par).video_delay = track.delay as i32;
            (*par).field_order = ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE;
            set_extradata(par, track.extradata)?;
            (*to).time_base = av(track.time_base);
            (*to).sample_aspect_ratio = av(track.sample_aspect);
            if let Some(rate) = track.rate {
                (*to).avg_frame_rate = av(rate);
                (*to).r_frame_rate = av(rate);
            }
        }
        Ok(self.streams() - 1)
    }

    /// Adds the stream an opened encoder writes (clips).
    pub fn encoder_stream(&mut self, encoder: &ffmpeg_next::codec::Context, time_base: Rational) -> Result<usize> {
        let to = self.new_stream()?;
        // SAFETY: both are alive; the parameters are copied.
        unsafe {
            checked(ffi::avcodec_parameters_from_context((*to).codecpar, encoder.as_ptr()))?;
            (*(*to).codecpar).codec_tag = 0;
            (*to).time_base = av(time_base);
        }
        Ok(self.streams() - 1)
    }

    /// Adds a picture as an attachment (Matroska's way of cover art).
    pub fn picture_attachment(&mut self, from: &Stream<'_>, picture: &[u8]) -> Result<usize> {
        let to = self.new_stream()?;
        // SAFETY: both streams are alive; extradata is owned by the parameters.
        unsafe {
            let par = (*to).codecpar;
            (*par).codec_type = AVMediaType::AVMEDIA_TYPE_ATTACHMENT;
            (*par).codec_id = (*(*from.as_ptr()).codecpar).codec_id;
            set_extradata(par, picture)?;
        }
        Ok(self.streams() - 1)
    }

    /// Writes the header. From here on `time_base` tells what the container counts in.
    pub fn write_header(&mut self, options: &[(String, String)]) -> Result<()> {
        // SAFETY: the dictionary is freed whatever happens to its entries.
        unsafe {
            let mut options = dictionary(options).disown();
            let code = ffi::avformat_write_header(self.context, &mut options);
            ffi::av_dict_free(&mut options);
            checked(code).map(drop)
        }
    }

    /// The time base the container chose for a stream.
    pub fn time_base(&self, stream: usize) -> Rational {
        // SAFETY: checked by `stream`.
        let base = unsafe { (*self.stream(stream)).time_base };
        Rational::new(base.num, base.den)
    }

    /// Gives a packet, with its stream index and times already in that stream's time base, to
    /// the interleaver.
    pub fn write(&mut self, mut packet: Packet) -> Result<()> {
        packet.set_position(-1);
        // SAFETY: the packet is ours and reference counted or copied by FFmpeg; it is blank
        // afterwards.
        checked(unsafe { ffi::av_interleaved_write_frame(self.context, packet.as_mut_ptr()) }).map(drop)
    }

    /// Writes the trailer, closes the file and returns its size in bytes.
    pub fn finish(self) -> Result<u64> {
        // SAFETY: the header was written; pb is open; closed once (closep leaves null).
        unsafe {
            let code = ffi::av_write_trailer(self.context);
            ffi::avio_flush((*self.context).pb);
            let late = (*(*self.context).pb).error;
            let size = ffi::avio_size((*self.context).pb);
            checked(code)?;
            checked(late.min(0))?;
            if !self.in_memory {
                checked(ffi::avio_closep(&mut (*self.context).pb))?;
            }
            Ok(u64::try_from(size).unwrap_or(0))
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: each is freed once; closing a null pb is allowed; the dynamic buffer is
        // handed out by FFmpeg's allocator.
        unsafe {
            if self.in_memory && !(*self.context).pb.is_null() {
                let mut buffer = ptr::null_mut();
                ffi::avio_close_dyn_buf((*self.context).pb, &mut buffer);
                (*self.context).pb = ptr::null_mut();
                ffi::av_free(buffer.cast());
            } else {
                ffi::avio_closep(&mut (*self.context).pb);
            }
            ffi::avformat_free_context(self.context);
        }
    }
}

fn codec_id(codec: Codec) -> AVCodecID {
    match codec {
        Codec::H264 => AVCodecID::AV_CODEC_ID_H264,
        Codec::Hevc => AVCodecID::AV_CODEC_ID_HEVC,
        Codec::Av1 => AVCodecID::AV_CODEC_ID_AV1,
    }
}

unsafe fn set_extradata(par: *mut ffi::AVCodecParameters, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let padding = ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
    // SAFETY: the caller vouches for `par`, which owns what is allocated here.
    unsafe {
        let copy: *mut u8 = ffi::av_mallocz(bytes.len() + padding).cast();
        if copy.is_null() {
            return Err(failure(-libc::ENOMEM));
        }
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        (*par).extradata = copy;
        (*par).extradata_size = i32::try_from(bytes.len())?;
    }
    Ok(())
}
