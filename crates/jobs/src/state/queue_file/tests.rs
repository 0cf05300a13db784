//! A person and the daemon at one file: saves in every moment, crashes, damage.

use std::collections::BTreeSet;
use std::io::Write;

use proptest::prelude::*;

use upscaled_core::config::settings::Folders;

use super::*;

struct House {
    _dir: tempfile::TempDir,
    layout: RootLayout,
}

impl House {
    fn new(text: Option<&str>) -> House {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        let folders = Folders { input: root.join("input"), output: root.join("output"), logs: root.join("logs"), root };
        fs::create_dir(&folders.input).unwrap();
        let house = House { _dir: dir, layout: RootLayout::new(&folders) };
        if let Some(text) = text {
            house.save_old(text.as_bytes());
        }
        house
    }

    /// As if saved a while ago: no wait for the rest of the save.
    fn save_old(&self, text: &[u8]) {
        let path = self.layout.queue_file();
        fs::write(&path, text).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(5);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    }

    fn queue(&self) -> QueueFile {
        QueueFile::new(&self.layout)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.layout.queue_file()).unwrap()
    }

    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.layout.root()).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.to_string_lossy().into_owned()).filter(|n| n.contains(".part")).collect()
    }
}

fn listed(queue: QueueText) -> Vec<String> {
    match queue {
        QueueText::Jobs(listing) => listing.jobs.iter().map(|j| escape(j)).collect(),
        QueueText::Rebuild { why, .. } => panic!("must be rebuilt: {why}"),
    }
}

#[test]
fn missing_and_damaged_files_are_rebuilt_once() {
    let house = House::new(None);
    let queue = house.queue();
    assert!(matches!(queue.read().unwrap(), QueueText::Rebuild { ref readable, .. } if readable.is_empty()));
    assert!(matches!(queue.edit(|j| j.push("x".into())).unwrap(), QueueText::Rebuild { .. }));
    assert!(!house.layout.queue_file().exists());
    assert_eq!(listed(queue.rebuild(&["a b.mkv".into(), "c".into()]).unwrap()), ["a b.mkv", "c"]);
    assert!(house.text().starts_with("# "));
    assert_eq!(listed(queue.rebuild(&["other".into()]).unwrap()), ["a b.mkv", "c"], "it is whole");

    for damage in [&b"a\n\0\0\0\nb\n"[..], b"a\n\xff\xff\nb\n"] {
        house.save_old(damage);
        let QueueText::Rebuild { readable, .. } = queue.read().unwrap() else { panic!("{damage:?}") };
        assert_eq!(readable, [PathBuf::from("a"), "b".into()]);
        assert_eq!(listed(queue.rebuild(&readable).unwrap()), ["a", "b"]);
        assert_eq!(fs::read(house.layout.root().join(".upscaled-queue.damaged")).unwrap(), damage);
    }
    fs::remove_file(house.layout.queue_file()).unwrap();
    fs::create_dir(house.layout.queue_file()).unwrap();
    assert!(matches!(queue.read().unwrap(), QueueText::Rebuild { .. }));
    assert_eq!(house.litter(), [""; 0]);
}

#[test]
fn edits_keep_comments_and_a_linked_file_stays_linked() {
    let house = House::new(None);
    let real = house.layout.root().join("elsewhere.txt");
    fs::write(&real, "# mine\na\n\nb\n").unwrap();
    std::os::unix::fs::symlink(&real, house.layout.queue_file()).unwrap();
    let queue = house.queue();
    let now = queue
        .edit(|jobs| {
            jobs.retain(|j| j != Path::new("a"));
            jobs.extend(["c".into(), "c".into()]);
        })
        .unwrap();
    assert_eq!(listed(now), ["b", "c"]);
    assert_eq!(fs::read_to_string(&real).unwrap(), "# mine\n\nb\nc\n");
    assert!(fs::symlink_metadata(house.layout.queue_file()).unwrap().is_symlink());
    queue.edit(|_| {}).unwrap();
    assert_eq!(house.litter(), [""; 0]);
}

#[test]
fn a_save_in_two_steps_is_waited_for() {
    let house = House::new(Some("a\nb\n"));
    let path = house.layout.queue_file();
    let mut file = fs::File::create(&path).unwrap();
    let person = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(120));
        file.write_all(b"a\nb\nc\n").unwrap();
    });
    assert_eq!(listed(house.queue().read().unwrap()), ["a", "b", "c"]);
    person.join().unwrap();
}

#[test]
fn many_editors_lose_nothing() {
    let house = House::new(Some("# kept\n"));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let queue = house.queue();
            scope.spawn(move || {
                (0..5).for_each(|i| drop(queue.edit(|j| j.push(format!("{n}-{i}").into())).unwrap()));
            });
        }
    });
    assert_eq!(listed(house.queue().read().unwrap()).len(), 20);
    assert!(house.text().starts_with("# kept\n"));
    assert_eq!(house.litter(), [""; 0]);
}

