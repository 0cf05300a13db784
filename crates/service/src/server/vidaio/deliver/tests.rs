//! Names that are taken, results that are there already, failures between the steps, and folders that become links.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use upscaled_core::config::settings::Folders;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::requests::REQUEST_VERSION;
use upscaled_jobs::state::state_folder::StateFolder;

use super::*;

struct Stage {
    shared: PathBuf,
    requests: Requests,
    output: PathBuf,
    record: RequestRecord,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn new(named: bool) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (shared, output) = (root.join("shared"), root.join("output.mp4"));
        fs::create_dir_all(shared.join("sub")).unwrap();
        fs::write(&output, "a result").unwrap();
        let folders =
            Folders { root: root.clone(), input: root.join("i"), output: root.join("o"), logs: root.join("l") };
        let (source, target) = (shared.join("sub/a.mp4"), shared.join("sub/a_upscaled_2x.mp4"));
        let record = RequestRecord {
            version: REQUEST_VERSION,
            key: "0a".into(),
            secret: "s".into(),
            origin: PayloadOrigin::Shared { source, target, named },
            task: None,
            scale: 2,
            max_size_mb: None,
            asked: 7,
            delivered: None,
            finished: None,
        };
        let layout = RootLayout::new(&folders);
        let requests = Requests::new(layout.clone(), &StateFolder::open(&layout).unwrap()).unwrap();
        Stage { requests, shared, output, record, _dir: dir }
    }

    fn deliver(&self, record: RequestRecord) -> Result<RequestRecord> {
        deliver(Some(&self.shared), &self.requests, record, &self.output)
    }

    /// The name that a result has been given, as its record on the disk tells too.
    fn delivered(&self) -> String {
        let record = self.requests.read("0a").unwrap().unwrap_or_else(|| self.record.clone());
        let record = self.deliver(record).unwrap();
        assert_eq!(self.requests.read("0a").unwrap().unwrap().delivered, record.delivered);
        let path = record.delivered.unwrap().path;
        assert_eq!(fs::read(&path).unwrap(), fs::read(&self.output).unwrap());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.shared.join("sub").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const NAMES: [&str; 4] = ["a_upscaled_2x.mp4", "a_upscaled_2x-2.mp4", "a_upscaled_2x-3.mp4", "a_upscaled_2x-4.mp4"];

#[test]
fn files_of_others_stay() {
    let stage = Stage::new(false);
    fs::write(stage.at(NAMES[0]), "of others").unwrap();
    // As many bytes as the result has, and a link to nowhere
    fs::write(stage.at(NAMES[1]), "no resul").unwrap();
    symlink("nowhere", stage.at(NAMES[2])).unwrap();
    assert_eq!(stage.delivered(), NAMES[3]);
    assert_eq!(fs::read(stage.at(NAMES[0])).unwrap(), b"of others");
    assert_eq!((fs::read(stage.at(NAMES[1])).unwrap(), stage.names().len()), (b"no resul".to_vec(), 4));
    assert!(!stage.at("nowhere").exists());
    // The same name again, though an earlier one is free; what went is put back, what was changed is not ours any more
    fs::remove_file(stage.at(NAMES[0])).unwrap();
    assert_eq!(stage.delivered(), NAMES[3]);
    fs::remove_file(stage.at(NAMES[3])).unwrap();
    assert_eq!(stage.delivered(), NAMES[3]);
    fs::write(stage.at(NAMES[3]), "a resulT").unwrap();
    assert_eq!(stage.delivered(), NAMES[0]);
    assert_eq!(fs::read(stage.at(NAMES[3])).unwrap(), b"a resulT");
    // Made anew with other bytes: what we made goes
    fs::write(&stage.output, "another result").unwrap();
    assert_eq!((stage.delivered().as_str(), stage.names().len()), (NAMES[0], 4));
}

#[test]
fn a_path_that_was_chosen_is_that_or_nothing() {
    let stage = Stage::new(true);
    let conflict = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Conflict);
        assert!(!error.to_string().contains('/') && error.to_string().contains(NAMES[0]), "{error}");
    };
    let check = |record: &RequestRecord| check(Some(&stage.shared), record);
    check(&stage.record).unwrap();
    for mine in ["of others", "no resul"] {
        fs::write(stage.at(NAMES[0]), mine).unwrap();
        conflict(check(&stage.record));
        conflict(stage.deliver(stage.record.clone()).map(drop));
        assert_eq!((fs::read(stage.at(NAMES[0])).unwrap(), stage.names().len()), (mine.into(), 1));
    }
    // What is the result to the bit is as good as put there
    fs::write(stage.at(NAMES[0]), "a result").unwrap();
    assert_eq!((stage.delivered().as_str(), stage.names().len()), (NAMES[0], 1));
    let record = stage.requests.read("0a").unwrap().unwrap();
    check(&record).unwrap();
    fs::write(&stage.output, "another result").unwrap();
    assert_eq!((stage.delivered().as_str(), stage.names().len()), (NAMES[0], 1));
    // A request that named no path does not mind
    fs::write(stage.at(NAMES[0]), "of others").unwrap();
    let PayloadOrigin::Shared { source, target, .. } = record.origin.clone() else { panic!() };
    let unnamed = RequestRecord { origin: PayloadOrigin::Shared { source, target, named: false }, ..record };
    self::check(Some(&stage.shared), &unnamed).unwrap();
    assert_eq!(stage.deliver(unnamed).unwrap().delivered.unwrap().path, stage.at(NAMES[1]));
}

