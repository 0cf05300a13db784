//! A small job folder to damage. Only in tests.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use upscaled_core::types::encoder::{Codec, EncoderChoice, EncoderSpec};
use upscaled_core::types::engine::{EngineSpec, Precision, Provider};
use upscaled_core::types::frame::{PixelFormat, Stamp};
use upscaled_core::types::plan::{BatchRule, Fingerprint, PLAN_VERSION, Plan};
use upscaled_core::types::source::{Colour, InBand, Rational, SourceInfo, VideoInfo};

use crate::state::clips::SealedClips;
use crate::state::frame_table::{FrameTable, TABLE_VERSION};
use crate::state::job_dir::JobDir;

const RATE: Rational = Rational::new(24000, 1001);
const COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };

pub(crate) fn plan() -> Plan {
    let video = VideoInfo {
        stream: 0,
        codec: "h264".into(),
        width: 64,
        height: 48,
        source_format: "yuv420p".into(),
        format: PixelFormat::YUV420,
        sample_aspect: Rational::new(0, 1),
        time_base: Rational::new(1, 12800),
        average_rate: RATE,
        estimated_frames: Some(100),
        colour: COLOUR,
        hdr: None,
        rotation: 0,
        interlaced: false,
        alpha: false,
        dolby_vision: None,
        safe_seek: false,
        in_band: InBand::default(),
    };
    let spec = EncoderSpec {
        codec: Codec::H264,
        name: "libx264".into(),
        hardware: false,
        options: vec![("crf".into(), "18".into())],
        width: 128,
        height: 96,
        format: PixelFormat::YUV420,
        rate: RATE,
        gop: 240,
        sample_aspect: Rational::new(0, 1),
        colour: COLOUR,
        hdr: None,
    };
    Plan {
        version: PLAN_VERSION,
        program: "upscaled 0.1.0".into(),
        created: "2025-01-01T00:00:00Z".into(),
        source: PathBuf::from(OsString::from_vec(b"/in/\xff film.mkv".to_vec())),
        fingerprint: Fingerprint { size: 1 << 40, mtime_ns: -7, hash: "ab".into() },
        info: SourceInfo {
            container: "matroska,webm".into(),
            duration: Some(0.1 + 0.2),
            streams: vec![],
            chapters: 0,
            video,
            still: false,
            losses: vec![],
        },
        width: 128,
        height: 96,
        container: "matroska".into(),
        extension: "mkv".into(),
        batches: BatchRule { first: 3, following: 5 },
        decoder_threads: 2,
        deinterlace: false,
        engine: EngineSpec {
            model: "builtin:fast".into(),
            model_hash: "cd".into(),
            model_scale: 2,
            passes: 1,
            channels: 1,
            white: 1,
            picture: None,
            provider: Provider::Cpu,
            device: 0,
            precision: Precision::F32,
            tile_width: 64,
            tile_height: 48,
            halo: 8,
            batch: 1,
            sessions: 1,
            threads: 2,
            reuse: true,
            diffusion: None,
        },
        encoder: EncoderChoice { specs: vec![spec], passed_over: vec![] },
        max_size_mb: None,
        rules: None,
        libraries: vec![],
        settings: serde_json::Value::Null,
        key: String::new(),
    }
}

/// A locked job folder with a plan and the first `batches` batches sealed.
pub(crate) fn job(root: &Path, batches: u64) -> (JobDir, Plan) {
    let mut job = JobDir::create(&root.join("film.mkv.job"), Path::new("film.mkv"), "0-1").unwrap();
    job.lock(Duration::from_secs(1)).unwrap();
    let mut plan = plan();
    job.write_plan(&mut plan).unwrap();
    (0..batches).for_each(|index| seal(&job, &plan, index));
    (job, plan)
}

pub(crate) fn seal(job: &JobDir, plan: &Plan, index: u64) {
    let range = plan.batches.range(index);
    let stamp = |i| Stamp { pts: i as i64 * 512, duration: 512, damaged: false, mended: false };
    let frames = range.start..range.start + range.length;
    let table = FrameTable {
        version: TABLE_VERSION,
        start: range.start,
        stamps: frames.clone().map(stamp).collect(),
        hashes: frames.collect(),
        encoder: 0,
        user_data: vec![],
        losses: vec![],
    };
    job.write_table(index, &table, &plan.key).unwrap();
    let part = job.path().join("from-elsewhere.part");
    fs::write(&part, format!("the clip of batch {index}").repeat(100)).unwrap();
    let clip = job.seal_clip(&part, index, range.length, &plan.key, &|_| Ok(())).unwrap();
    assert!(!part.exists() && clip.path.exists());
}

pub(crate) fn sealed(job: &JobDir, plan: &Plan) -> SealedClips {
    job.sealed(plan, &|_| Ok(())).unwrap()
}

pub(crate) fn indices(found: &SealedClips) -> Vec<u64> {
    found.clips.iter().map(|c| c.index).collect()
}

pub(crate) fn clip_path(job: &JobDir, index: u64) -> PathBuf {
    let prefix = format!("{index:06}-");
    let names = job.list(&job.clips_dir()).unwrap();
    names.into_iter().find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).unwrap()
}
