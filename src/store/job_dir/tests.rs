//! Job folders: what is believed after damage, what is kept and what goes.

use super::*;
use crate::model::encoder::{Codec, EncoderChoice, EncoderSpec};
use crate::model::engine::{EnginePin, Precision, Provider};
use crate::model::frame::{PixelFormat, Stamp};
use crate::model::plan::{BatchRule, Fingerprint};
use crate::model::source::{Colour, Rational, SourceInfo, VideoInfo};
use crate::store::clips::SealedClips;
use crate::store::frame_table::{End, FrameTable, Publish, TABLE_VERSION, table_name};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const RATE: Rational = Rational::new(24000, 1001);
const COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };

fn plan() -> Plan {
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
        engine: EnginePin {
            model: "builtin:fast".into(),
            model_hash: "cd".into(),
            model_scale: 2,
            passes: 1,
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
        },
        encoder: EncoderChoice { specs: vec![spec], passed_over: vec![] },
        max_size_mb: None,
        libraries: vec![],
        key: String::new(),
    }
}

/// A locked job folder with a plan and the first `batches` batches sealed.
fn job(root: &Path, batches: u64) -> (JobDir, Plan) {
    let mut job = JobDir::create(&root.join("film.mkv.job"), Path::new("film.mkv"), "0-1").unwrap();
    job.lock(Duration::from_secs(1)).unwrap();
    let mut plan = plan();
    job.write_plan(&mut plan).unwrap();
    (0..batches).for_each(|index| seal(&job, &plan, index));
    (job, plan)
}

fn seal(job: &JobDir, plan: &Plan, index: u64) {
    let range = plan.batches.range(index);
    let stamp = |i| Stamp { pts: i as i64 * 512, duration: 512, damaged: false, mended: false };
    let frames = range.start..range.start + range.length;
    let table = FrameTable {
        version: TABLE_VERSION,
        start: range.start,
        stamps: frames.clone().map(stamp).collect(),
        hashes: frames.collect(),
        encoder: 0,
    };
    job.write_table(index, &table, &plan.key).unwrap();
    let part = job.path().join("from-elsewhere.part");
    fs::write(&part, format!("the clip of batch {index}").repeat(100)).unwrap();
    let clip = job.seal_clip(&part, index, range.length, &plan.key, &|_| Ok(())).unwrap();
    assert!(!part.exists() && clip.path.exists());
}

fn sealed(job: &JobDir, plan: &Plan) -> SealedClips {
    job.sealed(plan, &|_| Ok(())).unwrap()
}

fn indices(found: &SealedClips) -> Vec<u64> {
    found.clips.iter().map(|c| c.index).collect()
}

fn clip_path(job: &JobDir, index: u64) -> PathBuf {
    let prefix = format!("{index:06}-");
    let names = job.list(&job.clips_dir()).unwrap();
    names.into_iter().find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).unwrap()
}

#[test]
fn a_plan_comes_back_and_any_flipped_byte_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let (job, written) = job(root.path(), 0);
    assert_eq!(job.read_plan().unwrap().unwrap(), written);
    assert_eq!(written.key.len(), 64);
    let path = job.path().join("plan.json");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() - 1 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        if let Ok(Some(plan)) = job.read_plan() {
            assert_eq!(plan, written, "flip at {at}");
        }
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(Fault::of(&job.read_plan().unwrap_err()), Fault::DamagedState);
    fs::write(&path, b"{\"version\":2}").unwrap();
    assert_eq!(Fault::of(&job.read_plan().unwrap_err()), Fault::NewerState);
    fs::remove_file(&path).unwrap();
    assert_eq!(job.read_plan().unwrap(), None);
}

#[test]
fn sealed_batches_are_believed() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 3);
    let found = sealed(&job, &plan);
    assert_eq!((indices(&found), found.dropped.len(), found.contiguous()), (vec![0, 1, 2], 0, 3));
    assert_eq!((found.clips[1].frames, found.clips[1].table.start), (5, 3));
    assert_eq!(job.tidy(Some(&plan)).unwrap(), [""; 0]);
    assert_eq!(indices(&sealed(&job, &plan)), [0, 1, 2]);
}

