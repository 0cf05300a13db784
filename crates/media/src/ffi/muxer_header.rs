//! What an output file says of itself and of its streams: tags, chapters, dispositions, side data.
#![allow(unsafe_code)] // ffmpeg-next has no calls for side data or chapters of an output.

use std::ffi::CString;
use std::ptr;

use anyhow::Result;
use ffmpeg_next::ffi::{self, AVPacketSideDataType, AVStream};
use ffmpeg_next::{Dictionary, Stream};

use upscaled_core::types::source::Rational;

use crate::ffi::muxer::Muxer;
use crate::ffi::output::{av, checked, failure, side_data};

impl Muxer {
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

    pub(super) fn attach(&mut self, to: *mut AVStream, kind: AVPacketSideDataType, bytes: &[u8]) -> Result<()> {
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

    /// Sets the language of a stream, or takes it away.
    pub fn set_language(&mut self, stream: usize, language: Option<&str>) -> Result<()> {
        let to = self.stream(stream);
        let value = language.map(CString::new).transpose()?;
        // SAFETY: both strings are C strings or null, which removes the entry; FFmpeg copies them.
        checked(unsafe {
            let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
            ffi::av_dict_set(&mut (*to).metadata, c"language".as_ptr(), value, 0)
        })
        .map(drop)
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
            (*chapter).id = chapter_id(id);
            (*chapter).time_base = av(time_base);
            (*chapter).start = start;
            (*chapter).end = end;
            (*chapter).metadata = dictionary(tags).disown();
        }
        Ok(())
    }

    /// Sets one tag of a stream.
    pub fn set_stream_tag(&mut self, stream: usize, key: &str, value: &str) {
        // SAFETY: checked by `stream`; the dictionary stays the stream's own.
        unsafe { set_tag(&mut (*self.stream(stream)).metadata, key, value) };
    }

    /// Sets the title of a chapter, where there is such a one.
    pub fn set_chapter_title(&mut self, chapter: usize, title: &str) {
        // SAFETY: the index is below the number of chapters, which live with the context.
        unsafe {
            if chapter < (*self.context).nb_chapters as usize {
                set_tag(&mut (**(*self.context).chapters.add(chapter)).metadata, "title", title);
            }
        }
    }
}

/// A chapter's number as FFmpeg has it: an `int` before FFmpeg 5, 64 bits since.
fn chapter_id<T: TryFrom<i64> + Default>(id: i64) -> T {
    T::try_from(id).unwrap_or_default()
}

/// Sets an entry of a dictionary; one with a zero byte stays away.
///
/// # Safety
/// The dictionary must be null or alive.
unsafe fn set_tag(dictionary: &mut *mut ffi::AVDictionary, key: &str, value: &str) {
    if let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) {
        // SAFETY: the caller vouches for the dictionary; both strings are copied.
        unsafe { ffi::av_dict_set(dictionary, key.as_ptr(), value.as_ptr(), 0) };
    }
}

/// Makes a dictionary of tags or options.
pub(super) fn dictionary(entries: &[(String, String)]) -> Dictionary<'static> {
    let mut made = Dictionary::new();
    for (key, value) in entries {
        // A zero byte cannot be in a C string, and FFmpeg's own tags never hold one.
        if !key.contains('\0') && !value.contains('\0') {
            made.set(key, value);
        }
    }
    made
}
