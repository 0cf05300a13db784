//! Opening files by their bytes, what streams say of themselves, and the few encoder calls that
//! need pointers.
#![allow(unsafe_code)] // ffmpeg-next has no calls for side data, tags or paths that are not UTF-8.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, Result, anyhow};
use ffmpeg_next::codec::packet::{Mut as _, Ref as _};
use ffmpeg_next::ffi::{self, AVCodecID, AVFormatContext, AVPacketSideDataType, AVStream};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Dictionary, Packet, Stream, frame};

use upscaled_core::path_text;
use upscaled_core::types::source::{Colour, Rational, Stereo};

/// Microseconds of a file that are looked at for its streams, where its bytes are the limit: ten days.
const FAR: i64 = 10 * 86_400 * 1_000_000;

/// An FFmpeg error code as an error; those of the operating system stay `std::io::Error`, so
/// that a full disk is told from a refusal.
pub(crate) fn failure(code: i32) -> anyhow::Error {
    let system =
        [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EIO, libc::EROFS, libc::ENOENT, libc::EACCES, libc::ENOMEM];
    match system.contains(&-code) {
        true => std::io::Error::from_raw_os_error(-code).into(),
        false if code == ffi::AVERROR_INVALIDDATA => DamagedData(words(code)).into(),
        false => anyhow!("{}", words(code)),
    }
}

/// FFmpeg found data that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct DamagedData(String);

/// Whether an error says that the data given was damaged, and nothing worse.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<DamagedData>().is_some()
}

/// Returns whether FFmpeg alone is against it: nothing of the disk or of memory has failed.
pub(crate) fn is_refusal(error: &anyhow::Error) -> bool {
    !error.chain().any(|cause| cause.is::<std::io::Error>())
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
pub(crate) fn explained(error: ffmpeg_next::Error) -> anyhow::Error {
    failure(error.into())
}

pub(super) fn checked(code: i32) -> Result<i32> {
    if code < 0 { Err(failure(code)) } else { Ok(code) }
}

/// `file:` and the bytes of the path, so that no name is taken for a protocol or an option.
pub(super) fn url(path: &Path) -> Result<CString> {
    let mut bytes = b"file:".to_vec();
    bytes.extend_from_slice(path.as_os_str().as_bytes());
    CString::new(bytes).context("a path holds a zero byte")
}

/// Opens a media file for demuxing; with `look` its first packets are read to fill in what
/// the header leaves open.
///
/// # Errors
/// FFmpeg's refusal, naming the file.
pub(crate) fn open_input(path: &Path, look: bool) -> Result<Input> {
    open_with(path, look, Dictionary::new())
}

/// The same, with what its first `bytes` tell, however long they last, and all that is announced anew in them. The
/// packets read meanwhile are kept in memory until they are asked for.
///
/// # Errors
/// FFmpeg's refusal, naming the file.
pub(crate) fn open_far(path: &Path, bytes: u64) -> Result<Input> {
    let mut options = Dictionary::new();
    look_far(&mut options, bytes);
    open_with(path, true, options)
}

/// Sets the options of [`open_far`].
pub(super) fn look_far(options: &mut Dictionary<'_>, bytes: u64) {
    options.set("probesize", &bytes.to_string());
    options.set("analyzeduration", &FAR.to_string());
    // Of MPEG-TS: the first announcement of streams is not taken for the last.
    options.set("scan_all_pmts", "1");
}

fn open_with(path: &Path, look: bool, options: Dictionary<'_>) -> Result<Input> {
    let url = url(path)?;
    let mut context: *mut AVFormatContext = ptr::null_mut();
    // SAFETY: `url` is a C string; on failure FFmpeg frees the context and leaves it null. The options are given up to
    // the call and what it leaves of them is taken back and freed once.
    let code = unsafe {
        let mut options = options.disown();
        let code = ffi::avformat_open_input(&mut context, url.as_ptr(), ptr::null_mut(), &mut options);
        drop(Dictionary::own(options));
        code
    };
    checked(code).with_context(|| format!("cannot open {}", path_text::told(path)))?;
    if look {
        // SAFETY: `context` was just opened.
        let code = unsafe { ffi::avformat_find_stream_info(context, ptr::null_mut()) };
        if code < 0 {
            // SAFETY: still ours, closed once.
            unsafe { ffi::avformat_close_input(&mut context) };
            return Err(failure(code)).with_context(|| format!("cannot read {}", path_text::told(path)));
        }
    }
    // SAFETY: ownership of the open context passes to `Input`, which closes it.
    Ok(unsafe { Input::wrap(context) })
}

/// Goes to a place in the file.
///
/// # Errors
/// FFmpeg's refusal.
pub(crate) fn seek_bytes(input: &mut Input, at: u64) -> Result<()> {
    let at = i64::try_from(at)?;
    // SAFETY: an open context; the stream is any.
    checked(unsafe { ffi::av_seek_frame(input.as_mut_ptr(), -1, at, ffi::AVSEEK_FLAG_BYTE) }).map(drop)
}

/// Opens a file for its packets as its container holds them: no parser cuts them anew, and no time is made up.
///
/// # Errors
/// FFmpeg's refusal, naming the file.
pub(crate) fn open_raw(path: &Path) -> Result<Input> {
    let mut input = open_input(path, false)?;
    // SAFETY: the context was just opened, and no packet was read of it.
    unsafe { (*input.as_mut_ptr()).flags |= ffi::AVFMT_FLAG_NOPARSE | ffi::AVFMT_FLAG_NOFILLIN };
    Ok(input)
}

/// Whether timestamps of this kind of file begin anywhere and may jump (MPEG-TS, PS, Ogg).
pub(crate) fn arbitrary_origin(input: &Input) -> bool {
    // SAFETY: an open input has its format set.
    unsafe { (*(*input.as_ptr()).iformat).flags & ffi::AVFMT_TS_DISCONT != 0 }
}

/// Whether this FFmpeg's Matroska muxer writes the codec delay of every codec and moves the
/// blocks by it. Before libavformat 59.30.100 it wrote that of Opus alone and moved nothing.
pub(crate) fn moves_by_codec_delay() -> bool {
    // SAFETY: a constant of the library.
    let version = unsafe { ffi::avformat_version() };
    version >= (59 << 16 | 30 << 8 | 100)
}

/// Asks the demuxer to skip the packets of a stream.
pub(crate) fn discard(input: &mut Input, stream: usize) {
    set_discard(input, stream, ffi::AVDiscard::AVDISCARD_ALL);
}

/// Asks the demuxer for the packets of a stream again.
pub(crate) fn keep(input: &mut Input, stream: usize) {
    set_discard(input, stream, ffi::AVDiscard::AVDISCARD_DEFAULT);
}

fn set_discard(input: &mut Input, stream: usize, value: ffi::AVDiscard) {
    if stream < input.nb_streams() as usize {
        // SAFETY: the index is below nb_streams; the stream lives with the input.
        unsafe { (*stream_at(input.as_mut_ptr(), stream)).discard = value };
    }
}

/// A stream of a context.
///
/// # Safety
/// The context must be alive and the index below its number of streams.
pub(super) unsafe fn stream_at(context: *mut AVFormatContext, index: usize) -> *mut AVStream {
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
    /// FFmpeg's number of the pixel or sample format; negative where unknown.
    pub format: i32,
    /// Width and height of a picture, 0 where unknown.
    pub size: (i32, i32),
    /// Bits of a decoded sample that count, 0 where unknown.
    pub sample_bits: i32,
    pub attached_picture: bool,
    pub extradata: Vec<u8>,
}

/// Reads the facts of a stream.
pub(crate) fn facts(stream: &Stream<'_>) -> StreamFacts {
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
            channels: channels(par),
            initial_padding: (*par).initial_padding,
            fixed_bits: ffi::av_get_bits_per_sample(id),
            format: (*par).format,
            size: ((*par).width, (*par).height),
            sample_bits: match (*par).bits_per_raw_sample {
                0 => (*par).bits_per_coded_sample,
                bits => bits,
            },
            attached_picture: (*stream.as_ptr()).disposition & ffi::AV_DISPOSITION_ATTACHED_PIC != 0,
            extradata,
        }
    }
}

