//! FFmpeg's messages: to `tracing` at debug, the last complaint of a thread kept for error
//! sentences, and everything said while an encoder or muxer is tried.
#![allow(unsafe_code)] // a C callback with a va_list has no safe form

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Lines kept of one trial.
const LINES_MAX: usize = 64;

static ROUTED: Once = Once::new();
/// What is said during a trial, from any thread; `None` between trials.
static TRIAL: Mutex<Option<Vec<String>>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    static COMPLAINT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sends FFmpeg's messages to `tracing`. Where the platform's `va_list` is not a plain pointer
/// they are silenced instead. Any number of calls do the same as one.
pub(crate) fn route() {
    ROUTED.call_once(|| {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: `callback` has the signature FFmpeg asks for, lives for ever and never unwinds
        // into C (it formats into its own buffer and calls only non-panicking code).
        unsafe {
            ffmpeg_next::ffi::av_log_set_callback(Some(callback));
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
    });
}

/// What FFmpeg last complained about on this thread, forgotten by asking. Empty if nothing.
pub(crate) fn take_complaint() -> String {
    COMPLAINT.with_borrow_mut(std::mem::take)
}

/// Runs `action` and returns with its result the errors FFmpeg logged meanwhile, from any thread.
pub(crate) fn errors_during<T>(action: impl FnOnce() -> T) -> (T, Vec<String>) {
    route();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    *trial() = Some(Vec::new());
    let result = action();
    let said = trial().take().unwrap_or_default();
    (result, said)
}

fn trial() -> MutexGuard<'static, Option<Vec<String>>> {
    TRIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe extern "C" fn callback(
    origin: *mut libc::c_void,
    level: libc::c_int,
    format: *const libc::c_char,
    arguments: *mut ffmpeg_next::ffi::__va_list_tag,
) {
    use ffmpeg_next::ffi;
    let complaint = level <= ffi::AV_LOG_ERROR;
    let loud = level <= ffi::AV_LOG_WARNING && tracing::enabled!(target: "ffmpeg", tracing::Level::DEBUG);
    if !complaint && !loud {
        return;
    }
    let mut line = [0u8; 512];
    let mut prefix: libc::c_int = 1;
    // SAFETY: the arguments are those FFmpeg called with; the buffer's length is passed along and
    // FFmpeg ends what it writes with a zero byte.
    unsafe {
        let length = line.len() as libc::c_int;
        ffi::av_log_format_line2(origin, level, format, arguments, line.as_mut_ptr().cast(), length, &mut prefix);
    }
    let end = line.iter().position(|b| *b == 0).unwrap_or(line.len());
    let text = String::from_utf8_lossy(&line[..end]);
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    if loud {
        tracing::debug!(target: "ffmpeg", "{text}");
    }
    if complaint {
        let message = strip_origin(text).to_owned();
        if let Some(said) = trial().as_mut()
            && said.len() < LINES_MAX
        {
            said.push(message.clone());
        }
        // A thread that is being torn down has no place for it any more.
        let _ = COMPLAINT.try_with(|kept| kept.try_borrow_mut().map(|mut kept| *kept = message));
    }
}

/// The message without FFmpeg's `[demuxer @ 0x1234]` in front, which means nothing to a person.
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
fn strip_origin(text: &str) -> &str {
    match text.split_once("] ") {
        Some((origin, message)) if origin.starts_with('[') && origin.contains(" @ 0x") => strip_origin(message),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_lose_their_address() {
        assert_eq!(strip_origin("[mov,mp4 @ 0x55d0] moov atom not found"), "moov atom not found");
        assert_eq!(strip_origin("[x @ 0x1] [y @ 0x2] bad"), "bad");
        assert_eq!(strip_origin("plain [1] text"), "plain [1] text");
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn a_complaint_is_kept_once() {
        route();
        let file = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
        std::fs::write(file.path(), b"\0\0\0\x08ftypisom").unwrap();
        let _ = take_complaint();
        assert!(ffmpeg_next::format::input(file.path()).is_err());
        assert_ne!(take_complaint(), "");
        assert_eq!(take_complaint(), "");
    }
}