#[test]
fn damage_costs_its_batch_and_is_reported() {
    type Damage = fn(&JobDir, &Plan);
    fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
    let cases: [(&str, Damage); 14] = [
        ("clip truncated", |j, _| rewrite(&clip_path(j, 1), |b| b.truncate(10))),
        ("clip flipped", |j, _| rewrite(&clip_path(j, 1), |b| b[50] ^= 4)),
        ("clip longer", |j, _| rewrite(&clip_path(j, 1), |b| b.push(0))),
        ("clip empty", |j, _| fs::write(clip_path(j, 1), b"").unwrap()),
        ("clip gone", |j, _| fs::remove_file(clip_path(j, 1)).unwrap()),
        ("clip a folder", |j, _| {
            let path = clip_path(j, 1);
            fs::remove_file(&path).unwrap();
            fs::create_dir_all(path.join("deep")).unwrap();
        }),
        ("clip a dead link", |j, _| {
            let path = clip_path(j, 1);
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("nowhere", path).unwrap();
        }),
        ("clip of other frames", |j, p| {
            let path = clip_path(j, 1);
            let name = path.file_name().unwrap().to_str().unwrap().replace("-5-", "-4-");
            fs::rename(&path, path.with_file_name(name)).unwrap();
            let _ = p;
        }),
        ("clip of another plan", |j, _| {
            let hash = crate::store::clips::clip_hash(&clip_path(j, 1), "another key").unwrap();
            let name = crate::store::clips::clip_name(1, 5, &hash);
            fs::rename(clip_path(j, 1), j.clips_dir().join(name)).unwrap();
        }),
        ("table truncated", |j, _| rewrite(&j.clips_dir().join(table_name(1)), |b| b.truncate(40))),
        ("table flipped", |j, _| rewrite(&j.clips_dir().join(table_name(1)), |b| b[60] ^= 1)),
        ("table empty", |j, _| fs::write(j.clips_dir().join(table_name(1)), b"").unwrap()),
        ("table gone", |j, _| fs::remove_file(j.clips_dir().join(table_name(1))).unwrap()),
        ("table of another batch", |j, _| {
            fs::copy(j.clips_dir().join(table_name(2)), j.clips_dir().join(table_name(1))).map(drop).unwrap();
        }),
    ];
    for (name, damage) in cases {
        let root = tempfile::tempdir().unwrap();
        let (job, plan) = job(root.path(), 3);
        damage(&job, &plan);
        let found = sealed(&job, &plan);
        assert_eq!(indices(&found), [0, 2], "{name}");
        assert!(!found.dropped.is_empty(), "{name}");
        assert_eq!(found.contiguous(), 1);
        assert!(found.dropped.iter().all(|w| w.contains("000001")), "{name}: {:?}", found.dropped);
        assert_eq!(fs::read_dir(job.clips_dir()).unwrap().count(), 4, "{name}: only the whole batches are left");
        seal(&job, &plan, 1);
        let again = sealed(&job, &plan);
        assert_eq!((indices(&again), again.dropped.len()), (vec![0, 1, 2], 0), "{name}: made again");
    }
}

#[test]
fn a_table_of_a_newer_program_is_refused_and_left() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 2);
    fs::write(job.clips_dir().join(table_name(1)), b"{\"version\":9}").unwrap();
    let error = job.sealed(&plan, &|_| Ok(())).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::NewerState);
    assert_eq!(fs::read_dir(job.clips_dir()).unwrap().count(), 4);
}

#[test]
fn absurd_names_are_dropped() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 1);
    let hash = "0".repeat(32);
    for name in [
        format!("18446744073709551615-5-{hash}.nut"),
        format!("18446744073709551616-5-{hash}.nut"),
        format!("000001-18446744073709551615-{hash}.nut"),
        format!("1-5-{hash}.nut"),
        format!("000001-5-{}.nut", "F".repeat(32)),
        "18446744073709551615.frames.json".into(),
        "stray".into(),
        "000001.part".into(),
    ] {
        fs::write(job.clips_dir().join(name), b"x").unwrap();
    }
    let found = sealed(&job, &plan);
    assert_eq!((indices(&found), found.dropped.len()), (vec![0], 8), "{:?}", found.dropped);
    assert_eq!(fs::read_dir(job.clips_dir()).unwrap().count(), 2);
}

