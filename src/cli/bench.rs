//! `upscaled bench tasks`: whether the tasks of the video service are done in time on this machine.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use upscaled_core::config::settings::{VIDAIO, WORKERS_MAX};
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::shutdown::Shutdown;
use upscaled_core::sys::processors;
use upscaled_core::types::progress::JobOutcome;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::job::{bench, planner};
use upscaled_service::daemon::{Program, side_by_side};
use upscaled_service::server::vidaio::tasks::{self, VidaioTask};

use crate::cli::args::{DaemonLocation, RunArguments, SetArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{output, run, signals};

/// A clip of this length, in seconds, has to be done within so many.
const CLIP: f64 = 10.0;
const LIMIT: f64 = 40.0;
/// More workers are chosen only where they do so many times more.
const WORTH: f64 = 1.03;

#[derive(Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// Do a clip of each task of the video service, and tell whether one of 10 s would be done within 40 s
    Tasks(TasksArguments),
}

#[derive(Args)]
pub(super) struct TasksArguments {
    /// Only these, such as SD2HD [default: all four]
    pub tasks: Vec<String>,
    /// Seconds of the clip that is measured; what a clip of 10 s takes is reckoned from it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Numbers of clips that are done at the same time, such as 1,2 (vidaio_workers) [default: 1, 2 and 4, as far as
    /// there are processors]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(WORKERS_MAX)))]
    pub workers: Vec<u32>,
    /// The figures as JSON, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: SetArguments,
}

/// As many clips at the same time as there are workers.
#[derive(Clone, Default, Serialize)]
struct ParallelTrial {
    workers: u32,
    /// Frames a second of all of them together, from the start of the first to the last published file.
    fps: Option<f64>,
    /// MiB of an output, and seconds until the last of them is done, of clips of 10 s.
    mib: Option<f64>,
    seconds: Option<f64>,
    in_time: bool,
    /// Why there are no figures.
    error: Option<String>,
}

/// One line of the table.
#[derive(Serialize)]
struct BenchRow {
    task: &'static str,
    payload: (u32, u32),
    output: (u32, u32),
    /// The number of workers that is best, with its figures.
    #[serde(flatten)]
    chosen: ParallelTrial,
    encoder: String,
    device: String,
    /// All that were tried.
    tried: Vec<ParallelTrial>,
}

pub(super) fn run(place: &DaemonLocation, arguments: &BenchArguments) -> Result<CommandEnd> {
    let BenchCommand::Tasks(arguments) = &arguments.command;
    let _log = logging::init(None, Console::Stderr)?;
    let shutdown = signals::shutdown_on_signals()?;
    upscaled_media::init();
    let wanted = match arguments.tasks.as_slice() {
        [] => tasks::ALL.iter().collect(),
        named => named.iter().map(|name| named_task(name)).collect::<Result<Vec<_>>>()?,
    };
    let mut rows = Vec::new();
    for task in wanted {
        match measure(place, arguments, task, &shutdown) {
            Err(error) if Fault::of(&error) == Fault::Stopped => return Err(error),
            Err(error) => {
                let chosen = ParallelTrial { error: Some(one_line(&error)), ..ParallelTrial::default() };
                rows.push(BenchRow { chosen, ..empty(task) });
            }
            Ok(row) => rows.push(row),
        }
    }
    let failed = rows.iter().any(|row| row.chosen.error.is_some());
    if arguments.json {
        output::json(&rows)?;
    } else {
        tell(&rows)?;
    }
    Ok(if failed { CommandEnd::SomeFailed } else { CommandEnd::Done })
}

fn named_task(name: &str) -> Result<&'static VidaioTask> {
    tasks::find(&name.to_ascii_uppercase()).ok_or_else(|| Fault::Config.because(tasks::unknown()))
}

fn empty(task: &VidaioTask) -> BenchRow {
    let scale = task.scale();
    BenchRow {
        task: task.name,
        payload: task.from,
        output: (task.from.0 * scale, task.from.1 * scale),
        chosen: ParallelTrial::default(),
        encoder: String::new(),
        device: String::new(),
        tried: Vec::new(),
    }
}

fn measure(
    place: &DaemonLocation,
    arguments: &TasksArguments,
    task: &'static VidaioTask,
    shutdown: &Shutdown,
) -> Result<BenchRow> {
    let folder = tempfile::tempdir().context("making a temporary folder; set TMPDIR to another one")?;
    let source = folder.path().join("payload.nut");
    let frames = arguments.seconds * bench::RATE;
    bench::payload(&source, task.from, frames).context("making a clip to be measured")?;
    let order = |name: String, together: u32| -> Result<JobOrder> {
        let mut wishes = RunArguments::for_file(source.clone(), folder.path().join(name), arguments.set.clone());
        wishes.scale = Some(task.scale().to_string().into());
        let mut order = run::order(place, &wishes)?;
        order.settings.profile = Some(VIDAIO.into());
        order.together = together;
        Ok(order)
    };
    // Whatever is measured once for a size of frames is measured before all.
    let plan = planner::plan_only(&order("plan.mp4".into(), 1)?)?;
    let mut tried = Vec::new();
    for workers in numbers(&arguments.workers) {
        let orders = (0..workers).map(|n| order(format!("{workers}-{n}.mp4"), workers)).collect::<Result<Vec<_>>>()?;
        let done = side_by_side::run(Program::this()?, &orders, shutdown);
        shutdown.check()?;
        tried.push(match done {
            Ok(outcomes) => figures(workers, &outcomes, arguments.seconds),
            Err(error) => ParallelTrial { workers, error: Some(one_line(&error)), ..ParallelTrial::default() },
        });
        orders.iter().for_each(|order| drop(std::fs::remove_file(&order.target_file)));
    }
    let encoder = plan.encoder.specs.first().map(|spec| spec.name.clone()).unwrap_or_default();
    let chosen = best(&tried).cloned().unwrap_or_default();
    Ok(BenchRow { chosen, tried, encoder, device: plan.engine.label(), ..empty(task) })
}

