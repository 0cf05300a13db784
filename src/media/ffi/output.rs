//! Muxing with streams copied or built by hand, and the few encoder calls that need pointers.
#![allow(unsafe_code)] // ffmpeg-next has no calls for side data, tags, chapters or byte paths.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, Result, anyhow};
use ffmpeg_next::codec::packet::{Mut as _, Ref as _};
use ffmpeg_next::ffi::{self, AVCodecID, AVFormatContext, AVMediaType, AVPacketSideDataType, AVStream};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Dictionary, Packet, Stream, frame};

use crate::base::path_text;
use crate::model::encoder::Codec;
use crate::model::frame::PixelFormat;
use crate::model::source::{Colour, Rational};

/// An FFmpeg error code as an error; those of the operating system stay `std::io::Error`, so
/// that a full disk is told from a refusal.
pub fn failure(code: i32) -> anyhow::Error {
    let system = [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS, libc::ENOENT, libc::EACCES, libc::ENOMEM];
    match system.contains(&-code) {
        true => std::io::Error::from_raw_os_error(-code).into(),
        false => anyhow!("{}", words(code)),
    }
}

/// FFmpeg's words for an error code.
fn words(code: i32) -> String {
    let mut buffer = [0u8; 128];
    // SAFETY: the buffer is as long as we say; what is written ends with a zero.
    unsafe { ffi::av_strerror(code, buffer.as_mut_ptr().cast(), buffer.len()) };
    let end = buffer.iter().position(|&b| b == 0).unwrap_or(buffer.len());
    format!("{} ({code})", String::from_utf8_lossy(&buffer[..end]))
}

/// An error of ffmpeg-next as [`failure`] has it; its own words need FFmpeg's table set up.
pub fn explained(error: ffmpeg_next::Error) -> anyhow::Error {
    failure(error.into())
}

fn checked(code: i32) -> Result<i32> {
    if code < 0 { Err(failure(code)) } else { Ok(code) }
}

/// `file:` and the bytes of the path, so that no name is taken for a protocol or an option.
fn url(path: &Path) -> Result<CString> {
    let mut bytes = b"file:".to_vec();
    bytes.extend_from_slice(path.as_os_str().as_bytes());
    CString::new(bytes).context("a path holds a zero byte")
}

/// Opens a media file for demuxing; with `look` its first packets are read to fill in what
/// the header leaves open.
///
/// # Errors
/// FFmpeg's refusal, naming the file.
pub fn open_input(path: &Path, look: bool) -> Result<Input> {
    let url = url(path)?;
    let mut context: *mut AVFormatContext = ptr::null_mut();
    // SAFETY: `url` is a C string; on failure FFmpeg frees the context and leaves it null.
    checked(unsafe { ffi::avformat_open_input(&mut context, url.as_ptr(), ptr::null(), ptr::null_mut()) })
        .with_context(|| format!("cannot open {}", path_text::escape(path)))?;
    if look {
        // SAFETY: `context` was just opened.
        let code = unsafe { ffi::avformat_find_stream_info(context, ptr::null_mut()) };
        if code < 0 {
            // SAFETY: still ours, closed once.
            unsafe { ffi::avformat_close_input(&mut context) };
            return Err(failure(code)).with_context(|| format!("cannot read {}", path_text::escape(path)));
        }
    }
    // SAFETY: ownership of the open context passes to `Input`, which closes it.
    Ok(unsafe { Input::wrap(context) })
}

/// Whether timestamps of this kind of file begin anywhere and may jump (MPEG-TS, PS, Ogg).
pub fn arbitrary_origin(input: &Input) -> bool {
    // SAFETY: an open input has its format set.
    unsafe { (*(*input.as_ptr()).iformat).flags & ffi::AVFMT_TS_DISCONT != 0 }
}

