//! Work areas: mounted, shared and on disk; kept for a resume, swept when stale.

use std::os::unix::fs::PermissionsExt;

use upscaled_core::test_util::small_disk::SmallDisk;

use super::*;

const KEY: &str = "0123abcd-0123456789abcdef";

fn settings(dir: &Path, limit_mb: u64) -> RunSettings {
    RunSettings { work_area: Some(dir.to_path_buf()), ramdisk_limit_mb: limit_mb, ..RunSettings::default() }
}

fn may_mount() -> bool {
    SmallDisk::mount(1 << 20).is_some()
}

#[test]
fn a_mounted_area_is_found_again_and_destroyed() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 2);
    let area = WorkArea::open(&settings, KEY, 10 * MIB).unwrap();
    assert_eq!((area.kind(), area.limit()), (AreaKind::Mounted, 2 * MIB));
    assert!(area.room() <= 2 * MIB && area.room() > MIB);
    fs::write(area.path().join("batch-000001.y4m"), vec![1; 1 << 20]).unwrap();
    assert!(area.room() <= MIB);
    // A killed process leaves the mount and loses its lock.
    drop(area);
    let area = WorkArea::open(&RunSettings { ramdisk_limit_mb: 4, ..settings.clone() }, KEY, 10 * MIB).unwrap();
    assert_eq!((area.kind(), mount::space(area.path()).unwrap().total), (AreaKind::Mounted, 4 * MIB));
    assert_eq!(fs::read(area.path().join("batch-000001.y4m")).unwrap().len(), 1 << 20);
    area.tidy(&|_| false).unwrap();
    assert_eq!(fs::read_dir(area.path()).unwrap().count(), 1);
    let path = area.path().to_path_buf();
    area.destroy().unwrap();
    assert!(!path.exists() && dir.path().exists());
}

#[test]
fn without_mounting_a_shared_tmpfs_and_else_a_disk() {
    let Some(ram) = SmallDisk::mount(8 << 20) else { return };
    let Some(tight) = SmallDisk::mount(1 << 20) else { return };
    let disk = tempfile::tempdir().unwrap();
    let base = |path: &Path| Base { path: path.to_path_buf(), own: false };
    let settings = settings(Path::new("/nowhere"), 3);
    // What a process that may not mount does, mounting having failed.
    let no_mount = || upscaled_core::failpoint::scoped("work.mount=eio");

    let scope = no_mount();
    let bases = [base(disk.path()), base(tight.path()), base(ram.path())];
    let area = WorkArea::open_among(&bases, &settings, KEY, 10 * MIB).unwrap();
    drop(scope);
    assert_eq!((area.kind(), area.path().parent()), (AreaKind::Shared, Some(ram.path())), "the one with the room");
    fs::write(area.path().join("x"), vec![1; 2 << 20]).unwrap();
    assert_eq!(area.room(), MIB, "its own limit");
    fs::write(ram.path().join("others"), vec![1; 7 << 20]).unwrap_err();
    assert_eq!(area.room(), 0, "the file system is full");
    area.destroy().unwrap();
    assert!(!disk.path().join(KEY).exists() && !tight.path().join(KEY).exists());

    let scope = no_mount();
    let area = WorkArea::open_among(&bases[..1], &settings, KEY, MIB).unwrap();
    drop(scope);
    assert_eq!((area.kind(), area.limit()), (AreaKind::Disk, 3 * MIB));
    assert!(area.room() <= 3 * MIB);
    area.destroy().unwrap();
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let area = WorkArea::open(&settings(dir.path(), 1), KEY, MIB).unwrap();
    assert!(FileLock::try_take_existing(&area.path().join(MARKER)).unwrap().is_none());
    for bad in ["", "../x", "a/b", ".", "-", "ü"] {
        assert!(WorkArea::open(&settings(dir.path(), 1), bad, MIB).is_err(), "{bad}");
    }
    area.destroy().unwrap();
}

#[test]
fn only_stale_areas_of_this_installation_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1);
    let name = |scope: &str, n: u32| format!("{scope}-{n:016x}");
    let open = |key: &str| WorkArea::open(&settings, key, MIB).unwrap();
    let (kept, stale, foreign) = (name("aaaaaaaa", 1), name("aaaaaaaa", 2), name("bbbbbbbb", 1));
    for key in [&kept, &stale, &foreign] {
        drop(open(key));
    }
    let busy = open(&name("aaaaaaaa", 3));
    let half_made = dir.path().join(name("aaaaaaaa", 4));
    fs::create_dir(&half_made).unwrap();
    let unmarked = dir.path().join(name("aaaaaaaa", 5));
    fs::create_dir(&unmarked).unwrap();
    fs::write(unmarked.join("precious"), b"").unwrap();
    if may_mount() {
        // A crash between mount and marker.
        let bare = dir.path().join(name("aaaaaaaa", 6));
        fs::create_dir(&bare).unwrap();
        assert!(mount::mount_tmpfs(&bare, MIB).unwrap());
    }
    fs::create_dir(dir.path().join("aaaaaaaa-mine")).unwrap();
    fs::write(dir.path().join(name("aaaaaaaa", 7)), b"a file").unwrap();

    let words = remove_stale(&settings, "aaaaaaaa", std::slice::from_ref(&kept));
    let left = |key: &str| dir.path().join(key).exists();
    assert!(left(&kept) && left(&foreign) && busy.path().exists() && unmarked.exists(), "{words:?}");
    assert!(!left(&stale) && !half_made.exists() && !left(&name("aaaaaaaa", 6)), "{words:?}");
    assert!(left("aaaaaaaa-mine") && left(&name("aaaaaaaa", 7)));
    busy.destroy().unwrap();
    for key in [&kept, &foreign] {
        open(key).destroy().unwrap();
    }
}