#[test]
fn a_failure_while_sealing_leaves_the_batch_undone_or_done() {
    for point in ["seal.copy", "seal.fsync", "seal.check", "seal.rename", "atomic_file.rename", "atomic_file.sync_dir"]
    {
        // A part on another file system is copied; /dev/shm usually is one.
        for far in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let (job, plan) = job(root.path(), 2);
            let range = plan.batches.range(2);
            let mut table = job.read_table(1, &plan.key).unwrap().unwrap();
            table.start = range.start;
            job.write_table(2, &table, &plan.key).unwrap();
            let shm = Path::new("/dev/shm");
            let away = if far && shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
            let part = away.path().join("clip.part");
            fs::write(&part, vec![3u8; 3 << 20]).unwrap();
            let rule = format!("{point}=enospc:once");
            let scope = failpoint::scoped(&rule);
            let result = job.seal_clip(&part, 2, 5, &plan.key, &|_| Ok(()));
            drop(scope);
            if let Err(error) = &result {
                assert_eq!(Fault::of(error), Fault::NoSpace, "{rule}");
            } else {
                assert!(point == "seal.copy" && !far, "{rule} far {far}");
            }
            let done = point == "atomic_file.sync_dir" || result.is_ok();
            assert_eq!(indices(&sealed(&job, &plan)).contains(&2), done, "{rule} far {far}");
            assert_eq!(job.tidy(Some(&plan)).unwrap(), [""; 0], "{rule}");
        }
    }
}

#[test]
fn a_clip_needs_its_table_first() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 0);
    let part = root.path().join("p");
    fs::write(&part, b"x").unwrap();
    assert!(job.seal_clip(&part, 0, 3, &plan.key, &|_| Ok(())).is_err());
    assert!(part.exists());
}

#[test]
fn tidy_keeps_what_the_rules_name() {
    let root = tempfile::tempdir().unwrap();
    let (job, mut plan) = job(root.path(), 2);
    let end = End { version: 1, frames: 8, batches: 2, damaged_frames: 0, damaged_packets: 0, mended: 0, resized: 0 };
    job.write_end(&end, &plan.key).unwrap();
    let publish = Publish { version: 1, name: "a.mkv".into(), size: 1, hash: "x".into() };
    job.write_publish(&publish, &plan.key).unwrap();
    job.set_paused(true).unwrap();
    let beat = |_| Ok(());
    for (batch, first) in [(1, 0), (2, 0), (2, 2)] {
        let part = root.path().join("s.part");
        fs::write(&part, format!("{batch} {first}")).unwrap();
        job.seal_spill(&part, batch, first, 2, &plan.key, &beat).unwrap();
    }
    let count = || walk(job.path()).len();
    let before = count();
    for stray in
        ["x", ".plan.json.7-0.part", "clips/000003.part", "clips/deep/er/file", "spill/x.part", "plan.json.bak"]
    {
        let path = job.path().join(stray);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"").unwrap();
    std::os::unix::fs::symlink(&outside, job.path().join("link")).unwrap();

    plan.max_size_mb = Some(5);
    let removed = job.tidy(Some(&plan)).unwrap();
    assert_eq!((removed.len(), count()), (7, before), "{removed:?}");
    assert!(outside.join("precious").exists());
    plan.max_size_mb = None;
    let removed = job.tidy(Some(&plan)).unwrap();
    assert_eq!((removed.len(), count()), (1, before - 1), "the spill of the sealed batch: {removed:?}");
    assert_eq!(job.spilled(&plan, &beat).unwrap().spills.len(), 2);
    assert!(job.is_paused());
    job.set_paused(false).unwrap();
    assert!(!job.is_paused());
}

#[test]
fn damaged_spills_are_dropped() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 0);
    let beat = |_| Ok(());
    for first in [0, 1, 2] {
        let part = root.path().join("s.part");
        fs::write(&part, format!("frames from {first}")).unwrap();
        job.seal_spill(&part, 0, first, 1, &plan.key, &beat).unwrap();
    }
    let spills = job.spilled(&plan, &beat).unwrap();
    assert_eq!((spills.spills.len(), spills.dropped.len()), (3, 0));
    fs::write(&spills.spills[1].path, b"other").unwrap();
    let hash = &spills.spills[0].hash;
    for name in [format!("000000-3-1-{hash}.nut"), format!("000000-1-18446744073709551615-{hash}.nut"), "x".into()] {
        fs::write(job.spill_dir().join(name), b"").unwrap();
    }
    let again = job.spilled(&plan, &beat).unwrap();
    assert_eq!(again.spills.iter().map(|s| s.first).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(again.dropped.len(), 4);
    job.remove_spill(&again.spills[0]).unwrap();
    job.remove_spills(0).unwrap();
    assert_eq!(job.spilled(&plan, &beat).unwrap().spills.len(), 0);
}