/// The numbers to be tried, each once, the least first.
fn numbers(asked: &[u32]) -> Vec<u32> {
    let processors = processors::count();
    let mut numbers = match asked {
        [] => [1, 2, 4].into_iter().filter(|n| *n <= processors.max(1)).collect(),
        asked => asked.to_vec(),
    };
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn figures(workers: u32, outcomes: &[JobOutcome], clip: u32) -> ParallelTrial {
    let times = CLIP / f64::from(clip);
    // They begin together: the last to be done tells how long all of them take.
    let longest = outcomes.iter().map(|outcome| outcome.seconds).fold(0.0, f64::max);
    let frames: u64 = outcomes.iter().map(|outcome| outcome.frames).sum();
    let bytes = outcomes.iter().map(|outcome| outcome.output_bytes).max().unwrap_or_default();
    let seconds = longest * times;
    ParallelTrial {
        workers,
        fps: Some(frames as f64 / longest.max(f64::MIN_POSITIVE)),
        mib: Some(bytes as f64 * times / f64::from(1 << 20)),
        seconds: Some(seconds),
        in_time: seconds <= LIMIT,
        error: None,
    }
}

/// The number that does most frames a second of those that are in time; where none is, the one whose clips are done
/// first. More workers have to be worth it.
fn best(tried: &[ParallelTrial]) -> Option<&ParallelTrial> {
    let mut best: Option<&ParallelTrial> = None;
    for one in tried {
        let better = match best {
            None => true,
            Some(best) => match (best.in_time, one.in_time) {
                (true, true) => one.fps > best.fps.map(|fps| fps * WORTH),
                (false, false) => {
                    one.error.is_none() && (best.error.is_some() || one.seconds < best.seconds.map(|s| s / WORTH))
                }
                (best, one) => one && !best,
            },
        };
        if better {
            best = Some(one);
        }
    }
    best
}

fn tell(rows: &[BenchRow]) -> Result<()> {
    let size = |(width, height): (u32, u32)| format!("{width}x{height}");
    let figure = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let heads = ["task", "payload", "output", "workers", "fps", "MiB", "10 s clip", "in 40 s"];
    let mut table = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let chosen = &row.chosen;
        table.push(vec![
            row.task.into(),
            size(row.payload),
            size(row.output),
            if chosen.workers > 0 { chosen.workers.to_string() } else { "-".into() },
            figure(chosen.fps, 2),
            figure(chosen.mib, 1),
            chosen.seconds.map_or("-".into(), |seconds| format!("{seconds:.1} s")),
            if chosen.in_time { "yes" } else { "no" }.into(),
        ]);
    }
    output::table(&table).iter().try_for_each(|line| output::line(line))?;
    for row in rows {
        if let (Some(error), true) = (&row.chosen.error, row.tried.is_empty()) {
            output::line(&format!("{}: {error}", row.task))?;
            continue;
        }
        let tried = row.tried.iter().map(|tried| {
            let workers = format!("{} worker{}", tried.workers, if tried.workers == 1 { "" } else { "s" });
            match &tried.error {
                Some(error) => format!("{workers}: {error}"),
                None => format!("{workers} {} fps, {} s a clip", figure(tried.fps, 2), figure(tried.seconds, 1)),
            }
        });
        let tried = tried.collect::<Vec<_>>().join("; ");
        output::line(&format!("{}: {}, {}: {tried}", row.task, row.encoder, row.device))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(workers: u32, fps: f64, seconds: f64) -> ParallelTrial {
        ParallelTrial {
            workers,
            fps: Some(fps),
            seconds: Some(seconds),
            in_time: seconds <= LIMIT,
            ..ParallelTrial::default()
        }
    }

    #[test]
    fn the_best_number_of_workers() {
        let failed = |workers| ParallelTrial { workers, error: Some("no memory".into()), ..ParallelTrial::default() };
        let of = |tried: &[ParallelTrial]| best(tried).map(|best| best.workers);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[tried(1, 10.0, 25.0), tried(2, 14.0, 36.0), tried(4, 15.0, 66.0)]), Some(2));
        assert_eq!(of(&[tried(1, 10.0, 25.0), tried(2, 10.1, 49.0)]), Some(1));
        assert_eq!(of(&[tried(1, 10.0, 25.0), tried(2, 10.1, 39.0)]), Some(1), "not worth it");
        assert_eq!(of(&[tried(1, 1.0, 250.0), tried(2, 1.5, 330.0), failed(4)]), Some(1));
        assert_eq!(of(&[failed(1), tried(2, 1.5, 330.0)]), Some(2));
        assert_eq!(of(&[failed(1), failed(2)]), Some(1));
    }

    #[test]
    fn figures_are_of_all_clips_together() {
        let outcome = |seconds, output_bytes| JobOutcome { frames: 50, seconds, output_bytes, ..JobOutcome::default() };
        let told = figures(2, &[outcome(4.0, 1 << 20), outcome(5.0, 2 << 20)], 2);
        assert_eq!((told.fps, told.mib, told.seconds, told.in_time), (Some(20.0), Some(10.0), Some(25.0), true));
        assert!(!figures(2, &[outcome(9.0, 1)], 2).in_time);
        assert_eq!(numbers(&[4, 1, 4]), [1, 4]);
        assert_eq!(numbers(&[])[0], 1);
    }
}