#[test]
fn a_crash_at_any_point_loses_no_line() {
    for point in ["queue.swap", "queue.swapped", "atomic_file.rename", "atomic_file.fsync", "atomic_file.unlink"] {
        for nth in 1..4 {
            let house = House::new(Some("# kept\na\nb\n"));
            let path = house.layout.queue_file();
            let saves = std::rc::Rc::new(std::cell::Cell::new(0));
            let counted = saves.clone();
            let person = move || {
                counted.set(counted.get() + 1);
                let text = fs::read_to_string(&path).unwrap() + &format!("# note\nperson{}\n", counted.get());
                fs::write(path.with_extension("new"), text).unwrap();
                fs::rename(path.with_extension("new"), &path).unwrap();
            };
            let rule = format!("{point}=eio@{nth}");
            let result = failpoint::during("queue.swap", person, || {
                let _scope = failpoint::scoped(&rule);
                house.queue().edit(|jobs| jobs.push("ours".into()))
            });
            house.queue().recover().unwrap();
            let jobs = listed(house.queue().read().unwrap());
            let has = |name: &str| jobs.iter().any(|j| j == name);
            assert!(has("a") && has("b"), "{rule}: {jobs:?}");
            assert!(
                (1..=saves.get()).all(|n| has(&format!("person{n}"))),
                "{rule}: {jobs:?} after {} saves",
                saves.get()
            );
            assert!(result.is_err() || has("ours"), "{rule}: {jobs:?}");
            assert!(house.text().contains("# kept\n"), "{rule}");
            assert_eq!(house.litter(), [""; 0], "{rule}");
        }
    }
}

#[derive(Clone, Debug)]
enum Save {
    AppendInPlace,
    Prepend,
    Comment,
    Delete(usize),
    Reverse,
}

fn save() -> impl Strategy<Value = Save> {
    prop_oneof![
        Just(Save::AppendInPlace),
        Just(Save::Prepend),
        Just(Save::Comment),
        (0usize..6).prop_map(Save::Delete),
        Just(Save::Reverse),
    ]
}

/// A person's save, whole, in the moment it is called.
fn act(save: &Save, path: &Path, name: &str) {
    let lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(String::from).collect();
    let new: Vec<String> = match save {
        Save::AppendInPlace => {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(format!("{name}\n").as_bytes()).unwrap();
            return;
        }
        Save::Prepend => std::iter::once(name.to_string()).chain(lines).collect(),
        Save::Comment => lines.into_iter().chain([format!("# {name}")]).collect(),
        Save::Delete(n) => lines.into_iter().filter(|l| *l != format!("old{n}")).collect(),
        Save::Reverse => lines.into_iter().rev().collect(),
    };
    let side = path.with_extension("new");
    fs::write(&side, new.join("\n") + "\n").unwrap();
    fs::rename(&side, path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_persons_edits_and_the_daemons_both_count(
        steps in proptest::collection::vec(
            (proptest::option::of(0usize..6), any::<bool>(), any::<bool>(), proptest::collection::vec(save(), 0..3)),
            1..5,
        ),
    ) {
        let house = House::new(Some("# top\nold0\nold1\n\nold2\n# mid\nold3\nold4\nold5\n"));
        let queue = house.queue();
        let path = house.layout.queue_file();
        let mut jobs: BTreeSet<String> = (0..6).map(|n| format!("old{n}")).collect();
        let mut comments: BTreeSet<String> = ["# top".to_string(), "# mid".to_string()].into();
        for (step, (removes, adds, late, saves)) in steps.into_iter().enumerate() {
            for (n, save) in saves.iter().enumerate() {
                let name = format!("person{step}-{n}");
                match save {
                    Save::AppendInPlace | Save::Prepend => drop(jobs.insert(name)),
                    Save::Comment => drop(comments.insert(format!("# {name}"))),
                    Save::Delete(n) => drop(jobs.remove(&format!("old{n}"))),
                    Save::Reverse => {}
                }
            }
            let mut left = saves.into_iter().enumerate();
            let at = path.clone();
            let person = move || if let Some((n, save)) = left.next() {
                act(&save, &at, &format!("person{step}-{n}"));
            };
            // The rest of the saves, if the daemon's edit needed fewer swaps, are done after it.
            let person = std::rc::Rc::new(std::cell::RefCell::new(person));
            let hook = person.clone();
            let point = if late { "queue.swapped" } else { "queue.swap" };
            failpoint::during(point, move || hook.borrow_mut()(), || {
                queue.edit(|list| {
                    list.retain(|j| removes.is_none_or(|n| *j != Path::new(&format!("old{n}"))));
                    if adds {
                        list.push(format!("ours{step}").into());
                    }
                })
            }).unwrap();
            (0..3).for_each(|_| person.borrow_mut()());
            if let Some(n) = removes {
                jobs.remove(&format!("old{n}"));
            }
            if adds {
                jobs.insert(format!("ours{step}"));
            }
            let text = house.text();
            let found = QueueLines::parse(text.as_bytes(), &queue.resolver).unwrap().jobs();
            let found: BTreeSet<String> = found.iter().map(|j| escape(j)).collect();
            prop_assert_eq!(&found, &jobs, "{}", text);
            let kept: BTreeSet<String> = text.lines().filter(|l| l.starts_with('#')).map(String::from).collect();
            prop_assert_eq!(&kept, &comments);
            prop_assert_eq!(house.litter(), Vec::<String>::new());
        }
    }
}
