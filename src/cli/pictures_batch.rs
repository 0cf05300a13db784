//! `upscaled image batch`: a folder of pictures through workers, many at a time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use glob::Pattern;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::path_text::escape;
use upscaled_service::client::WorkerPool;

use crate::cli::exit::CommandEnd;
use crate::cli::pictures::{self, BatchArguments, UPSCALED};
use crate::cli::{output, signals};

const BAR: &str = "{wide_bar} {pos}/{len}  {per_sec}  ETA {eta}";
/// Most pictures of a folder.
const PICTURES_MAX: usize = 10_000_000;
/// Most pictures asked for at a time.
const THREADS_MAX: usize = 256;
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A picture and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BatchItem {
    source: PathBuf,
    target: PathBuf,
}

pub(super) fn run(arguments: &BatchArguments) -> Result<CommandEnd> {
    let shutdown = signals::shutdown_on_signals()?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let shown = bar.clone();
    let sink = move |line: &str| shown.suspend(|| output::complain(line));
    let _log = logging::init(None, Console::Through(std::sync::Arc::new(sink)))?;
    let (items, skipped) = items(arguments)?;
    let workers = arguments.wish.workers.workers()?;
    let count = workers.len();
    let fleet = WorkerPool::new(workers, arguments.parallel as usize, shutdown.clone());
    if items.is_empty() {
        output::line(&format!("nothing to do: {skipped} pictures are done already"))?;
        return Ok(CommandEnd::Done);
    }
    let missing = fleet.muster();
    missing.iter().for_each(|words| tracing::warn!("{words}"));
    if missing.len() == count {
        return Err(Fault::NotFound.because("no worker answers; start one with `upscaled worker`, or correct --port"));
    }
    let progress = BatchProgress::new(bar, items.len() as u64);
    let tally = work(&fleet, items, arguments, &progress);
    progress.bar.finish_and_clear();
    let (done, failed) = (tally.done, tally.failed);
    let already = if skipped > 0 { format!(", {skipped} were done already") } else { String::new() };
    output::line(&format!("{done} pictures made larger{already}, {failed} failed"))?;
    pictures::stopped(&shutdown)?;
    Ok(match (done, failed) {
        (_, 0) => CommandEnd::Done,
        (0, _) if skipped == 0 => CommandEnd::Told(Fault::BadInput),
        _ => CommandEnd::SomeFailed,
    })
}

/// What is to be done, in the order of names, and how much is done already.
fn items(arguments: &BatchArguments) -> Result<(Vec<BatchItem>, usize)> {
    let folder = arguments.folder.as_ref().or(arguments.batch.as_ref());
    let folder = folder.ok_or_else(|| Fault::Config.because("name the folder with the pictures"))?;
    let pattern = Pattern::new(&arguments.pattern).map_err(|error| {
        Fault::Config.because(format!("--pattern {}: {error}; write it as '*.png'", arguments.pattern))
    })?;
    let name = escape(folder);
    let mut names: Vec<OsString> = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading the folder {name}"))? {
        let entry = entry.with_context(|| format!("reading the folder {name}"))?;
        let fits = pattern.matches(&entry.file_name().to_string_lossy());
        if fits && entry.path().is_file() {
            names.push(entry.file_name());
        }
        if names.len() > PICTURES_MAX {
            return Err(Fault::Unsupported.because(format!("{name} holds more than {PICTURES_MAX} pictures")));
        }
    }
    names.sort();
    let into = arguments.output.as_ref().unwrap_or(folder);
    std::fs::create_dir_all(into).with_context(|| format!("making the folder {}", escape(into)))?;
    let same = same_folder(folder, into);
    if same && arguments.keep_names {
        let words = "--keep-names would put the results in place of the pictures; let --output be another folder";
        return Err(Fault::Config.because(words));
    }
    let mut items = Vec::new();
    let mut skipped = 0;
    for file in names {
        let source = folder.join(&file);
        // Results of an earlier run that stand among the pictures.
        if same && is_result(&source) {
            continue;
        }
        let named = if arguments.keep_names { file } else { pictures::upscaled_name(&source)? };
        let target = into.join(named);
        match target.symlink_metadata() {
            Ok(_) => skipped += 1,
            Err(_) => items.push(BatchItem { source, target }),
        }
    }
    if items.is_empty() && skipped == 0 {
        return Err(Fault::NotFound.because(format!("{name} holds no picture that fits {}", arguments.pattern)));
    }
    Ok((items, skipped))
}

