//! Pixels of decoded frames: plane rows, format facts, and exact control of the scaler.
#![allow(unsafe_code)] // each block reads or writes memory that FFmpeg owns

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::ptr;

use ffmpeg_next::{Error, ffi, format, frame};

use crate::ffi::output::length;

/// What a pixel format is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PixelFacts {
    pub name: String,
    pub components: u8,
    /// Bits of the deepest component.
    pub depth: u8,
    /// Subsampling of chroma as shifts.
    pub shift_x: u8,
    pub shift_y: u8,
    /// Each component has its own plane of whole samples, low bits first, in native byte order
    /// (little endian here): rows can be copied.
    pub plain: bool,
    /// Red, green and blue (or XYZ), not luma and chroma.
    pub rgb: bool,
    pub alpha: bool,
    /// Not readable from memory, or floating point.
    pub hardware: bool,
}

/// What is known of a pixel format; `None` for one that FFmpeg does not know.
fn facts(raw: ffi::AVPixelFormat) -> Option<PixelFacts> {
    // SAFETY: the result is null or a static descriptor with `nb_components` valid entries.
    let descriptor = unsafe { ffi::av_pix_fmt_desc_get(raw).as_ref() }?;
    let has = |flag: libc::c_int| descriptor.flags & flag as u64 != 0;
    let components = &descriptor.comp[..usize::from(descriptor.nb_components.min(4))];
    let depth = components.iter().map(|c| c.depth).max().unwrap_or(0);
    let bytes = if depth > 8 { 2 } else { 1 };
    let plain = cfg!(target_endian = "little")
        && depth <= 16
        && components.iter().enumerate().all(|(i, c)| {
            c.plane == i as libc::c_int && c.step == bytes && c.offset == 0 && c.shift == 0 && c.depth == depth
        })
        && !(has(ffi::AV_PIX_FMT_FLAG_BE) && bytes > 1)
        && !has(ffi::AV_PIX_FMT_FLAG_BITSTREAM)
        && !has(ffi::AV_PIX_FMT_FLAG_PAL);
    // SAFETY: a descriptor's name is a static string.
    let name = unsafe { CStr::from_ptr(descriptor.name).to_string_lossy().into_owned() };
    Some(PixelFacts {
        rgb: has(ffi::AV_PIX_FMT_FLAG_RGB)
            || has(ffi::AV_PIX_FMT_FLAG_PAL)
            || has(ffi::AV_PIX_FMT_FLAG_BAYER)
            || name.starts_with("xyz"),
        name,
        components: descriptor.nb_components,
        depth: depth as u8,
        shift_x: descriptor.log2_chroma_w,
        shift_y: descriptor.log2_chroma_h,
        plain: plain && !has(ffi::AV_PIX_FMT_FLAG_FLOAT),
        alpha: has(ffi::AV_PIX_FMT_FLAG_ALPHA),
        hardware: has(ffi::AV_PIX_FMT_FLAG_HWACCEL),
    })
}

/// The pixel format of a decoded frame; `None` when it has none.
pub(crate) fn frame_facts(frame: &frame::Video) -> Option<PixelFacts> {
    facts(frame.format().into())
}

/// The pixel format of this name; `None` when FFmpeg does not know it.
pub(crate) fn format_named(name: &str) -> Option<(format::Pixel, PixelFacts)> {
    let text = CString::new(name).ok()?;
    // SAFETY: a valid C string; the answer is a format of this library or NONE.
    let raw = unsafe { ffi::av_get_pix_fmt(text.as_ptr()) };
    facts(raw).map(|facts| (raw.into(), facts))
}