/// Channels of an audio stream, 0 where unknown.
///
/// # Safety
/// The parameters must be alive.
pub(super) unsafe fn channels(par: *const ffi::AVCodecParameters) -> i32 {
    // SAFETY: the caller vouches for the parameters.
    unsafe {
        #[cfg(ffmpeg_channel_layouts)]
        return (*par).ch_layout.nb_channels;
        #[cfg(not(ffmpeg_channel_layouts))]
        return (*par).channels;
    }
}

/// A size of side data: an `int` before FFmpeg 5, a `size_t` since.
pub(super) fn length(size: impl TryInto<usize>) -> usize {
    size.try_into().unwrap_or(0)
}

pub(super) fn av(value: Rational) -> ffi::AVRational {
    ffi::AVRational { num: value.num, den: value.den }
}

/// One kind of side data of a stream.
///
/// # Safety
/// The stream must be alive.
pub(super) unsafe fn side_data(stream: *const AVStream, kind: AVPacketSideDataType) -> Option<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the caller vouches for the stream; what is returned is `size` bytes long.
    unsafe {
        let data = ffi::av_stream_get_side_data(stream, kind, &mut size);
        (!data.is_null()).then(|| std::slice::from_raw_parts(data, length(size)).to_vec())
    }
}

/// One kind of side data of a source stream.
pub(crate) fn stream_side_data(stream: &Stream<'_>, kind: AVPacketSideDataType) -> Option<Vec<u8>> {
    // SAFETY: the stream lives with the input it borrows.
    unsafe { side_data(stream.as_ptr(), kind) }
}

