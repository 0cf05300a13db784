//! Asks whether memory has run out where a library only says that it failed.

/// Returns whether this process cannot have `bytes` more now: its address space is limited (`ulimit -v`), or the
/// system promises no more than it has. Nothing is touched, so that nothing is used.
///
/// FFmpeg's encoders and ONNX Runtime's providers report most failures of `malloc`, `mmap` and thread creation as
/// errors of their own; asked right after one, this tells them from a missing feature.
pub fn is_short(bytes: u64) -> bool {
    let mut trial: Vec<u8> = Vec::new();
    let wanted = usize::try_from(bytes).unwrap_or(usize::MAX >> 1);
    let refused = trial.try_reserve_exact(wanted).is_err();
    // An allocation that nobody looks at could be left out by the compiler.
    std::hint::black_box(&mut trial);
    refused
}

/// Returns whether a library that failed with this message has done so for lack of memory: it says so, or less than
/// `need` bytes can be had now.
pub fn has_run_out(message: &str, need: u64) -> bool {
    is_told(message) || is_short(need)
}

/// Returns whether a message of a library says that memory has run out.
pub fn is_told(message: &str) -> bool {
    const SIGNS: [&str; 10] = [
        "out of memory",
        "outofmemory",
        "failed to allocate",
        "cannot allocate",
        "available memory of",
        "bad_alloc",
        "alloc_failed",
        "cudaerrormemoryallocation",
        "failed to map segment",
        "malloc of size",
    ];
    let lower = message.to_lowercase();
    SIGNS.iter().any(|sign| lower.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_had_is_short() {
        assert!(is_short(u64::MAX) && is_short(1 << 62));
        assert!(!is_short(1 << 20));
    }

    #[test]
    fn libraries_have_words_of_their_own() {
        for message in
            ["std::bad_alloc", "malloc of size 1234 failed", "libx.so: failed to map segment from shared object"]
        {
            assert!(is_told(message), "{message}");
        }
        assert!(!is_told("Cannot load libcuda.so.1") && !is_told("No such file or directory"));
    }
}
