//! Frame tables and the end mark: what each sealed batch holds, in the source's own time.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::types::frame::Stamp;
use upscaled_core::types::plan::BatchRange;
use upscaled_core::types::user_data::{LOSS_BYTES_MAX, LOSSES_MAX, UserData};

use crate::state::job_dir::JobDir;
use crate::state::versions;

/// Version of `<index>.frames.json` that this program writes. 1: without user data and losses.
pub const TABLE_VERSION: u32 = 2;
/// First version that holds the frames' user data.
pub const TABLE_WITH_USER_DATA: u32 = 2;
/// Version of `end.json`.
pub const END_VERSION: u32 = 1;
/// Most frames in a batch that any file may claim.
pub const MAX_BATCH_FRAMES: u64 = 100_000;

/// `clips/000012.frames.json`: sealed before the clip of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameTable {
    pub version: u32,
    /// Index of the batch's first frame in the source.
    pub start: u64,
    /// One a frame, pts strictly increasing.
    pub stamps: Vec<Stamp>,
    /// xxh3 of each source frame's pixels.
    pub hashes: Vec<u64>,
    /// Which of the plan's encoders made the clip.
    pub encoder: usize,
    /// Of the frames that have any, in their order. Tables of sealed clips come without it: it is read again when the
    /// output is assembled, so that a long film's captions are never all in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_data: Vec<UserData>,
    /// What this batch was the first to lose, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
}

impl FrameTable {
    /// Whether this can be the table of a batch of `frames` frames: `Err` says why not.
    pub fn check(&self, range: BatchRange, frames: u64, encoders: usize) -> Result<(), String> {
        let count = self.stamps.len() as u64;
        if count != frames || self.hashes.len() as u64 != frames {
            return Err(format!("lists {count} frames and {} hashes, not {frames}", self.hashes.len()));
        }
        if frames == 0 || frames > range.length.min(MAX_BATCH_FRAMES) {
            return Err(format!("{frames} frames are no batch of {}", range.length));
        }
        if self.start != range.start {
            return Err(format!("begins at frame {}, not {}", self.start, range.start));
        }
        if self.encoder >= encoders {
            return Err(format!("names encoder {}, the plan has {encoders}", self.encoder));
        }
        if !self.stamps.windows(2).all(|w| w[0].pts < w[1].pts) {
            return Err("has timestamps out of order".into());
        }
        let in_order = self.user_data.windows(2).all(|w| w[0].frame < w[1].frame);
        if !in_order || !self.user_data.iter().all(|data| data.frame < frames && data.is_possible()) {
            return Err("has user data of no possible frame".into());
        }
        if self.losses.len() > LOSSES_MAX || self.losses.iter().any(|words| words.len() > LOSS_BYTES_MAX) {
            return Err("tells of too many losses".into());
        }
        Ok(())
    }
}

/// `end.json`: the source has been decoded to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndMark {
    pub version: u32,
    /// Frames the decoder delivered in all, and the batches they make.
    pub frames: u64,
    pub batches: u64,
    /// What the decoder reported: damaged frames, packets it refused, mended timestamps,
    /// frames brought to the first frame's size.
    pub damaged_frames: u64,
    pub damaged_packets: u64,
    pub mended: u64,
    pub resized: u64,
}

/// `publish.json`: durable before the output gets its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    pub version: u32,
    /// File name in the output folder (one component).
    #[serde(with = "upscaled_core::path_text")]
    pub name: PathBuf,
    pub size: u64,
    /// BLAKE3 of the file, hex.
    pub hash: String,
}

/// Version of publish.json.
pub const PUBLISH_VERSION: u32 = 1;

pub fn table_name(index: u64) -> String {
    format!("{index:06}.frames.json")
}

/// The batch of a frame table's file name; `None` when it is not exactly as [`table_name`] writes it.
pub fn parse_table_name(name: &str) -> Option<u64> {
    let index = name.strip_suffix(".frames.json")?.parse().ok()?;
    (table_name(index) == name).then_some(index)
}

impl JobDir {
    /// Seals the frame table of a batch. Comes before the clip.
    pub fn write_table(&self, index: u64, table: &FrameTable, key: &str) -> Result<()> {
        failpoint::hit("seal.table")?;
        self.make_clips_folder()?;
        versions::write_checked(&self.table_path(index), table, key)
    }

    /// The frame table of a batch; `None` when absent, [`Fault::DamagedState`] when not as written
    /// for this plan.
    pub fn read_table(&self, index: u64, key: &str) -> Result<Option<FrameTable>> {
        versions::read_checked(&self.table_path(index), TABLE_VERSION, key)
    }

    pub fn write_end(&self, end: &EndMark, key: &str) -> Result<()> {
        failpoint::hit("end.json")?;
        versions::write_checked(&self.path().join("end.json"), end, key)
    }

    pub fn read_end(&self, key: &str) -> Result<Option<EndMark>> {
        versions::read_checked(&self.path().join("end.json"), END_VERSION, key)
    }

    pub fn write_publish(&self, publish: &Publish, key: &str) -> Result<()> {
        failpoint::hit("publish.json")?;
        versions::write_checked(&self.path().join("publish.json"), publish, key)
    }

