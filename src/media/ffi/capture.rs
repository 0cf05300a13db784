//! What FFmpeg says while an encoder or muxer is tried: kept as text instead of printed.
#![allow(unsafe_code)] // av_log hands over a C format string and a va_list.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ffmpeg_next::ffi;

use crate::media::ffi::log;

#[cfg(target_arch = "x86_64")]
type Arguments = *mut ffi::__va_list_tag;
#[cfg(not(target_arch = "x86_64"))]
type Arguments = ffi::va_list;

/// Lines kept of one trial.
const LINES_MAX: usize = 64;

static LINES: Mutex<Option<Vec<String>>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lines() -> MutexGuard<'static, Option<Vec<String>>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `action` and returns with its result what FFmpeg logged meanwhile at level error or
/// worse, from any thread. Afterwards FFmpeg's messages go where they always go.
pub fn errors_during<T>(action: impl FnOnce() -> T) -> (T, Vec<String>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // The usual way first, so that it is not set up for the first time in between.
    log::route();
    *lines() = Some(Vec::new());
    // SAFETY: `receive` has the signature av_log asks for, lives as long as the program and
    // may be called from any thread.
    unsafe { ffi::av_log_set_callback(Some(receive)) };
    let result = action();
    log::install();
    let said = lines().take().unwrap_or_default();
    (result, said)
}

unsafe extern "C" fn receive(
    context: *mut libc::c_void,
    level: libc::c_int,
    format: *const libc::c_char,
    arguments: Arguments,
) {
    if level > ffi::AV_LOG_WARNING {
        return;
    }
    let mut buffer = [0u8; 1024];
    let mut prefix: libc::c_int = 1;
    // SAFETY: the buffer is as long as we say; the other pointers are av_log's own, passed on
    // unchanged within its call.
    unsafe {
        ffi::av_log_format_line2(
            context,
            level,
            format,
            arguments,
            buffer.as_mut_ptr().cast(),
            buffer.len() as libc::c_int,
            &mut prefix,
        )
    };
    let end = buffer.iter().position(|&b| b == 0).unwrap_or(buffer.len());
    let text = String::from_utf8_lossy(&buffer[..end]);
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    match lines().as_mut() {
        Some(lines) if level <= ffi::AV_LOG_ERROR && lines.len() < LINES_MAX => {
            lines.push(log::strip_origin(text).to_owned())
        }
        _ => tracing::debug!(target: "ffmpeg", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_kept_in_order() {
        let file = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
        std::fs::write(file.path(), b"\0\0\0\x08ftypisom").unwrap();
        let (opened, said) = errors_during(|| ffmpeg_next::format::input(file.path()).is_ok());
        assert!(!opened && !said.is_empty() && !said[0].contains(" @ 0x"), "{said:?}");
    }
}