/// Whether this FFmpeg's Matroska muxer writes the codec delay of every codec and moves the
/// blocks by it. Before libavformat 59.30.100 it wrote that of Opus alone and moved nothing.
pub fn moves_by_codec_delay() -> bool {
    // SAFETY: a constant of the library.
    let version = unsafe { ffi::avformat_version() };
    version >= (59 << 16 | 30 << 8 | 100)
}

/// Asks the demuxer to skip the packets of a stream.
pub fn discard(input: &mut Input, stream: usize) {
    if stream < input.nb_streams() as usize {
        // SAFETY: the index is below nb_streams; the stream lives with the input.
        unsafe { (*stream_at(input.as_mut_ptr(), stream)).discard = ffi::AVDiscard::AVDISCARD_ALL };
    }
}

unsafe fn stream_at(context: *mut AVFormatContext, index: usize) -> *mut AVStream {
    // SAFETY: the caller vouches for the index.
    unsafe { *(*context).streams.add(index) }
}

/// What the muxers need to know of a source stream.
pub struct StreamFacts {
    /// FFmpeg's name of the codec; `none` when it knows none.
    pub codec: String,
    pub media: ffmpeg_next::media::Type,
    /// Four bytes, as in the source's container.
    pub tag: [u8; 4],
    pub sample_rate: i32,
    pub channels: i32,
    /// Samples of codec delay the container knows of.
    pub initial_padding: i32,
    /// Bits of one sample where the codec has a fixed number (PCM), else 0.
    pub fixed_bits: i32,
    pub attached_picture: bool,
    pub extradata: Vec<u8>,
}

/// Reads the facts of a stream.
pub fn facts(stream: &Stream<'_>) -> StreamFacts {
    // SAFETY: stream and its codecpar live with the input that `stream` borrows; extradata is
    // extradata_size bytes long or null; the codec's name is a static C string.
    unsafe {
        let par = (*stream.as_ptr()).codecpar;
        let id = (*par).codec_id;
        let name = std::ffi::CStr::from_ptr(ffi::avcodec_get_name(id)).to_string_lossy().into_owned();
        let extradata = match (*par).extradata.is_null() || (*par).extradata_size <= 0 {
            true => Vec::new(),
            false => std::slice::from_raw_parts((*par).extradata, (*par).extradata_size as usize).to_vec(),
        };
        StreamFacts {
            codec: if id == AVCodecID::AV_CODEC_ID_NONE { "none".into() } else { name },
            media: (*par).codec_type.into(),
            tag: (*par).codec_tag.to_le_bytes(),
            sample_rate: (*par).sample_rate,
            channels: (*par).ch_layout.nb_channels,
            initial_padding: (*par).initial_padding,
            fixed_bits: ffi::av_get_bits_per_sample(id),
            attached_picture: (*stream.as_ptr()).disposition & ffi::AV_DISPOSITION_ATTACHED_PIC != 0,
            extradata,
        }
    }
}

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

fn av(value: Rational) -> ffi::AVRational {
    ffi::AVRational { num: value.num, den: value.den }
}

/// An output file (or a rehearsal of one, in memory).
pub struct Muxer {
    context: *mut AVFormatContext,
    in_memory: bool,
}

// SAFETY: the context is owned by this value alone and FFmpeg ties it to no thread.
unsafe impl Send for Muxer {}

impl Muxer {
    /// Creates the file at `path` for the muxer of that name; an existing file is replaced.
    pub fn create(path: &Path, muxer: &str) -> Result<Muxer> {
        let url = url(path)?;
        let made = Self::allocate(muxer, url.as_ptr(), false)?;
        // SAFETY: the context is ours; pb is null until opened here.
        checked(unsafe { ffi::avio_open(&mut (*made.context).pb, url.as_ptr(), ffi::AVIO_FLAG_WRITE) })
            .with_context(|| format!("cannot create {}", path_text::escape(path)))?;
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
        checked(unsafe { ffi::avformat_alloc_output_context2(&mut context, ptr::null(), name.as_ptr(), url) })
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

    fn stream(&self, index: usize) -> *mut AVStream {
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
                let bytes = std::slice::from_raw_parts((*side).data, (*side).size);
                self.attach(to, (*side).type_, bytes)?;
            }
        }
        Ok(self.streams() - 1)
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

