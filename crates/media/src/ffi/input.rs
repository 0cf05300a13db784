//! Opening and reading of media files: the calls that FFmpeg's safe bindings lack.
#![allow(unsafe_code)] // each block calls FFmpeg with what the bindings cannot pass

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ffmpeg_next::format::context::Input;
use ffmpeg_next::util::interrupt;
use ffmpeg_next::{Dictionary, Error, Stream, ffi};

/// A file that has not opened after this long is given up (an endless index, a dead share).
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// Streams a file may have.
pub(crate) const STREAMS_MAX: u32 = 256;
/// Bytes of codec headers and attachments (fonts) that all streams of a file may have together.
pub(crate) const EXTRADATA_MAX: u64 = 256 << 20;
/// Pixels of a frame that a decoder may allocate.
pub(crate) const PIXELS_MAX: u64 = 16384 * 8704;

/// Demuxers that are no media files: they name other files or sources, make pictures of text, or
/// read a pattern of file names.
const REFUSED: [&str; 20] = [
    "adf",
    "avisynth",
    "bin",
    "concat",
    "dash",
    "ffmetadata",
    "hls",
    "idf",
    "image2",
    "image2pipe",
    "imf",
    "lavfi",
    "rtp",
    "rtsp",
    "sap",
    "sdp",
    "tty",
    "vapoursynth",
    "webm_dash_manifest",
    "xbin",
];

/// What the bindings do not tell of a stream.
pub(crate) struct ExtraStreamFacts {
    /// Four characters, as FFmpeg prints them.
    pub tag: String,
    /// FFmpeg's name of the codec, `none` when it knows none.
    pub codec: String,
    /// FFmpeg's number of the codec's profile; negative unknown.
    pub profile: i32,
    /// Stored fields, by the container or the stream's header.
    pub interlaced: bool,
    /// Average and nominal frame rate; 0/0 unknown.
    pub average_rate: (i32, i32),
    pub nominal_rate: (i32, i32),
    pub sample_aspect: (i32, i32),
    pub extradata: Vec<u8>,
    pub width: i32,
    pub height: i32,
    /// H.273 numbers of the container: range, primaries, transfer, matrix, chroma location.
    pub colour: [u32; 5],
}

/// Every demuxer's name but the refused ones, as `format_whitelist` wants them.
fn allowed_demuxers() -> String {
    let mut names: Vec<String> = Vec::new();
    let mut cursor = ptr::null_mut();
    loop {
        // SAFETY: the cursor starts null and is only handed back to the same function, whose
        // result is null or a demuxer that lives as long as the process, with a valid name.
        let name = unsafe {
            let demuxer = ffi::av_demuxer_iterate(&mut cursor);
            if demuxer.is_null() {
                break;
            }
            CStr::from_ptr((*demuxer).name).to_string_lossy()
        };
        if !name.split(',').any(|n| REFUSED.contains(&n)) {
            names.push(name.into_owned());
        }
    }
    names.join(",")
}

/// Opens a local file and reads enough of it to know its streams.
///
/// Whatever its name, it is only ever a file: no protocol, playlist, pattern or device.
/// `Error::Exit` when [`OPEN_LIMIT`] passed, `EINVAL` for a refused kind of file.
pub(crate) fn open(path: &Path) -> Result<Input, Error> {
    open_with(path, None)
}

/// The same, with what its first `bytes` tell of its streams, however long they last.
pub(crate) fn open_far(path: &Path, bytes: u64) -> Result<Input, Error> {
    open_with(path, Some(bytes))
}

fn open_with(path: &Path, far: Option<u64>) -> Result<Input, Error> {
    super::log::route();
    let _ = super::log::take_complaint();
    let mut url = b"file:".to_vec();
    url.extend_from_slice(path.as_os_str().as_bytes());
    let url = CString::new(url).map_err(|_| Error::Other { errno: libc::EINVAL })?;

    let opening = Arc::new(AtomicBool::new(true));
    let deadline = Instant::now() + OPEN_LIMIT;
    let armed = Arc::clone(&opening);
    let callback = interrupt::new(Box::new(move || armed.load(Ordering::Relaxed) && Instant::now() > deadline));

    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "file");
    options.set("format_whitelist", &allowed_demuxers());
    options.set("max_streams", &STREAMS_MAX.to_string());
    if let Some(bytes) = far {
        super::output::look_far(&mut options, bytes);
    }

    // SAFETY: the context is allocated here and owned by exactly one place at a time: by
    // avformat_open_input until it succeeds (it frees the context when it fails), then by `Input`,
    // which also keeps the callback alive until after the context is closed.
    let mut input = unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other { errno: libc::ENOMEM });
        }
        (*context).interrupt_callback = callback.interrupt;
        let mut options = options.disown();
        let result = ffi::avformat_open_input(&mut context, url.as_ptr(), ptr::null_mut(), &mut options);
        drop(Dictionary::own(options));
        if result < 0 {
            return Err(Error::from(result));
        }
        Input::wrap_with_interrupt(context, callback.guard)
    };
    find_stream_info(&mut input)?;
    opening.store(false, Ordering::Relaxed);
    Ok(input)
}

