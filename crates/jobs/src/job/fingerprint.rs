//! The source's fingerprint: cheap for any size, and different after any real change.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::plan::Fingerprint;

const EDGE: u64 = 1 << 20;
const SAMPLES: u64 = 62;
const SAMPLE: u64 = 16 << 10;

/// Reads size, time, both ends and samples between.
pub fn take(path: &Path) -> Result<Fingerprint> {
    let file = File::open(path).with_context(|| format!("opening {}", escape(path)))?;
    let meta = file.metadata()?;
    let size = meta.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    let mut buffer = vec![0u8; EDGE as usize];
    let mut add = |from: u64, length: u64| -> Result<()> {
        let part = &mut buffer[..length.min(size.saturating_sub(from)) as usize];
        file.read_exact_at(part, from).with_context(|| format!("reading {}", escape(path)))?;
        hasher.update(part);
        Ok(())
    };
    add(0, EDGE)?;
    if size > EDGE {
        let middle = size.saturating_sub(2 * EDGE);
        for i in 0..SAMPLES.min(middle / SAMPLE) {
            add(EDGE + (middle - SAMPLE) / SAMPLES * i, SAMPLE)?;
        }
        add(size - EDGE.min(size - EDGE), EDGE)?;
    }
    let mtime_ns = mtime_ns(&meta);
    Ok(Fingerprint { size, mtime_ns, hash: hasher.finalize().to_hex().to_string() })
}

fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec())
}

/// [`Fault::SourceChanged`] unless the file is still the one of the plan. A touched file whose
/// bytes are the same still is.
pub fn check(path: &Path, planned: &Fingerprint) -> Result<()> {
    let meta = std::fs::metadata(path).with_context(|| format!("the source {} is gone", escape(path)))?;
    let mtime_ns = mtime_ns(&meta);
    if meta.len() == planned.size && mtime_ns == planned.mtime_ns {
        return Ok(());
    }
    if meta.len() == planned.size && take(path)?.hash == planned.hash {
        return Ok(());
    }
    Err(Fault::SourceChanged.because(format!("{} was changed while it was worked on", escape(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_and_a_change_at_either_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for size in [0usize, 1, 16 << 10, 1 << 20, (1 << 20) + 1, (2 << 20) + 5, (3 << 20) + 7, 5 << 20] {
            let mut bytes = vec![7u8; size];
            std::fs::write(&path, &bytes).unwrap();
            let before = take(&path).unwrap();
            assert_eq!(before.size, size as u64);
            check(&path, &before).unwrap();
            for at in [0, size.saturating_sub(1)] {
                if size == 0 {
                    continue;
                }
                bytes[at] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                assert_ne!(take(&path).unwrap().hash, before.hash, "{size} {at}");
                bytes[at] ^= 1;
            }
            std::fs::write(&path, &bytes).unwrap();
            check(&path, &before).unwrap();
        }
        let before = take(&path).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(Fault::of(&check(&path, &before).unwrap_err()), Fault::SourceChanged);
    }
}
