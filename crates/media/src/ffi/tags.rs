//! Tags as FFmpeg holds them, which are bytes of any encoding, as text.
#![allow(unsafe_code)] // ffmpeg-next takes every tag for UTF-8 without looking, which is no string in Rust.

use std::ffi::CStr;
use std::ptr;

use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Chapter, Stream, ffi};

use crate::text;

/// Tags that are read of one place.
const TAGS_MAX: usize = 10_000;

/// Keys with their values.
pub(crate) type Tags = Vec<(String, String)>;

/// The tags of a file.
pub(crate) fn of_file(input: &Input) -> Tags {
    // SAFETY: the context lives as long as the borrow.
    read(unsafe { entries((*input.as_ptr()).metadata) })
}

/// The tags of a stream.
pub(crate) fn of_stream(stream: &Stream<'_>) -> Tags {
    // SAFETY: the stream lives with the input that it borrows.
    read(unsafe { entries((*stream.as_ptr()).metadata) })
}

/// The tags of a chapter.
pub(crate) fn of_chapter(chapter: &Chapter<'_>) -> Tags {
    // SAFETY: the chapter lives with the input that it borrows.
    read(unsafe { entries((*chapter.as_ptr()).metadata) })
}

/// A tag's value, whatever the case of its key.
pub(crate) fn get(tags: &Tags, key: &str) -> Option<String> {
    tags.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.clone())
}

/// Keys of all tags whose encoding has to be guessed.
pub(crate) fn guessed(input: &Input) -> Vec<String> {
    // SAFETY: the context, its streams and its chapters live as long as the borrow.
    let all = unsafe {
        let file = entries((*input.as_ptr()).metadata);
        let streams = input.streams().flat_map(|stream| entries((*stream.as_ptr()).metadata));
        let chapters = input.chapters().flat_map(|chapter| entries((*chapter.as_ptr()).metadata));
        file.into_iter().chain(streams).chain(chapters).collect::<Vec<_>>()
    };
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in all.iter().filter(|(key, value)| text::is_guessed(key) || text::is_guessed(value)) {
        let key = text::of(key).to_ascii_lowercase();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn read(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Tags {
    entries.iter().map(|(key, value)| (text::of(key).into_owned(), text::of(value).into_owned())).collect()
}

/// The bytes of all entries.
///
/// # Safety
/// The dictionary must be null or alive.
unsafe fn entries(dictionary: *const ffi::AVDictionary) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut made = Vec::new();
    let mut entry: *mut ffi::AVDictionaryEntry = ptr::null_mut();
    while made.len() < TAGS_MAX {
        // SAFETY: the caller vouches for the dictionary; keys and values of its entries are C strings.
        unsafe {
            entry = ffi::av_dict_get(dictionary, c"".as_ptr(), entry, ffi::AV_DICT_IGNORE_SUFFIX);
            if entry.is_null() {
                break;
            }
            let bytes = |text: *const libc::c_char| CStr::from_ptr(text).to_bytes().to_vec();
            made.push((bytes((*entry).key), bytes((*entry).value)));
        }
    }
    made
}