/// Copies `rows` rows of `row_bytes` bytes from a plane of a frame, without the padding between.
/// `out` holds `rows * row_bytes` bytes. `false` (nothing copied) when the frame has no such plane.
pub(crate) fn copy_plane(frame: &frame::Video, plane: usize, rows: usize, row_bytes: usize, out: &mut [u8]) -> bool {
    let Some(facts) = frame_facts(frame) else { return false };
    let height = frame.height() as usize;
    let held = if plane == 1 || plane == 2 { height.div_ceil(1 << facts.shift_y) } else { height };
    if plane >= 4 || rows > held || facts.hardware || out.len() != rows * row_bytes || row_bytes == 0 {
        return false;
    }
    // SAFETY: FFmpeg guarantees each plane `held` rows, `linesize` bytes apart (downward or
    // upward), each of at least |linesize| readable bytes from its start; that rows and row_bytes
    // stay inside is checked above and below. The frame is borrowed, so its buffers stay.
    unsafe {
        let raw = &*frame.as_ptr();
        let data = raw.data[plane];
        let stride = raw.linesize[plane] as isize;
        if data.is_null() || stride.unsigned_abs() < row_bytes {
            return false;
        }
        if stride == row_bytes as isize {
            ptr::copy_nonoverlapping(data, out.as_mut_ptr(), out.len());
        } else {
            for (y, row) in out.chunks_exact_mut(row_bytes).enumerate() {
                ptr::copy_nonoverlapping(data.offset(y as isize * stride), row.as_mut_ptr(), row_bytes);
            }
        }
    }
    true
}

/// The frame's own colour tags, H.273 numbers: range, primaries, transfer, matrix, chroma location.
pub(crate) fn colour_tags(frame: &frame::Video) -> [u32; 5] {
    // SAFETY: a frame always points to its structure; plain integers are read.
    unsafe {
        let raw = &*frame.as_ptr();
        [
            raw.color_range as u32,
            raw.color_primaries as u32,
            raw.color_trc as u32,
            raw.colorspace as u32,
            raw.chroma_location as u32,
        ]
    }
}

/// All the side data of a frame: FFmpeg's name of the kind (empty where it has none), and the bytes.
pub(crate) fn side_data(frame: &frame::Video) -> Vec<(Cow<'static, str>, &[u8])> {
    // SAFETY: `side_data` holds `nb_side_data` valid pointers, each to `size` bytes (or null) that live with the
    // frame; names are static or null.
    unsafe {
        let raw = &*frame.as_ptr();
        (0..raw.nb_side_data.max(0) as usize)
            .map(|i| {
                let side = &**raw.side_data.add(i);
                let name = ffi::av_frame_side_data_name(side.type_);
                let name = if name.is_null() { Cow::Borrowed("") } else { CStr::from_ptr(name).to_string_lossy() };
                let bytes: &[u8] = match side.data.is_null() {
                    true => &[],
                    false => std::slice::from_raw_parts(side.data, length(side.size)),
                };
                (name, bytes)
            })
            .collect()
    }
}

/// FFmpeg's names of every kind of side data that the library knows, whatever its headers say.
#[cfg(test)]
pub(crate) fn side_data_kinds() -> Vec<String> {
    mod by_number {
        unsafe extern "C" {
            // Kinds as plain numbers: those that the headers do not have are no values of the enum.
            #[allow(clashing_extern_declarations)] // the binding takes an enum, which has not these numbers
            pub(crate) fn av_frame_side_data_name(kind: libc::c_uint) -> *const libc::c_char;
        }
    }
    // SAFETY: the library answers null for numbers it does not know; names are static.
    let name = |kind| unsafe {
        let name = by_number::av_frame_side_data_name(kind);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    (0..64).filter_map(name).collect()
}

/// The format without the range that FFmpeg's old `yuvj` formats have in their name.
pub(crate) fn without_range(format: format::Pixel) -> format::Pixel {
    use format::Pixel::*;
    match format {
        YUVJ420P => YUV420P,
        YUVJ422P => YUV422P,
        YUVJ444P => YUV444P,
        YUVJ440P => YUV440P,
        YUVJ411P => YUV411P,
        other => other,
    }
}

/// One side of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConversionSide {
    pub format: format::Pixel,
    pub width: u32,
    pub height: u32,
    /// H.273 matrix coefficients.
    pub matrix: u32,
    pub full_range: bool,
}

