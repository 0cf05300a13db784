//! Every file that a job in the middle of its work depends on, damaged in every way, while nobody runs.
//!
//! Root may read what nobody may, so "unreadable" is a link to itself: opening it fails for everyone. A FIFO is there
//! besides: whoever opens it without care waits for ever.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{self, ready, within};
use crate::faults::everything;
use crate::faults::stage::{self, Ended, JOBS, Stage, side_by_side};

const DAMAGES: [&str; 8] = ["delete", "truncate", "flip", "empty", "swap", "unreadable", "folder", "fifo"];
/// Batches of four frames.
const SETTINGS: &str = "eta_frames = 4\nbatch_frames = 4\nattempts_max = 3\nmodel = \"mine\"\n";
/// The first clip sealed, the second on its way, frames of the third on the RAM disk.
const IN_THE_MIDDLE: &str = "job/seal.rename=delay(100000)@2;job/frame_store.write=delay(100000)@11";
pub(crate) const JOB: &str = JOBS[0];

/// What is damaged, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// The output as if nothing had happened.
    Mended,
    /// Or the job counts as taken out by a person, and history and log say so.
    Edited,
    /// Or words; once the old file is back, the output as if nothing had happened.
    Refused,
    /// What a job on the damaged file comes to from the beginning: its output, or words.
    Source,
}

const FILES: [(&str, Rule); 12] = [
    ("queue.txt", Rule::Edited),
    ("plan.json", Rule::Mended),
    ("status.json", Rule::Mended),
    ("history.jsonl", Rule::Refused),
    ("job marker", Rule::Refused),
    ("clip", Rule::Mended),
    ("frame table", Rule::Mended),
    (".part", Rule::Mended),
    ("frame store", Rule::Mended),
    ("model", Rule::Refused),
    ("upscaled.toml", Rule::Refused),
    ("source", Rule::Source),
];

/// Where a file of the table is.
pub(crate) fn place(stage: &Stage, file: &str) -> PathBuf {
    let folder = stage.root.output("sub/a.mkv.job");
    let first = |folder: PathBuf, ending: &str| {
        let mut found: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        found.sort();
        found.into_iter().find(|path| path.to_string_lossy().ends_with(ending)).unwrap_or_default()
    };
    match file {
        "queue.txt" | "upscaled.toml" => stage.root.path().join(file),
        "plan.json" | "status.json" => folder.join(file),
        "history.jsonl" => stage.root.output(file),
        "job marker" => folder.join(".upscaled-job"),
        "clip" => first(folder.join("clips"), ".nut"),
        "frame table" => folder.join("clips/000000.frames.json"),
        ".part" => folder.join("clips/000001.part"),
        "frame store" => {
            let area = fs::read_dir(stage.root.path().join("ram")).into_iter().flatten().flatten().next();
            area.map_or_else(PathBuf::new, |area| area.path().join("batch-000002.y4m"))
        }
        "model" => stage.root.path().join("models/mine.onnx"),
        "source" => stage.root.input(JOB),
        other => unreachable!("{other} is no file of the table"),
    }
}

fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// A root with one job done and one stopped in the middle of its work, over the film of that number.
pub(crate) fn in_the_middle(number: u32) -> Stage {
    let stage = Stage::with(SETTINGS);
    fs::create_dir(stage.root.path().join("models")).expect("a folder");
    fs::copy(models("fast-film.onnx"), place(&stage, "model")).expect("a model");
    stage.put_film("done.mkv", number);
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    stage.put_film(JOB, number);
    stage.plan(IN_THE_MIDDLE);
    let mut daemon = stage.daemon(true);
    let there = || ["clip", ".part"].iter().all(|file| place(&stage, file).is_file()) && frames(&stage) >= 2;
    assert!(within(60, there), "the job does not come so far: {}", stage.root.console());
    let child = common::job_process(daemon.id()).expect("a job process");
    let _ = (daemon.kill(), daemon.wait());
    assert!(within(10, || !common::is_alive(child)), "the job process outlived its supervisor");
    stage.plan("");
    stage
}

/// Frames of the third batch in the frame store.
fn frames(stage: &Stage) -> usize {
    let bytes = fs::read(place(stage, "frame store")).unwrap_or_default();
    bytes.windows(7).filter(|window| window == b"FRAME X").count()
}