    /// publish.json, its name proved to be a plain file name.
    pub fn read_publish(&self, key: &str) -> Result<Option<Publish>> {
        let path = self.path().join("publish.json");
        let publish: Option<Publish> = versions::read_checked(&path, PUBLISH_VERSION, key)?;
        match publish {
            Some(p) if Path::new(&p.name).file_name() != Some(p.name.as_os_str()) => {
                Err(Fault::DamagedState.because(format!("{} names no plain file", path.display())))
            }
            other => Ok(other),
        }
    }

    fn table_path(&self, index: u64) -> PathBuf {
        self.clips_dir().join(table_name(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(frames: u64) -> FrameTable {
        let stamp = |i| Stamp { pts: i as i64 * 512 - 100, duration: 512, damaged: false, mended: i == 1 };
        FrameTable {
            version: TABLE_VERSION,
            start: 30,
            stamps: (0..frames).map(stamp).collect(),
            hashes: (0..frames).map(|i| u64::MAX - i).collect(),
            encoder: 0,
            user_data: vec![],
            losses: vec![],
        }
    }

    #[test]
    fn names() {
        assert_eq!(table_name(12), "000012.frames.json");
        assert_eq!(parse_table_name("000012.frames.json"), Some(12));
        assert_eq!(parse_table_name("1234567.frames.json"), Some(1_234_567));
        for bad in ["12.frames.json", "+00012.frames.json", "0000012.frames.json", "x.frames.json", ".frames.json"] {
            assert_eq!(parse_table_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn tables_must_fit_their_batch() {
        let range = BatchRange { index: 1, start: 30, length: 240 };
        assert_eq!(table(240).check(range, 240, 1), Ok(()));
        assert_eq!(table(7).check(range, 7, 1), Ok(()));
        let mut swapped = table(3);
        swapped.stamps.swap(0, 1);
        let mut equal = table(3);
        equal.stamps[2] = equal.stamps[1];
        let mut hashes = table(3);
        hashes.hashes.pop();
        for (bad, frames) in [(table(3), 4), (table(0), 0), (table(241), 241), (swapped, 3), (equal, 3), (hashes, 3)] {
            assert!(bad.check(range, frames, 1).is_err());
        }
        assert!(table(3).check(range, 3, 0).is_err());
        let with = |frames: &[u64], captions: usize| {
            let data = |frame: &u64| UserData { frame: *frame, captions: vec![0; captions], active_format: None };
            FrameTable { user_data: frames.iter().map(data).collect(), ..table(3) }.check(range, 3, 1)
        };
        assert_eq!(with(&[0, 2], 6), Ok(()));
        assert!(with(&[2, 0], 6).is_err() && with(&[1, 1], 6).is_err() && with(&[3], 6).is_err());
        assert!(with(&[0], 4).is_err() && with(&[0], 3000).is_err());
        assert!(FrameTable { losses: vec![String::new(); 65], ..table(3) }.check(range, 3, 1).is_err());
        assert!(table(3).check(BatchRange { start: 31, ..range }, 3, 1).is_err());
    }

    #[test]
    fn files_come_back_and_belong_to_their_plan() {
        let root = tempfile::tempdir().unwrap();
        let job = JobDir::create(&root.path().join("a.job"), Path::new("a"), "0-1").unwrap();
        assert_eq!(job.read_table(1, "k").unwrap(), None);
        job.write_table(1, &table(5), "k").unwrap();
        assert_eq!(job.read_table(1, "k").unwrap(), Some(table(5)));
        // Tables of the first version had neither field.
        let old = FrameTable { version: 1, ..table(5) };
        job.write_table(3, &old, "k").unwrap();
        let text = std::fs::read_to_string(job.table_path(3)).unwrap();
        assert!(!text.contains("user_data") && !text.contains("losses"), "{text}");
        assert_eq!(job.read_table(3, "k").unwrap(), Some(old));
        let mut told = table(5);
        told.user_data = vec![UserData { frame: 4, captions: vec![0xfc, 1, 2], active_format: Some(8) }];
        told.losses = vec!["this".into()];
        job.write_table(2, &told, "k").unwrap();
        assert_eq!(job.read_table(2, "k").unwrap(), Some(told));
        assert_eq!(Fault::of(&job.read_table(1, "other plan").unwrap_err()), Fault::DamagedState);

        let mut publish = Publish { version: 1, name: "a\u{fffd}_upscaled.mkv".into(), size: 1, hash: "x".into() };
        job.write_publish(&publish, "k").unwrap();
        assert_eq!(job.read_publish("k").unwrap().unwrap(), publish);
        for name in ["../a.mkv", "", ".", "a/b"] {
            publish.name = name.into();
            job.write_publish(&publish, "k").unwrap();
            assert!(job.read_publish("k").is_err(), "{name}");
        }
        let end = EndMark {
            version: 1,
            frames: 35,
            batches: 2,
            damaged_frames: 0,
            damaged_packets: 1,
            mended: 2,
            resized: 3,
        };
        job.write_end(&end, "k").unwrap();
        assert_eq!(job.read_end("k").unwrap(), Some(end));
    }
}
