//! Text of unknown encoding as UTF-8.

use std::borrow::Cow;

/// Windows-1252 from 0x80 to 0x9f; what it has no character for stays the control that Latin-1 has there.
const WINDOWS: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2c6}', '\u{2030}',
    '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}', '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}',
    '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}',
    '\u{17e}', '\u{178}',
];

/// The text: UTF-8 as it is, without a last character that was cut in two; anything else is taken for Windows-1252, of
/// which Latin-1 is a part.
pub fn of(bytes: &[u8]) -> Cow<'_, str> {
    let error = match str::from_utf8(bytes) {
        Ok(text) => return Cow::Borrowed(text),
        Err(error) => error,
    };
    let (good, rest) = bytes.split_at(error.valid_up_to());
    match str::from_utf8(good) {
        // Fields of a fixed size cut long texts off wherever they end.
        Ok(text) if error.error_len().is_none() && rest.len() < 4 && !text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|byte| character(*byte)).collect()),
    }
}

/// Returns whether [`of`] has to guess.
pub fn is_guessed(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err()
}

fn character(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_stays_and_windows_becomes_it() {
        assert_eq!(of("na\u{ef}ve \u{65e5}\u{672c}".as_bytes()), "na\u{ef}ve \u{65e5}\u{672c}");
        assert_eq!(of(b"caf\xe9"), "caf\u{e9}");
        assert_eq!(of(b"\x93quoted\x94 \x80 5"), "\u{201c}quoted\u{201d} \u{20ac} 5");
        // A field of 30 bytes that cut the last character in two
        assert_eq!(of(b"caf\xc3\xa9 caf\xc3"), "caf\u{e9} caf");
        assert_eq!(of(b"\xff\xfe\x00\x81"), "\u{ff}\u{fe}\0\u{81}");
        assert!(is_guessed(b"caf\xe9") && !is_guessed(b"cafe"));
        assert_eq!(of(&(0u8..=255).collect::<Vec<_>>()).chars().count(), 256);
    }
}