fn damage(path: &Path, how: &str, other: &[u8]) {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !matches!(how, "truncate" | "flip" | "empty" | "swap") {
        fs::remove_file(path).expect("a file");
    }
    match how {
        "delete" => {}
        "truncate" => fs::write(path, &bytes[..bytes.len() / 2]).expect("a file"),
        "flip" => {
            let mut bytes = bytes;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x11;
            fs::write(path, bytes).expect("a file");
        }
        "empty" => fs::write(path, b"").expect("a file"),
        "swap" => fs::write(path, other).expect("a file"),
        "unreadable" => symlink(path, path).expect("a link"),
        "folder" => {
            fs::create_dir(path).expect("a folder");
            fs::write(path.join("inside"), b"something").expect("a file");
        }
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|s| s.success()), "mkfifo"),
        other => unreachable!("{other} is no damage of the table"),
    }
}

fn restore(path: &Path, bytes: &[u8]) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).expect("a folder"),
        Ok(_) => fs::remove_file(path).expect("a file"),
        Err(_) => {}
    }
    fs::write(path, bytes).expect("a file");
}

/// What a case comes to: a mark for the table, or what is wrong.
fn run(file: &str, how: &str, rule: Rule, others: &Others) -> Result<char, String> {
    let stage = in_the_middle(0);
    let path = place(&stage, file);
    let before = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let modified = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
    damage(&path, how, others.of(file));
    let (code, words) = start(&stage)?;
    let straight = code == 0 && stage.ending(JOB) == Some(Ended::Done);
    if rule == Rule::Source && !straight && stage.ending(JOB).is_none() {
        // Not there: it is waited for.
        if !stage.root.console().contains("sub/a.mkv") {
            return Err(format!("it waits without a word: {words}"));
        }
    } else if rule == Rule::Source {
        return source(&stage, how, others);
    }
    let ending = stage.ending(JOB);
    let refused = match (rule, &ending) {
        _ if straight => false,
        (Rule::Edited, Some(Ended::Removed)) | (Rule::Refused | Rule::Source, None | Some(Ended::Failed(_))) => true,
        _ => return Err(format!("exit code {code}, ending {ending:?}{words}")),
    };
    if refused {
        let said = stage.root.console() + &stage.history();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let known = [name.as_str(), "sub/a.mkv"];
        if !known.iter().any(|name| said.contains(name)) {
            return Err(format!("refused, and the words do not name {name}: {words}"));
        }
        if rule != Rule::Edited {
            restore(&path, &before);
            let file = fs::File::options().append(true).open(&path).expect("a file");
            file.set_modified(modified).expect("a time");
        }
        if ending.is_some() {
            stage.retry(JOB)?;
        } else {
            start(&stage)?;
        }
    } else if file == "upscaled.toml" || file == "model" {
        restore(&path, &before);
        stage.drain()?;
    }
    if file == "upscaled.toml" || file == "model" {
        // With other settings the work area was elsewhere.
        stage.drain()?;
    }
    let mut jobs = vec![JOB, "done.mkv"];
    if file == "history.jsonl" {
        // What was done is not known any more: it is done again, beside the first.
        let again = stage.root.output("done_upscaled-2.mkv");
        if let Ok(bytes) = fs::read(&again) {
            if bytes != *others.reference {
                return Err("the job that was forgotten came out wrong".into());
            }
            fs::remove_file(again).expect("a file");
        }
    }
    jobs.retain(|job| stage.root.input(job).exists());
    if stage.ending(JOB) != Some(Ended::Done) {
        return Err(format!("not done in the end: {:?}{}", stage.ending(JOB), stage.last_words()));
    }
    if !stage.output(JOB).is_file() {
        return Err("done, and there is no output".into());
    }
    stage.inspect(&jobs, &others.reference)?;
    let mut left = stage.leftovers();
    // Without its marker a folder is nobody's: it stays, and the job has another.
    left.retain(|name| file != "job marker" || !name.ends_with("a.mkv.job"));
    match left {
        left if left.is_empty() => Ok(if refused { 'R' } else { '=' }),
        left => Err(format!("left: {left:?}{}", stage.last_words())),
    }
}