fn find_stream_info(input: &mut Input) -> Result<(), Error> {
    let limits = || {
        let mut options = Dictionary::new();
        options.set("max_pixels", &PIXELS_MAX.to_string());
        options
    };
    // SAFETY: one dictionary for each stream there is, as the function asks; each is taken back
    // and freed once, whatever the function replaced it by.
    let result = unsafe {
        let mut options: Vec<_> = (0..input.nb_streams()).map(|_| limits().disown()).collect();
        let result = ffi::avformat_find_stream_info(input.as_mut_ptr(), options.as_mut_ptr());
        for dictionary in options {
            drop(Dictionary::own(dictionary));
        }
        result
    };
    if result < 0 { Err(Error::from(result)) } else { Ok(()) }
}

/// The facts of one stream.
pub(crate) fn stream_facts(stream: &Stream) -> ExtraStreamFacts {
    // SAFETY: the stream and its parameters live as long as the borrow of the open context; names
    // from FFmpeg's tables are static; extradata is `extradata_size` bytes or null.
    unsafe {
        let raw = &*stream.as_ptr();
        let parameters = &*raw.codecpar;
        let tag = parameters.codec_tag.to_le_bytes();
        let extradata = if parameters.extradata.is_null() || parameters.extradata_size <= 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts(parameters.extradata, parameters.extradata_size as usize).to_vec()
        };
        ExtraStreamFacts {
            tag: tag.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect(),
            codec: CStr::from_ptr(ffi::avcodec_get_name(parameters.codec_id)).to_string_lossy().into_owned(),
            profile: parameters.profile,
            interlaced: !matches!(
                parameters.field_order,
                ffi::AVFieldOrder::AV_FIELD_UNKNOWN | ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE
            ),
            average_rate: (raw.avg_frame_rate.num, raw.avg_frame_rate.den),
            nominal_rate: (raw.r_frame_rate.num, raw.r_frame_rate.den),
            sample_aspect: if raw.sample_aspect_ratio.num > 0 {
                (raw.sample_aspect_ratio.num, raw.sample_aspect_ratio.den)
            } else {
                (parameters.sample_aspect_ratio.num, parameters.sample_aspect_ratio.den)
            },
            extradata,
            width: parameters.width,
            height: parameters.height,
            colour: [
                parameters.color_range as u32,
                parameters.color_primaries as u32,
                parameters.color_trc as u32,
                parameters.color_space as u32,
                parameters.chroma_location as u32,
            ],
        }
    }
}

/// The video stream FFmpeg would choose, attached pictures not counted.
pub(crate) fn best_video_stream(input: &mut Input) -> Option<usize> {
    // SAFETY: an open context; no decoder is asked for.
    let index = unsafe {
        let video = ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        ffi::av_find_best_stream(input.as_mut_ptr(), video, -1, -1, ptr::null_mut(), 0)
    };
    usize::try_from(index).ok()
}

/// Reads only this stream: the packets of all others are dropped by the demuxer, with `videos` but for those of video.
pub(crate) fn read_only(input: &mut Input, stream: usize, videos: bool) {
    // SAFETY: `streams` holds `nb_streams` valid pointers.
    unsafe {
        let context = input.as_mut_ptr();
        for index in 0..(*context).nb_streams as usize {
            let other = *(*context).streams.add(index);
            let is_video = (*(*other).codecpar).codec_type == ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
            let wanted = index == stream || (videos && is_video);
            (*other).discard = if wanted { ffi::AVDiscard::AVDISCARD_DEFAULT } else { ffi::AVDiscard::AVDISCARD_ALL };
        }
    }
}

/// The error of the operating system under the demuxer, if reading itself has failed.
pub(crate) fn read_failure(input: &Input) -> Option<Error> {
    // SAFETY: `pb` is null or the context's own reader.
    let code = unsafe {
        let reader = (*input.as_ptr()).pb;
        if reader.is_null() { 0 } else { (*reader).error }
    };
    (code < 0 && code != ffi::AVERROR_EOF).then(|| Error::from(code))
}

/// Goes to a key frame at or before `pts` (ticks of the stream).
pub(crate) fn seek_before(input: &mut Input, stream: usize, pts: i64) -> Result<(), Error> {
    // SAFETY: an open context; the stream index was found in it.
    let result = unsafe { ffi::avformat_seek_file(input.as_mut_ptr(), stream as libc::c_int, i64::MIN, pts, pts, 0) };
    if result < 0 { Err(Error::from(result)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn playlists_and_patterns_are_not_allowed() {
        let allowed = allowed_demuxers();
        let names: Vec<_> = allowed.split(',').collect();
        assert!(names.contains(&"matroska") && names.contains(&"mp4") && names.contains(&"png_pipe"));
        for refused in REFUSED {
            assert!(!names.contains(&refused), "{refused}");
        }
        // Another name of a refused demuxer goes with it.
        assert!(!names.contains(&"applehttp"));
    }

    #[test]
    fn a_playlist_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
            ("a.ffconcat", "ffconcat version 1.0\nfile a.m3u8\n"),
            ("a.txt", "some text that no demuxer knows\n"),
            ("a.nfo", "\u{1b}[0m text with colours \u{1b}[1m\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert!(open(&path).is_err(), "{name}");
        }
    }
}
