//! Paths that try to lead out, with `openat2` and without; files that are written and named by a folder's descriptor.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// The same with the call that resolves a path beneath a folder, and name by name.
fn both_ways(test: impl Fn(&Path)) {
    for rule in ["", "jail.openat2=eio"] {
        let folder = tempfile::tempdir().unwrap();
        let _scope = failpoint::scoped(rule);
        test(&folder.path().canonicalize().unwrap());
    }
}

/// Returns what is found, by its path; why not, in a letter.
fn told<T>(found: Result<T, Denied>, path: impl Fn(&T) -> PathBuf) -> Result<PathBuf, char> {
    match found {
        Ok(found) => Ok(path(&found)),
        Err(Denied::Outside) => Err('O'),
        Err(Denied::Missing) => Err('M'),
        Err(Denied::Failed(error)) => panic!("{error:#}"),
    }
}

fn file(jail: &Jail, path: &Path) -> Result<PathBuf, char> {
    told(jail.file(path), |found| found.path.clone())
}

fn folder(jail: &Jail, path: &Path) -> Result<PathBuf, char> {
    told(jail.folder(path), |found| found.path().to_path_buf())
}

#[test]
fn no_path_leads_out() {
    both_ways(|root| {
        let shared = root.join("shared");
        fs::create_dir_all(shared.join("sub/deep")).unwrap();
        for name in ["secret", "shared/a", "shared/sub/b"] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink(root.join("secret"), shared.join("out")).unwrap();
        symlink("../secret", shared.join("out-by-steps")).unwrap();
        symlink(root, shared.join("up")).unwrap();
        symlink("..", shared.join("sub/up")).unwrap();
        symlink(shared.join("a"), shared.join("whole")).unwrap();
        symlink("sub/b", shared.join("beneath")).unwrap();
        symlink("deep", shared.join("sub/d")).unwrap();
        symlink("loop", shared.join("loop")).unwrap();
        symlink(format!("/proc/{}/root/etc/passwd", std::process::id()), shared.join("magic")).unwrap();
        symlink("/proc/self/cwd", shared.join("cwd")).unwrap();
        symlink(&shared, root.join("alias")).unwrap();
        nix::unistd::mkfifo(&shared.join("fifo"), Mode::S_IRWXU).unwrap();
        for given in [&shared, &root.join("alias")] {
            let jail = Jail::open(given).unwrap();
            let at = |path: &str| given.join(path);
            for (path, real) in [
                ("a", "a"),
                ("./a", "a"),
                ("sub//b", "sub/b"),
                ("sub/../a", "a"),
                ("sub/deep/../../a", "a"),
                ("whole", "a"),
                ("sub/../whole", "a"),
                ("beneath", "sub/b"),
                ("sub/up/a", "a"),
                ("sub/up/../shared/a", "a"),
            ] {
                for asked in [at(path), shared.join(path), root.join("alias").join(path)] {
                    assert_eq!(file(&jail, &asked), Ok(shared.join(real)), "{path}");
                }
            }
            for path in ["none", "sub", "sub/none", "a/b", "fifo", "loop/a"] {
                assert!(file(&jail, &at(path)).is_err_and(|why| why == 'M' || path == "loop/a"), "{path}");
            }
            for path in [
                "../secret",
                "../none",
                "sub/../../secret",
                "out",
                "out-by-steps",
                "up/secret",
                "up/none",
                "up/shared/none",
                "sub/up/../secret",
                "/etc/passwd",
                "/etc/none",
                "cwd/Cargo.toml",
                "magic",
            ] {
                assert_eq!(file(&jail, &at(path)), Err('O'), "{path}");
                assert_eq!(folder(&jail, &at(path)), Err('O'), "{path}");
            }
            assert_eq!(file(&jail, Path::new("a")), Err('O'));
            assert_eq!(file(&jail, &root.join("alias/none")), Err('M'));
            assert_eq!(folder(&jail, &at("sub/d")), Ok(shared.join("sub/deep")));
            assert_eq!(folder(&jail, given), Ok(shared.clone()));
            assert_eq!(folder(&jail, &at("a")), Err('M'));
            assert_eq!(jail.called(&at("whole")), Some((shared.clone(), given.clone())));
            assert_eq!(jail.called(Path::new("/else/x")), None);
        }
        assert!(Jail::open(&shared.join("a")).is_err() && Jail::open(&shared.join("none")).is_err());
    });
}

#[test]
fn folders_are_made_inside_alone() {
    both_ways(|root| {
        let shared = root.join("shared");
        fs::create_dir_all(shared.join("sub")).unwrap();
        fs::write(shared.join("file"), "").unwrap();
        symlink(root, shared.join("up")).unwrap();
        symlink("sub", shared.join("link")).unwrap();
        symlink("nowhere", shared.join("broken")).unwrap();
        let jail = Jail::open(&shared).unwrap();
        let made = |path: &str| told(jail.made_folder(&shared.join(path), 0o777), |made| made.path().to_path_buf());
        assert_eq!(made("new/deep"), Ok(shared.join("new/deep")));
        assert_eq!(made("link/new"), Ok(shared.join("sub/new")));
        assert_eq!(made("new/deep"), Ok(shared.join("new/deep")));
        for path in ["up/new", "../new", "new/../../new", "file/new", "broken/new"] {
            assert!(made(path).is_err(), "{path}");
        }
        assert!(!root.join("new").exists() && !shared.join("nowhere").exists());
    });
}