#[test]
fn nothing_is_removed_without_marker_or_lock() {
    let root = tempfile::tempdir().unwrap();
    let stranger = root.path().join("film.mkv.job");
    fs::create_dir(&stranger).unwrap();
    fs::write(stranger.join("x"), b"").unwrap();
    assert!(JobDir::open(&stranger).unwrap().is_none());
    assert!(JobDir::create(&stranger, Path::new("film.mkv"), "0-1").is_err());
    assert!(stranger.join("x").exists());

    let dir = root.path().join("other.job");
    let unlocked = JobDir::create(&dir, Path::new("other"), "0-2").unwrap();
    assert!(unlocked.tidy(None).is_err() && unlocked.discard().is_err());
    let mut locked = JobDir::open(&dir).unwrap().unwrap();
    locked.lock(Duration::ZERO).unwrap();
    assert!(unlocked.is_busy().unwrap());
    let mut second = JobDir::open(&dir).unwrap().unwrap();
    assert_eq!(Fault::of(&second.lock(Duration::from_millis(30)).unwrap_err()), Fault::Busy);
    assert!(second.remove().is_err() && dir.exists());
    fs::write(dir.join("x"), b"").unwrap();
    fs::rename(dir.join(MARKER), root.path().join("away")).unwrap();
    assert_eq!(locked.tidy(None).unwrap(), [""; 0]);
    assert!(dir.join("x").exists());
}

#[test]
fn removal_survives_a_crash_at_every_step() {
    for point in ["job_dir.remove", "atomic_file.rename", "job_dir.unlink", "atomic_file.unlink", "job_dir.rmdir"] {
        let root = tempfile::tempdir().unwrap();
        let (job, _) = job(root.path(), 2);
        let rule = format!("{point}=eio:once");
        let scope = failpoint::scoped(&rule);
        assert!(job.remove().is_err(), "{rule}");
        drop(scope);
        let found = crate::store::job_scan::find(root.path());
        let words = crate::store::job_scan::sweep(&found.leftovers);
        let still_a_job = point == "job_dir.remove" || point == "atomic_file.rename";
        assert_eq!((found.jobs.len(), words.len()), if still_a_job { (1, 0) } else { (0, 1) }, "{rule}");
        for mut job in found.jobs {
            job.lock(Duration::ZERO).unwrap();
            job.remove().unwrap();
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "{rule}");
    }
}

#[test]
fn creation_leaves_nothing_half_made() {
    for point in ["job_dir.mkdir", "atomic_file.write", "atomic_file.rename"] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/film.job");
        let rule = format!("{point}=enospc");
        let scope = failpoint::scoped(&rule);
        let error = JobDir::create(&dir, Path::new("film"), "0-1").unwrap_err();
        drop(scope);
        assert_eq!(Fault::of(&error), Fault::NoSpace, "{rule}");
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 0, "{rule}");
    }
}

#[test]
fn a_damaged_marker_is_written_anew_and_the_clips_stay() {
    let root = tempfile::tempdir().unwrap();
    let (first, plan) = job(root.path(), 2);
    let dir = first.path().to_path_buf();
    drop(first);
    fs::write(dir.join(MARKER), b"{\"ver").unwrap();
    assert_eq!(Fault::of(&JobDir::open(&dir).unwrap_err()), Fault::DamagedState);
    assert!(belongs_to(&dir, Path::new("film.mkv")));
    let mut again = JobDir::create(&dir, Path::new("film.mkv"), "0-1").unwrap();
    again.lock(Duration::ZERO).unwrap();
    assert_eq!(indices(&sealed(&again, &plan)), [0, 1]);
    fs::write(dir.join(MARKER), b"{\"version\":2}").unwrap();
    assert!(!belongs_to(&dir, Path::new("film.mkv")));
    assert_eq!(Fault::of(&JobDir::create(&dir, Path::new("film.mkv"), "0-1").unwrap_err()), Fault::NewerState);
}

#[test]
fn starting_afresh_removes_all_work() {
    let root = tempfile::tempdir().unwrap();
    let (job, plan) = job(root.path(), 2);
    let scope = failpoint::scoped("job_dir.unlink=eio@3");
    assert!(job.discard().is_err());
    drop(scope);
    assert!(job.read_plan().unwrap().is_some(), "the plan goes last");
    job.discard().unwrap();
    assert!(job.read_plan().unwrap().is_none());
    assert_eq!(indices(&sealed(&job, &plan)), [0; 0]);
}

#[test]
fn a_damaged_status_is_no_status() {
    let root = tempfile::tempdir().unwrap();
    let (job, _) = job(root.path(), 0);
    assert!(job.read_status().unwrap().is_none());
    fs::write(job.path().join("status.json"), b"{\"version\":1,").unwrap();
    assert!(job.read_status().unwrap().is_none());
    fs::write(job.path().join("status.json"), b"{\"version\":5}").unwrap();
    assert_eq!(Fault::of(&job.read_status().unwrap_err()), Fault::NewerState);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        all.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            all.extend(walk(&entry.path()));
        }
    }
    all
}