/// The next packet of a file, in memory of its own: `av_read_frame` overwrites what it is given without freeing it, so that
/// a packet that is used again leaks what it held. The one place where packets are read.
#[allow(clippy::disallowed_methods)] // here, and nowhere else
pub(crate) fn read_packet(input: &mut Input) -> Result<Packet, ffmpeg_next::Error> {
    let mut packet = Packet::empty();
    packet.read(input).map(|()| packet)
}

/// A stereo layout as FFmpeg's structure for it; `None` without memory.
pub(crate) fn stereo_bytes(stereo: Stereo) -> Option<Vec<u8>> {
    // SAFETY: FFmpeg allocates the structure, at least as long as its headers say, and fills it with its defaults; it
    // is copied and freed once.
    let mut bytes = unsafe {
        let made = ffi::av_stereo3d_alloc();
        if made.is_null() {
            return None;
        }
        let bytes = std::slice::from_raw_parts(made.cast::<u8>(), size_of::<ffi::AVStereo3D>()).to_vec();
        ffi::av_free(made.cast());
        bytes
    };
    // It begins with the layout and the flags, each an `int`.
    bytes.get_mut(..4)?.copy_from_slice(&stereo.layout.to_ne_bytes());
    bytes.get_mut(4..8)?.copy_from_slice(&u32::from(stereo.inverted).to_ne_bytes());
    Some(bytes)
}

/// The picture of an attached-picture stream.
pub(crate) fn attached_picture(stream: &Stream<'_>) -> Option<Packet> {
    let mut packet = Packet::empty();
    // SAFETY: attached_pic is a valid (perhaps blank) packet of a live stream; the reference
    // keeps its bytes alive.
    let code = unsafe {
        let picture = ptr::addr_of!((*stream.as_ptr()).attached_pic);
        if (*picture).data.is_null() { -1 } else { ffi::av_packet_ref(packet.as_mut_ptr(), picture) }
    };
    (code == 0 && packet.size() > 0).then_some(packet)
}

/// Samples to cut off a packet's audio at its start and at its end, where side data says so.
pub(crate) fn trimmed_samples(packet: &Packet) -> (u32, u32) {
    let mut size = 0;
    // SAFETY: what is returned is `size` bytes long and lives with the packet.
    let bytes = unsafe {
        let kind = AVPacketSideDataType::AV_PKT_DATA_SKIP_SAMPLES;
        let data = ffi::av_packet_get_side_data(packet.as_ptr(), kind, &mut size);
        if data.is_null() {
            return (0, 0);
        }
        std::slice::from_raw_parts(data, length(size))
    };
    let word = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (word(0), word(4))
}

/// Returns whether the demuxer marks a packet as there to be decoded but not to be shown (MP4's edit lists).
pub(crate) fn is_discarded(packet: &Packet) -> bool {
    // SAFETY: the packet is alive.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Takes that mark away.
pub(crate) fn set_shown(packet: &mut Packet) {
    // SAFETY: the packet is alive and ours.
    unsafe { (*packet.as_mut_ptr()).flags &= !ffi::AV_PKT_FLAG_DISCARD }
}

/// Gives a packet that mark.
#[cfg(test)]
pub(crate) fn set_discarded(packet: &mut Packet) {
    // SAFETY: the packet is alive and ours.
    unsafe { (*packet.as_mut_ptr()).flags |= ffi::AV_PKT_FLAG_DISCARD }
}

/// Whether nobody else holds the pixels of a frame: it may be filled anew.
pub(crate) fn is_writable(frame: &mut frame::Video) -> bool {
    // SAFETY: the frame is alive and ours.
    unsafe { ffi::av_frame_is_writable(frame.as_mut_ptr()) > 0 }
}

/// Sets the frame rate's inverse as time base and the frame rate of an unopened encoder, and
/// its colour as numbers.
pub(crate) fn prepare_encoder(context: &mut ffmpeg_next::codec::Context, rate: Rational) {
    // SAFETY: an allocated, unopened context.
    unsafe {
        let context = context.as_mut_ptr();
        (*context).time_base = ffi::AVRational { num: rate.den, den: rate.num };
        (*context).framerate = av(rate);
        (*context).flags &= !(ffi::AV_CODEC_FLAG_GLOBAL_HEADER as i32);
    }
}

/// FFmpeg's pixel format of that name, `None` (the format) when it has none.
pub(crate) fn pixel(name: &str) -> ffmpeg_next::format::Pixel {
    name.parse().unwrap_or(ffmpeg_next::format::Pixel::None)
}

/// The names of FFmpeg's codec options for colour, with their values.
pub(crate) fn colour_numbers(colour: Colour) -> [(&'static str, u32); 5] {
    [
        ("color_range", colour.range),
        ("color_primaries", colour.primaries),
        ("color_trc", colour.transfer),
        ("colorspace", colour.matrix),
        ("chroma_sample_location", colour.chroma_location),
    ]
}
