//! Clips and spills: which are believed after damage, and what a failure while sealing leaves.

use super::*;
use crate::state::fixture::{clip_path, indices, job, seal, sealed};
use crate::state::frame_table::table_name;

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
            let hash = crate::state::clips::clip_hash(&clip_path(j, 1), "another key").unwrap();
            let name = crate::state::clips::clip_name(1, 5, &hash);
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