#[test]
fn areas_of_the_living_stay() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1);
    let name = |n: u32| format!("aaaaaaaa-{n:016x}");
    let open = |n| WorkArea::open(&settings, &name(n), MIB).unwrap();
    let (living, _, _) = (open(1), drop(open(2)), drop(open(3)));
    let old = fs::FileTimes::new().set_modified(std::time::SystemTime::now() - Duration::from_secs(3600));
    for (n, is_old) in [(4, false), (5, true)] {
        fs::create_dir(dir.path().join(name(n))).unwrap();
        if is_old {
            fs::File::open(dir.path().join(name(n))).unwrap().set_times(old).unwrap();
        }
    }
    // Others may write to it: who knows what is in it.
    drop(open(6));
    let shared = dir.path().join(name(6));
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(&shared, dir.path().join(name(7))).unwrap();
    let words = remove_abandoned(&settings, "aaaaaaaa", Some(&name(3)));
    let left: Vec<u32> = (1..=7).filter(|n| dir.path().join(name(*n)).symlink_metadata().is_ok()).collect();
    assert_eq!(left, [1, 3, 4, 6, 7], "{words:?}");
    living.destroy().unwrap();
    drop(open(3).destroy());
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
    open(6).destroy().unwrap();
}

#[test]
fn an_area_is_opened_though_others_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                remove_abandoned(&settings, KEY.split_once('-').unwrap().0, None);
            }
        });
        for round in 0..40 {
            // Left as a killed process leaves it, then opened again.
            let opened = WorkArea::open(&settings, KEY, MIB);
            let there = opened.as_ref().map(|area| area.path().join(MARKER).is_file());
            if round == 39
                && let Ok(area) = opened
            {
                area.destroy().unwrap();
            } else if !matches!(there, Ok(true)) {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("round {round}: {there:?}");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_somebody_planted_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (elsewhere, planted) = (dir.path().join("elsewhere"), dir.path().join("areas").join(KEY));
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir_all(planted.parent().unwrap()).unwrap();
    let settings = settings(planted.parent().unwrap(), 1);
    let refused = || {
        let error = WorkArea::open(&settings, KEY, MIB).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config);
        assert!(error.chain().any(|e| e.to_string().contains("set work_area to another folder")), "{error:#}");
    };
    fs::write(elsewhere.join(MARKER), "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &planted).unwrap();
    refused();
    fs::remove_file(&planted).unwrap();
    fs::create_dir(&planted).unwrap();
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o770)).unwrap();
    fs::write(planted.join(MARKER), "").unwrap();
    refused();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
}

#[test]
fn a_crash_between_mount_and_marker_leaves_no_second_mount() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let area = dir.path().join(KEY);
    fs::create_dir(&area).unwrap();
    assert!(mount::mount_tmpfs(&area, MIB).unwrap());
    WorkArea::open(&settings(dir.path(), 1), KEY, MIB).unwrap().destroy().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // Not ours to clear.
    fs::create_dir(&area).unwrap();
    fs::write(area.join("precious"), "").unwrap();
    assert_eq!(Fault::of(&WorkArea::open(&settings(dir.path(), 1), KEY, MIB).unwrap_err()), Fault::Config);
    assert!(area.join("precious").exists());
}

#[test]
fn only_the_base_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bases = ["a", "b"].map(|name| Base { path: dir.path().join(name), own: true });
    let area = WorkArea::open_among(&bases, &settings(dir.path(), 1), KEY, MIB).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the other would stay for ever");
    area.destroy().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_base_others_may_write_to_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let base = Base { path: path.clone(), own: true };
    assert!(prepare(&base).is_err());
    let error = WorkArea::open_among(&[base], &settings(dir.path(), 1), KEY, MIB).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Config);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    prepare(&Base { path: path.clone(), own: true }).unwrap();
    std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
    assert!(prepare(&Base { path: dir.path().join("link"), own: true }).is_err());
}

#[test]
fn limits_follow_setting_and_memory() {
    let dir = Path::new("/nowhere");
    assert_eq!(limit(&settings(dir, 7), u64::MAX), 7 * MIB);
    assert_eq!(limit(&settings(dir, 0), 0), LEAST);
    assert!(limit(&settings(dir, 0), u64::MAX) <= memory::machine().unwrap().total.max(LEAST));
}
