//! A ZIP of pictures, written to a spool as they come, and the names in it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use upscaled_core::file_name;

use crate::server::kit::result_links::Spool;

/// What a file without a usable name is called.
const NAMELESS: &str = "picture";
/// Characters that some system does not take in names.
const AWKWARD: &str = "<>:\"|?*";
/// Longest number of a double, with its underscore.
const NUMBER: &str = "_99999.png";

/// An archive on its way.
pub(super) struct ZipStream {
    zip: ZipWriter<File>,
    file: Arc<File>,
}

impl ZipStream {
    pub(super) fn new() -> Result<ZipStream> {
        let spool = Spool::new()?;
        let file = spool.file().clone();
        let zip = ZipWriter::new(file.try_clone().context("the archive's file")?);
        Ok(ZipStream { zip, file })
    }

    /// Adds a file, as it is: PNG does not become smaller.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let large = bytes.len() as u64 >= u64::from(u32::MAX);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        self.zip.start_file(name, options).context("writing the archive")?;
        self.zip.write_all(bytes).context("writing the archive")
    }

    /// The whole archive: its file, from the first byte on, and its length.
    pub(super) fn finish(self) -> Result<(Arc<File>, u64)> {
        let mut file = self.zip.finish().context("writing the archive")?;
        let length = file.seek(SeekFrom::End(0)).context("writing the archive")?;
        Ok((self.file, length))
    }
}

/// UniqueNames of results, each given once.
#[derive(Default)]
pub(super) struct UniqueNames(HashSet<String>);

impl UniqueNames {
    /// The name of the PNG made of an uploaded file: as uploaded, without folders or anything a
    /// file system might trip over, with a number where it is taken.
    pub(super) fn of(&mut self, uploaded: &str) -> String {
        let stem = stem(uploaded);
        for n in 1u32.. {
            let number = if n == 1 { String::new() } else { format!("_{n}") };
            let name = format!("{stem}{number}.png");
            // Some systems take capitals for the same.
            if self.0.insert(name.to_lowercase()) {
                return name;
            }
        }
        stem
    }
}

/// The plain name without its ending.
fn stem(uploaded: &str) -> String {
    let name = uploaded.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = name.chars().map(|c| if c.is_control() || AWKWARD.contains(c) { '_' } else { c }).collect();
    let clean = clean.trim().trim_start_matches('.').trim();
    let stem = clean.rsplit_once('.').map_or(clean, |(stem, _)| stem).trim_end_matches(['.', ' ']);
    let stem = if stem.is_empty() { NAMELESS } else { stem };
    let fitted = file_name::fit(OsStr::new(stem), OsStr::new(NUMBER)).to_string_lossy().into_owned();
    fitted.strip_suffix(NUMBER).unwrap_or(&fitted).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn names_are_plain_and_apart() {
        let mut names = UniqueNames::default();
        for (uploaded, want) in [
            ("frame_0001.png", "frame_0001.png"),
            ("frame_0001.png", "frame_0001_2.png"),
            ("FRAME_0001.jpg", "FRAME_0001_3.png"),
            ("../../etc/passwd", "passwd.png"),
            ("C:\\films\\a b.jpeg", "a b.png"),
            ("..", "picture.png"),
            ("", "picture_2.png"),
            (".hidden", "hidden.png"),
            ("a\u{0}b\n?.png", "a_b__.png"),
            ("\u{e9}t\u{e9}.tar.gz", "\u{e9}t\u{e9}.tar.png"),
        ] {
            assert_eq!(names.of(uploaded), want, "{uploaded:?}");
        }
        let long = names.of(&"x".repeat(400));
        assert!(long.len() <= file_name::NAME_MAX && long.ends_with(".png"), "{long}");
        assert_ne!(names.of(&"x".repeat(400)), long);
    }

    #[test]
    fn an_archive_reads_back() {
        let mut archive = ZipStream::new().unwrap();
        archive.add("a.png", b"one").unwrap();
        archive.add("b.png", &[7; 100_000]).unwrap();
        let (file, length) = archive.finish().unwrap();
        let mut bytes = vec![0; length as usize];
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0).unwrap();
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        assert_eq!(zip.len(), 2);
        let mut text = String::new();
        zip.by_name("a.png").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        assert_eq!(zip.by_name("b.png").unwrap().size(), 100_000);
    }
}