fn same_folder(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn is_result(picture: &Path) -> bool {
    picture.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(UPSCALED))
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
}

/// Sends all items, as many at a time as the fleet takes.
fn work(fleet: &WorkerPool, items: Vec<BatchItem>, arguments: &BatchArguments, progress: &BatchProgress) -> Tally {
    let threads = fleet.at_once().min(items.len()).min(THREADS_MAX);
    let queue = Mutex::new(VecDeque::from(items));
    let tally = Mutex::new(Tally::default());
    let wish = arguments.wish.wish();
    let hand = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(item) = next else { return };
            let sent = pictures::send(fleet, &item.source, &item.target, wish);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match sent {
                Ok(_) => tally.done += 1,
                Err(error) if Fault::of(&error) == Fault::Stopped => return,
                Err(error) => {
                    tally.failed += 1;
                    progress.bar.suspend(|| output::complain(&format!("failed: {}", one_line(&error))));
                }
            }
            progress.step(*tally);
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(hand))));
    *tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bar on a terminal, else a line once in a while.
struct BatchProgress {
    bar: ProgressBar,
    all: u64,
    start: Instant,
    told: Mutex<Instant>,
}

impl BatchProgress {
    fn new(bar: ProgressBar, all: u64) -> BatchProgress {
        bar.set_length(all);
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        BatchProgress { bar, all, start: Instant::now(), told: Mutex::new(Instant::now()) }
    }

    fn step(&self, tally: Tally) {
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= LINE_EVERY {
            *told = Instant::now();
            let (done, rate) = (tally.done + tally.failed, tally.done as f64 / self.start.elapsed().as_secs_f64());
            output::complain(&format!("{done} of {} pictures, {rate:.1} a second", self.all));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct BatchLine {
        #[command(flatten)]
        batch: BatchArguments,
    }

    fn found(line: &[&str]) -> Result<(Vec<String>, usize)> {
        let arguments = BatchLine::try_parse_from(std::iter::once(&"batch").chain(line)).unwrap().batch;
        let (items, skipped) = items(&arguments)?;
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok((items.iter().map(|i| format!("{}>{}", name(&i.source), name(&i.target))).collect(), skipped))
    }

    #[test]
    fn what_is_done_is_skipped_and_results_are_no_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        for name in ["b.png", "a.png", "c.jpg", "a_upscaled.png", "z_upscaled.png"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("folder.png")).unwrap();
        let texts = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(found(&[path]).unwrap(), (texts(&["b.png>b_upscaled.png"]), 1));
        assert_eq!(found(&["--batch", path, "--pattern", "*.jp*g"]).unwrap(), (texts(&["c.jpg>c_upscaled.jpg"]), 0));
        let out = folder.path().join("out");
        let out = out.to_str().unwrap();
        let (items, skipped) = found(&[path, "-o", out, "--keep-names"]).unwrap();
        assert_eq!((items.len(), skipped, items[0].as_str()), (4, 0, "a.png>a.png"));
        std::fs::write(folder.path().join("out/a.png"), "x").unwrap();
        assert_eq!(found(&[path, "-o", out, "--keep-names"]).unwrap().1, 1);
        let fault = |line: &[&str]| Fault::of(&found(line).unwrap_err());
        assert_eq!(fault(&[path, "-o", path, "--keep-names"]), Fault::Config);
        assert_eq!(fault(&[path, "--pattern", "*.gif"]), Fault::NotFound);
        assert_eq!(fault(&[path, "--pattern", "["]), Fault::Config);
        assert_eq!(fault(&["/no/such/folder"]), Fault::NotFound);
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