/// An end between any two steps, and the next attempt: one file, under the name that was chosen first.
#[test]
fn ends_between_the_steps() {
    let points = ["deliver.copy", "atomic_file.fsync", "deliver.name", "atomic_file.rename", "deliver.named"];
    for (point, again) in points.iter().flat_map(|point| [(point, false), (point, true)]) {
        let stage = Stage::new(false);
        fs::write(stage.at(NAMES[0]), "of others").unwrap();
        if again {
            assert_eq!(stage.delivered(), NAMES[1]);
            fs::write(&stage.output, "another result").unwrap();
        }
        let record = stage.requests.read("0a").unwrap().unwrap_or_else(|| stage.record.clone());
        let scope = failpoint::scoped(&format!("{point}=eio"));
        assert!(stage.deliver(record).is_err(), "{point}");
        drop(scope);
        // A crash would have left it
        fs::write(stage.at(&own_name(&stage.record).into_string().unwrap()), "half").unwrap();
        assert_eq!(stage.delivered(), NAMES[1], "{point}");
        assert_eq!(stage.names(), [NAMES[1], NAMES[0]], "{point} {again}");
    }
}

#[test]
fn a_name_that_is_taken_at_the_last_moment() {
    let stage = Stage::new(false);
    let taken = stage.at(NAMES[0]);
    let _scope = failpoint::at("deliver.name", 1, move || fs::write(&taken, "of others").unwrap());
    assert_eq!(stage.delivered(), NAMES[1]);
    assert_eq!((fs::read(stage.at(NAMES[0])).unwrap(), stage.names().len()), (b"of others".to_vec(), 2));
}

#[test]
fn a_folder_that_became_a_link() {
    let stage = Stage::new(true);
    let outside = stage.output.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    let (sub, moved) = (stage.at("."), stage.shared.join("moved"));
    let swap = {
        let (sub, moved, outside) = (stage.shared.join("sub"), moved.clone(), outside.clone());
        move || {
            fs::rename(&sub, moved).unwrap();
            symlink(outside, &sub).unwrap();
        }
    };
    // While it is being put there: it goes where it was to go
    let scope = failpoint::at("deliver.copy", 1, swap);
    stage.deliver(stage.record.clone()).unwrap();
    drop(scope);
    assert_eq!(fs::read(moved.join(NAMES[0])).unwrap(), b"a result");
    // Before: nowhere
    let error = stage.deliver(stage.record.clone()).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Config);
    assert!(self::check(Some(&stage.shared), &stage.record).is_err() && sub.exists());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