/// The job began anew over what its source is now: it must end as a job over that ends which never knew another.
fn source(stage: &Stage, how: &str, others: &Others) -> Result<char, String> {
    let fresh = Stage::with(SETTINGS);
    fs::create_dir(fresh.root.path().join("models")).expect("a folder");
    fs::copy(models("fast-film.onnx"), place(&fresh, "model")).expect("a model");
    fs::copy(stage.root.input(JOB), fresh.root.input(JOB)).expect("the source");
    fresh.drain()?;
    let kind = |ending: Option<Ended>| match ending {
        Some(Ended::Failed(reason)) if reason.split_whitespace().count() > 2 => Some(false),
        Some(Ended::Done) => Some(true),
        _ => None,
    };
    let (here, there) = (kind(stage.ending(JOB)), kind(fresh.ending(JOB)));
    if here.is_none() || here != there {
        return Err(format!("{:?}, and over the same file afresh {:?}", stage.ending(JOB), fresh.ending(JOB)));
    }
    if here == Some(true) && fs::read(stage.output(JOB)).ok() != fs::read(fresh.output(JOB)).ok() {
        return Err(format!("{how}: another output than that of a fresh start"));
    }
    if here == Some(true) && *others.reference == fs::read(stage.output(JOB)).expect("an output") {
        return Err("the output is that of the file that is no more".into());
    }
    let mut left = stage.leftovers();
    // A failed job keeps its folder for a retry where there is a plan.
    left.retain(|name| here == Some(true) || !name.ends_with("a.mkv.job"));
    if left.is_empty() { Ok('N') } else { Err(format!("left: {left:?}")) }
}

/// One start to its end: the exit code, and the last words. No start may hang.
pub(crate) fn start(stage: &Stage) -> Result<(i32, String), String> {
    let mut daemon = stage.daemon(true);
    let code = stage::wait(&mut daemon).ok_or_else(|| format!("the daemon hangs: {}", stage.last_words()))?;
    if code == 101 || code == -1 {
        return Err(format!("the daemon crashed: {}", stage.last_words()));
    }
    Ok((code, stage.last_words()))
}

/// The same files of another job, and what the job comes to undisturbed.
struct Others {
    files: Vec<(&'static str, Vec<u8>)>,
    reference: Arc<Vec<u8>>,
}

impl Others {
    fn new() -> Others {
        let stage = in_the_middle(1);
        let read = |file: &'static str| match file {
            "model" => fs::read(models("fast-clean.onnx")).expect("a model"),
            "upscaled.toml" => b"scale = 3\n".to_vec(),
            file => fs::read(place(&stage, file)).expect("a file"),
        };
        let files = FILES.iter().map(|(file, _)| (*file, read(file))).collect();
        let calm = in_the_middle(0);
        assert_eq!(calm.drain(), Ok(1), "{}", calm.root.console());
        Others { files, reference: Arc::new(fs::read(calm.output(JOB)).expect("an output")) }
    }

    fn of(&self, file: &str) -> &[u8] {
        self.files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.as_slice()).unwrap_or_default()
    }
}

#[test]
fn damage_is_mended_or_refused() {
    if !ready("damage_is_mended_or_refused") {
        return;
    }
    let begun = Instant::now();
    let others = Others::new();
    let mut cases = Vec::new();
    for (n, (file, rule)) in FILES.iter().enumerate() {
        for (m, how) in DAMAGES.iter().enumerate() {
            // The chosen part has each file three times or more, and each damage four.
            if everything() || (n + m) % 3 == 0 {
                cases.push((*file, *how, *rule));
            }
        }
    }
    if let Ok(only) = std::env::var("UPSCALED_FAULTS_ONLY") {
        cases.retain(|case| format!("{case:?}").contains(&only));
    }
    let outcomes = side_by_side(&cases, |(file, how, rule)| run(file, how, *rule, &others));
    println!("{:16}{}", "", DAMAGES.map(|how| format!("{how:>12}")).join(""));
    let mut wrong = String::new();
    for (file, _) in FILES {
        let mut line = format!("{file:16}");
        for how in DAMAGES {
            let at = cases.iter().position(|(f, h, _)| *f == file && *h == how);
            let mark = match at.map(|at| &outcomes[at]) {
                None => ' ',
                Some(Ok(mark)) => *mark,
                Some(Err(what)) => {
                    wrong += &format!("{how} {file}: {what}\n");
                    '!'
                }
            };
            line += &format!("{mark:>12}");
        }
        println!("{line}");
    }
    println!("= mended; R refused with words, right once mended by hand; N begun anew over the new source");
    println!("{} cases in {:.0} s", cases.len(), Duration::as_secs_f64(&begun.elapsed()));
    assert!(wrong.is_empty(), "\n{wrong}");
}