    /// Replaces the codec delay of an audio stream, in samples.
    pub fn set_initial_padding(&mut self, stream: usize, samples: i32) {
        // SAFETY: checked by `stream`.
        unsafe { (*(*self.stream(stream)).codecpar).initial_padding = samples };
    }

    /// Copies one kind of side data from a source stream; false when it has none.
    pub fn copy_side_data(&mut self, stream: usize, from: &Stream<'_>, kind: AVPacketSideDataType) -> Result<bool> {
        // SAFETY: the bytes belong to the source stream, which outlives this call.
        let found = unsafe { side_data(from.as_ptr(), kind) };
        match found {
            Some(bytes) => self.set_side_data(stream, kind, &bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// Attaches side data to a stream.
    pub fn set_side_data(&mut self, stream: usize, kind: AVPacketSideDataType, bytes: &[u8]) -> Result<()> {
        let to = self.stream(stream);
        self.attach(to, kind, bytes)
    }

    fn attach(&mut self, to: *mut AVStream, kind: AVPacketSideDataType, bytes: &[u8]) -> Result<()> {
        // SAFETY: the copy is made with FFmpeg's allocator; the stream owns it unless the call
        // fails, when it is freed here.
        unsafe {
            let copy = ffi::av_memdup(bytes.as_ptr().cast(), bytes.len());
            if copy.is_null() {
                return Err(failure(-libc::ENOMEM));
            }
            let code = ffi::av_stream_add_side_data(to, kind, copy.cast(), bytes.len());
            if code < 0 {
                ffi::av_free(copy);
            }
            checked(code).map(drop)
        }
    }

    /// Sets the disposition flags of a stream (FFmpeg's bits).
    pub fn set_disposition(&mut self, stream: usize, flags: i32) {
        // SAFETY: checked by `stream`.
        unsafe { (*self.stream(stream)).disposition = flags };
    }

    /// Replaces the metadata of a stream.
    pub fn set_stream_metadata(&mut self, stream: usize, tags: &[(String, String)]) {
        let to = self.stream(stream);
        // SAFETY: the old dictionary is freed once, the new one is handed over.
        unsafe {
            ffi::av_dict_free(&mut (*to).metadata);
            (*to).metadata = dictionary(tags).disown();
        }
    }

    /// Replaces the metadata of the file.
    pub fn set_metadata(&mut self, tags: &[(String, String)]) {
        // SAFETY: as above.
        unsafe {
            ffi::av_dict_free(&mut (*self.context).metadata);
            (*self.context).metadata = dictionary(tags).disown();
        }
    }

    /// Adds a chapter.
    pub fn add_chapter(
        &mut self,
        id: i64,
        time_base: Rational,
        start: i64,
        end: i64,
        tags: &[(String, String)],
    ) -> Result<()> {
        // SAFETY: the chapter is allocated with FFmpeg's allocator and appended to the array
        // that avformat_free_context frees; on failure it is freed here.
        unsafe {
            let chapter: *mut ffi::AVChapter = ffi::av_mallocz(size_of::<ffi::AVChapter>()).cast();
            if chapter.is_null() {
                return Err(failure(-libc::ENOMEM));
            }
            let mut count = (*self.context).nb_chapters as i32;
            let table = ptr::addr_of_mut!((*self.context).chapters);
            if ffi::av_dynarray_add_nofree(table.cast(), &mut count, chapter.cast()) < 0 {
                ffi::av_free(chapter.cast());
                return Err(failure(-libc::ENOMEM));
            }
            (*self.context).nb_chapters = count as u32;
            (*chapter).id = id;
            (*chapter).time_base = av(time_base);
            (*chapter).start = start;
            (*chapter).end = end;
            (*chapter).metadata = dictionary(tags).disown();
        }
        Ok(())
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

unsafe fn side_data(stream: *const AVStream, kind: AVPacketSideDataType) -> Option<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the caller vouches for the stream; what is returned is `size` bytes long.
    unsafe {
        let data = ffi::av_stream_get_side_data(stream, kind, &mut size);
        (!data.is_null()).then(|| std::slice::from_raw_parts(data, size).to_vec())
    }
}

/// One kind of side data of a source stream.
pub fn stream_side_data(stream: &Stream<'_>, kind: AVPacketSideDataType) -> Option<Vec<u8>> {
    // SAFETY: the stream lives with the input it borrows.
    unsafe { side_data(stream.as_ptr(), kind) }
}

/// The picture of an attached-picture stream.
pub fn attached_picture(stream: &Stream<'_>) -> Option<Packet> {
    let mut packet = Packet::empty();
    // SAFETY: attached_pic is a valid (perhaps blank) packet of a live stream; the reference
    // keeps its bytes alive.
    let code = unsafe {
        let picture = ptr::addr_of!((*stream.as_ptr()).attached_pic);
        if (*picture).data.is_null() { -1 } else { ffi::av_packet_ref(packet.as_mut_ptr(), picture) }
    };
    (code == 0 && packet.size() > 0).then_some(packet)
}

/// Samples to skip at the start of a packet's audio, where side data says so.
pub fn skipped_samples(packet: &Packet) -> u32 {
    let mut size = 0;
    // SAFETY: what is returned is `size` bytes long and lives with the packet.
    unsafe {
        let kind = AVPacketSideDataType::AV_PKT_DATA_SKIP_SAMPLES;
        let data = ffi::av_packet_get_side_data(packet.as_ptr(), kind, &mut size);
        match data.is_null() || size < 4 {
            true => 0,
            false => u32::from_le_bytes([*data, *data.add(1), *data.add(2), *data.add(3)]),
        }
    }
}

/// Whether nobody else holds the pixels of a frame: it may be filled anew.
pub fn is_writable(frame: &mut frame::Video) -> bool {
    // SAFETY: the frame is alive and ours.
    unsafe { ffi::av_frame_is_writable(frame.as_mut_ptr()) > 0 }
}

/// Sets the frame rate's inverse as time base and the frame rate of an unopened encoder, and
/// its colour as numbers.
pub fn prepare_encoder(context: &mut ffmpeg_next::codec::Context, rate: Rational) {
    // SAFETY: an allocated, unopened context.
    unsafe {
        let context = context.as_mut_ptr();
        (*context).time_base = ffi::AVRational { num: rate.den, den: rate.num };
        (*context).framerate = av(rate);
        (*context).flags &= !(ffi::AV_CODEC_FLAG_GLOBAL_HEADER as i32);
    }
}

fn codec_id(codec: Codec) -> AVCodecID {
    match codec {
        Codec::H264 => AVCodecID::AV_CODEC_ID_H264,
        Codec::Hevc => AVCodecID::AV_CODEC_ID_HEVC,
        Codec::Av1 => AVCodecID::AV_CODEC_ID_AV1,
    }
}

/// FFmpeg's pixel format of that name, `None` (the format) when it has none.
pub fn pixel(name: &str) -> ffmpeg_next::format::Pixel {
    name.parse().unwrap_or(ffmpeg_next::format::Pixel::None)
}

/// The names of FFmpeg's codec options for colour, with their values.
pub fn colour_numbers(colour: Colour) -> [(&'static str, u32); 5] {
    [
        ("color_range", colour.range),
        ("color_primaries", colour.primaries),
        ("color_trc", colour.transfer),
        ("colorspace", colour.matrix),
        ("chroma_sample_location", colour.chroma_location),
    ]
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

fn dictionary(entries: &[(String, String)]) -> Dictionary<'static> {
    let mut made = Dictionary::new();
    for (key, value) in entries {
        // A zero byte cannot be in a C string, and FFmpeg's own tags never hold one.
        if !key.contains('\0') && !value.contains('\0') {
            made.set(key, value);
        }
    }
    made
}
