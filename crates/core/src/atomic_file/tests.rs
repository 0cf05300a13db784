//! Durable writes under failures: planned ones, full disks, taken names.

use super::*;
use crate::test_util::small_disk::SmallDisk;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn append_line(path: &Path, line: &str) -> Result<()> {
    append_lines(path, &[line.to_string()])
}

#[test]
fn replaces_and_hands_on_the_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.txt");
    write(&path, b"one").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    write(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    write_as(&path, b"three", Access::Private).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["queue.txt"]);
}

#[test]
fn a_failure_at_any_point_leaves_old_or_new_and_no_litter() {
    for point in ["create", "write", "fsync", "rename", "sync_dir"] {
        let errors = [("eio", Fault::Io), ("enospc", Fault::NoSpace), ("erofs", Fault::ReadOnly), ("eintr", Fault::Io)];
        for (errno, expected) in errors {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("plan.json");
            write(&path, b"old").unwrap();
            let rule = format!("atomic_file.{point}={errno}");
            let scope = failpoint::scoped(&rule);
            let error = write(&path, b"new").unwrap_err();
            drop(scope);
            assert_eq!(Fault::of(&error), expected, "{rule}");
            let content = fs::read(&path).unwrap();
            let renamed = point == "sync_dir";
            assert_eq!(content, if renamed { &b"new"[..] } else { b"old" }, "{rule}");
            assert_eq!(names(dir.path()), ["plan.json"], "{rule}");
        }
    }
}

#[test]
fn what_nobody_believes_waits_for_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.json");
    write(&path, b"old").unwrap();
    let scope = failpoint::scoped("atomic_file.fsync=eio;atomic_file.sync_dir=eio");
    write_with(&path, b"new", Access::Shared, Durability::None).unwrap();
    assert!(write(&path, b"newer").is_err());
    drop(scope);
    assert_eq!(fs::read(&path).unwrap(), b"new");
    // A crash of the process still leaves the old one or the new one.
    for point in ["create", "write", "rename"] {
        let scope = failpoint::scoped(&format!("atomic_file.{point}=eio"));
        assert!(write_with(&path, b"broken", Access::Shared, Durability::None).is_err(), "{point}");
        drop(scope);
        assert_eq!(fs::read(&path).unwrap(), b"new", "{point}");
    }
    assert_eq!(names(dir.path()), ["status.json"]);
}

#[test]
fn a_failed_fsync_is_answered_by_writing_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let scope = failpoint::scoped("atomic_file.fsync=eio:once");
    write(&path, b"new").unwrap();
    drop(scope);
    assert_eq!(fs::read(&path).unwrap(), b"new");

    let part = dir.path().join("clip.part");
    fs::write(&part, b"clip").unwrap();
    let scope = failpoint::scoped("atomic_file.fsync=eio:once");
    assert!(seal(&part, &dir.path().join("clip")).is_err());
    drop(scope);
    assert_eq!(names(dir.path()), ["x"], "a temp file whose fsync failed must not be fsynced again");
}

#[test]
fn never_replaces_when_asked_not_to() {
    let dir = tempfile::tempdir().unwrap();
    let (part, target) = (dir.path().join("a.part"), dir.path().join("a"));
    for rename_new in [rename_new, link_new] {
        fs::write(&part, b"ours").unwrap();
        fs::write(&target, b"theirs").unwrap();
        assert!(!rename_new(&part, &target).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert!(part.exists());
        fs::remove_file(&target).unwrap();
        assert!(rename_new(&part, &target).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"ours");
        assert!(!part.exists());
        assert!(rename_new(&part, &target).is_err(), "there is nothing to rename");
    }
}

#[test]
fn exchange_swaps() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, b"1").unwrap();
    assert!(exchange(&a, &b).is_err());
    fs::write(&b, b"2").unwrap();
    assert!(exchange(&a, &b).unwrap());
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"2".to_vec(), b"1".to_vec()));
}

#[test]
fn appends_whole_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    append_line(&path, "one").unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"torn").unwrap();
    append_line(&path, "two").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\n{\"torn\ntwo\n");
    assert_eq!(Fault::of(&append_line(&path, "a\nb").unwrap_err()), Fault::Internal);

    let scope = failpoint::scoped("atomic_file.append_fsync=eio:once");
    append_line(&path, "three").unwrap();
    drop(scope);
    let scope = failpoint::scoped("atomic_file.append=enospc");
    assert_eq!(Fault::of(&append_line(&path, "four").unwrap_err()), Fault::NoSpace);
    drop(scope);
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\n{\"torn\ntwo\nthree\n");
    assert_eq!(names(dir.path()), ["history.jsonl"]);
}

#[test]
fn appenders_do_not_mix_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("h");
    std::thread::scope(|s| {
        for n in 0..4 {
            let path = &path;
            s.spawn(move || (0..20).for_each(|i| append_line(path, &format!("{n} {i} {}", "x".repeat(300))).unwrap()));
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 80);
    assert!(text.lines().all(|l| l.len() > 300 && l.ends_with('x')));
}

#[test]
fn a_full_disk_keeps_the_old_content() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let path = disk.path().join("state");
    write(&path, b"old").unwrap();
    append_line(&path, "line").unwrap();
    disk.fill_but(4096);
    let error = write(&path, &vec![7u8; 64 << 10]).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::NoSpace);
    assert_eq!(Fault::of(&append_line(&path, &"y".repeat(64 << 10)).unwrap_err()), Fault::NoSpace);
    assert_eq!(fs::read(&path).unwrap(), b"old\nline\n");
    assert_eq!(names(disk.path()), ["ballast", "state"]);
}

#[test]
fn stale_temp_files_go_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.txt");
    for name in [".queue.txt.17-0.part", ".queue.txt.4.part", ".queue.txt.x.part", ".queue.txt..part", "queue.txt"] {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    remove_stale(&path).unwrap();
    assert_eq!(names(dir.path()), [".queue.txt..part", ".queue.txt.x.part", "queue.txt"]);

    let long = dir.path().join("é".repeat(127));
    let part = write_part(&long, b"x", Access::Shared).unwrap();
    assert!(part.exists() && part.file_name().unwrap().len() <= file_name::NAME_MAX);
    remove_stale(&long).unwrap();
    assert!(!part.exists());
}

#[test]
fn folders_are_made_with_their_parents() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    create_dirs(&deep, 0o700).unwrap();
    create_dirs(&deep, 0o700).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    fs::write(dir.path().join("file"), b"").unwrap();
    assert!(create_dirs(&dir.path().join("file/x"), 0o700).is_err());
    let scope = failpoint::scoped("atomic_file.mkdir=erofs");
    assert!(create_dirs(&dir.path().join("z"), 0o700).is_err());
    drop(scope);
}

#[test]
fn a_file_without_a_name_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("payload");
    for (content, plan) in [("linked", ""), ("copied", "atomic_file.link=eio"), ("over what was there", "")] {
        let mut file = tempfile::tempfile_in(dir.path()).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let _plan = (!plan.is_empty()).then(|| failpoint::scoped(plan));
        name(&file, &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), content);
    }
    // What fails leaves what was there, and nothing else
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    let _plan = failpoint::scoped("atomic_file.fsync=enospc");
    assert_eq!(Fault::of(&name(&file, &target).unwrap_err()), Fault::NoSpace);
    assert_eq!(fs::read_to_string(&target).unwrap(), "over what was there");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
