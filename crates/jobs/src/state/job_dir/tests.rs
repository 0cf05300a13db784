//! Job folders: what comes back, what is kept and what goes.

use super::*;
use crate::state::fixture::{indices, job, sealed};
use crate::state::frame_table::{EndMark, Publish};

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
fn tidy_keeps_what_the_rules_name() {
    let root = tempfile::tempdir().unwrap();
    let (job, mut plan) = job(root.path(), 2);
    let end =
        EndMark { version: 1, frames: 8, batches: 2, damaged_frames: 0, damaged_packets: 0, mended: 0, resized: 0 };
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
        let found = crate::state::job_scan::find(root.path());
        let words = crate::state::job_scan::sweep(&found.leftovers);
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