/// A conversion of size, format, matrix and range; the same input gives the same output always.
pub(crate) struct Scaler {
    context: *mut ffi::SwsContext,
    from: ConversionSide,
    to: ConversionSide,
}

// SAFETY: the context belongs to this value alone and is bound to no thread.
unsafe impl Send for Scaler {}

impl Scaler {
    /// Fails with `InvalidData` for a pair the scaler cannot do.
    pub(crate) fn new(from: ConversionSide, to: ConversionSide) -> Result<Scaler, Error> {
        // SAFETY: the context is allocated here, owned by the value from then on and freed by its
        // drop; option names are C strings; coefficient tables are static.
        unsafe {
            let context = ffi::sws_alloc_context();
            if context.is_null() {
                return Err(Error::Other { errno: libc::ENOMEM });
            }
            let scaler = Scaler { context, from, to };
            let flags = ffi::SWS_BICUBIC
                | ffi::SWS_FULL_CHR_H_INP
                | ffi::SWS_FULL_CHR_H_INT
                | ffi::SWS_ACCURATE_RND
                | ffi::SWS_BITEXACT;
            for (name, value) in [
                (c"srcw", i64::from(from.width)),
                (c"srch", i64::from(from.height)),
                (c"src_format", ffi::AVPixelFormat::from(from.format) as i64),
                (c"src_range", i64::from(from.full_range)),
                (c"dstw", i64::from(to.width)),
                (c"dsth", i64::from(to.height)),
                (c"dst_format", ffi::AVPixelFormat::from(to.format) as i64),
                (c"dst_range", i64::from(to.full_range)),
                (c"sws_flags", i64::from(flags)),
            ] {
                let result = ffi::av_opt_set_int(context.cast(), name.as_ptr(), value, 0);
                if result < 0 {
                    return Err(Error::from(result));
                }
            }
            if ffi::sws_init_context(context, ptr::null_mut(), ptr::null_mut()) < 0 {
                return Err(Error::InvalidData);
            }
            // The ranges were options already, so that unscaled shortcuts saw them. A refusal only
            // means that this pair of formats knows no matrix.
            ffi::sws_setColorspaceDetails(
                context,
                ffi::sws_getCoefficients(from.matrix as libc::c_int),
                libc::c_int::from(from.full_range),
                ffi::sws_getCoefficients(to.matrix as libc::c_int),
                libc::c_int::from(to.full_range),
                0,
                1 << 16,
                1 << 16,
            );
            Ok(scaler)
        }
    }

    /// Converts `input` into `output`, which is (re)allocated as needed.
    pub(crate) fn run(&mut self, input: &frame::Video, output: &mut frame::Video) -> Result<(), Error> {
        let given = (without_range(input.format()), input.width(), input.height());
        if given != (self.from.format, self.from.width, self.from.height) {
            return Err(Error::InputChanged);
        }
        if (output.format(), output.width(), output.height()) != (self.to.format, self.to.width, self.to.height) {
            *output = frame::Video::new(self.to.format, self.to.width, self.to.height);
        }
        // SAFETY: both frames hold whole pictures of the sizes and formats of the context (checked
        // above; a yuvj format is laid out as its twin).
        let rows = unsafe {
            if (*output.as_ptr()).data[0].is_null() {
                return Err(Error::Other { errno: libc::ENOMEM });
            }
            let from = &*input.as_ptr();
            let to = &mut *output.as_mut_ptr();
            ffi::sws_scale(
                self.context,
                from.data.as_ptr().cast(),
                from.linesize.as_ptr(),
                0,
                self.from.height as libc::c_int,
                to.data.as_ptr(),
                to.linesize.as_ptr(),
            )
        };
        if rows == self.to.height as libc::c_int { Ok(()) } else { Err(Error::InvalidData) }
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        unsafe { ffi::sws_freeContext(self.context) }
    }
}