/// A folder that becomes a link between two looks leads nowhere, and what was opened stays what it was.
#[test]
fn folders_that_become_links() {
    both_ways(|root| {
        let (shared, outside) = (root.join("shared"), root.join("outside"));
        fs::create_dir_all(shared.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "precious").unwrap();
        let jail = Jail::open(&shared).unwrap();
        let held = jail.folder(&shared.join("sub")).unwrap();
        fs::rename(shared.join("sub"), shared.join("moved")).unwrap();
        symlink(&outside, shared.join("sub")).unwrap();
        held.write(OsStr::new("victim"), b"ours").unwrap();
        assert!(held.part(OsStr::new(".p"), 0o644).unwrap().place_new(OsStr::new("new")).unwrap());
        assert_eq!(fs::read(shared.join("moved/victim")).unwrap(), b"ours");
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"precious");
        assert_eq!((fs::read_dir(&outside).unwrap().count(), shared.join("moved/new").exists()), (1, true));
        assert_eq!(folder(&jail, &shared.join("sub")), Err('O'));
        assert_eq!(file(&jail, &shared.join("sub/victim")), Err('O'));
        assert!(jail.made_folder(&shared.join("sub/new"), 0o777).is_err() && !outside.join("new").exists());
        // The shared folder itself too
        fs::rename(&shared, root.join("shared-moved")).unwrap();
        symlink(&outside, &shared).unwrap();
        assert_eq!(file(&jail, &shared.join("victim")), Err('M'));
    });
}

#[test]
fn files_are_written_in_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let jail = Jail::open(dir.path()).unwrap();
    let (folder, at) = (jail.root(), |name: &str| dir.path().join(name));
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    folder.write(OsStr::new("a"), b"one").unwrap();
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o640)).unwrap();
    folder.write(OsStr::new("a"), b"two").unwrap();
    assert_eq!((fs::read(at("a")).unwrap(), fs::metadata(at("a")).unwrap().mode() & 0o777), (b"two".to_vec(), 0o640));
    // A link is replaced, never followed
    fs::write(at("victim"), "precious").unwrap();
    symlink("victim", at("link")).unwrap();
    folder.write(OsStr::new("link"), b"ours").unwrap();
    assert_eq!((fs::read(at("victim")).unwrap(), fs::read(at("link")).unwrap()), (b"precious".into(), b"ours".into()));
    symlink("victim", at("again")).unwrap();
    assert!(matches!(folder.file(OsStr::new("again")), Err(Denied::Outside)));
    assert!(folder.entry(OsStr::new("again")).unwrap().is_some_and(|entry| !entry.plain));
    assert!(folder.entry(OsStr::new("victim")).unwrap().is_some_and(|entry| entry.plain && entry.bytes == 8));
    assert_eq!(folder.entry(OsStr::new("none")).unwrap(), None);
    for name in ["", ".", "..", "../a", "b/c", "/a", "a/"] {
        assert!(folder.write(OsStr::new(name), b"x").is_err() && folder.file(OsStr::new(name)).is_err(), "{name}");
        assert!(folder.entry(OsStr::new(name)).is_err() && folder.remove(OsStr::new(name)).is_err(), "{name}");
    }
    folder.remove(OsStr::new("again")).unwrap();
    folder.remove(OsStr::new("again")).unwrap();
    assert_eq!(names(), ["a", "link", "victim"]);
    // Planned failures leave the old or the new, and no litter
    for point in ["create", "write", "fsync", "rename"] {
        let _scope = failpoint::scoped(&format!("atomic_file.{point}=enospc"));
        let error = folder.write(OsStr::new("a"), b"three").unwrap_err();
        assert_eq!((Fault::of(&error), fs::read(at("a")).unwrap()), (Fault::NoSpace, b"two".to_vec()), "{point}");
        assert_eq!(names(), ["a", "link", "victim"], "{point}");
    }
    let scope = failpoint::scoped("atomic_file.fsync=eio:once");
    folder.write(OsStr::new("a"), b"three").unwrap();
    drop(scope);
    assert_eq!(fs::read(at("a")).unwrap(), b"three");
}

#[test]
fn a_name_that_is_taken_stays() {
    let dir = tempfile::tempdir().unwrap();
    let jail = Jail::open(dir.path()).unwrap();
    let at = |name: &str| dir.path().join(name);
    let names = || fs::read_dir(dir.path()).unwrap().count();
    for links in [false, true] {
        let place = |part: &mut PartFile, name: &str| match links {
            false => part.place_new(OsStr::new(name)).unwrap(),
            true => part.link(OsStr::new(name)).unwrap(),
        };
        fs::write(at("theirs"), "theirs").unwrap();
        symlink("nowhere", at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at(".part"), "of an earlier attempt").unwrap();
        let mut part = jail.root().part(OsStr::new(".part"), 0o644).unwrap();
        std::io::Write::write_all(&mut part.file, b"ours").unwrap();
        for taken in ["theirs", "link", "folder"] {
            assert!(!place(&mut part, taken), "{taken}");
        }
        assert_eq!(fs::read(at("theirs")).unwrap(), b"theirs");
        assert!(place(&mut part, "ours"));
        drop(part);
        assert_eq!((fs::read(at("ours")).unwrap(), names()), (b"ours".to_vec(), 4));
        drop(jail.root().part(OsStr::new(".part"), 0o644).unwrap());
        assert_eq!(names(), 4);
        ["theirs", "link", "ours"].iter().for_each(|name| fs::remove_file(at(name)).unwrap());
        fs::remove_dir(at("folder")).unwrap();
    }
}
