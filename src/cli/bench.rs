//! `upscaled bench tasks`: whether the tasks of the video service are done in time on this machine.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::base::fault::{Fault, one_line};
use crate::base::logging::{self, Console};
use crate::base::shutdown::Shutdown;
use crate::cli::args::{Place, RunArguments, SetArguments};
use crate::cli::exit::Ended;
use crate::cli::{output, run, signals};
use crate::config::settings::VIDAIO;
use crate::http::vidaio::tasks::{self, Task};
use crate::job::{bench, runner};
use crate::media;

/// A clip of this length, in seconds, has to be done within so many.
const CLIP: f64 = 10.0;
const LIMIT: f64 = 40.0;

#[derive(Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Do a clip of each task of the video service, and tell whether one of 10 s would be done within 40 s
    Tasks(TasksArguments),
}

#[derive(Args)]
pub struct TasksArguments {
    /// Only these, such as SD2HD [default: all four]
    pub tasks: Vec<String>,
    /// Seconds of the clip that is measured; what a clip of 10 s takes is reckoned from it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// The figures as JSON, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: SetArguments,
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    task: &'static str,
    payload: (u32, u32),
    output: (u32, u32),
    workers: usize,
    /// Frames a second of the whole job, from its start to its published file.
    fps: Option<f64>,
    /// MiB of the output, and seconds that it takes, of a clip of 10 s.
    mib: Option<f64>,
    seconds: Option<f64>,
    in_time: bool,
    encoder: String,
    device: String,
    /// Why there are no figures.
    error: Option<String>,
}

pub fn run(place: &Place, arguments: &BenchArguments) -> Result<Ended> {
    let BenchCommand::Tasks(arguments) = &arguments.command;
    let _log = logging::init(None, Console::Stderr)?;
    let shutdown = signals::shutdown_on_signals()?;
    media::init();
    let wanted = match arguments.tasks.as_slice() {
        [] => tasks::ALL.iter().collect(),
        named => named.iter().map(|name| named_task(name)).collect::<Result<Vec<_>>>()?,
    };
    let mut rows = Vec::new();
    for task in wanted {
        let row = measure(place, arguments, task, &shutdown);
        if let Err(error) = &row
            && Fault::of(error) == Fault::Stopped
        {
            return row.map(|_| Ended::Done);
        }
        rows.push(row.unwrap_or_else(|error| Row { error: Some(one_line(&error)), ..empty(task) }));
    }
    let failed = rows.iter().any(|row| row.error.is_some());
    if arguments.json {
        output::json(&rows)?;
    } else {
        tell(&rows)?;
    }
    Ok(if failed { Ended::SomeFailed } else { Ended::Done })
}

fn named_task(name: &str) -> Result<&'static Task> {
    tasks::find(&name.to_ascii_uppercase()).ok_or_else(|| Fault::Config.because(tasks::unknown()))
}

fn empty(task: &Task) -> Row {
    let scale = task.scale();
    Row {
        task: task.name,
        payload: task.from,
        output: (task.from.0 * scale, task.from.1 * scale),
        workers: 1,
        fps: None,
        mib: None,
        seconds: None,
        in_time: false,
        encoder: String::new(),
        device: String::new(),
        error: None,
    }
}

fn measure(place: &Place, arguments: &TasksArguments, task: &'static Task, shutdown: &Shutdown) -> Result<Row> {
    let folder = tempfile::tempdir().context("making a temporary folder; set TMPDIR to another one")?;
    let (source, target) = (folder.path().join("payload.nut"), folder.path().join("output.mp4"));
    let frames = arguments.seconds * bench::RATE;
    bench::payload(&source, task.from, frames).context("making a clip to be measured")?;
    let mut wishes = RunArguments::for_file(source, target, arguments.set.clone());
    wishes.scale = Some(task.scale().to_string().into());
    let mut order = run::order(place, &wishes)?;
    order.settings.profile = Some(VIDAIO.into());
    let outcome = runner::run(&order, &|_| {}, shutdown)?;
    let times = CLIP / f64::from(arguments.seconds);
    let seconds = outcome.seconds * times;
    Ok(Row {
        fps: Some(outcome.fps),
        mib: Some(outcome.output_bytes as f64 * times / f64::from(1 << 20)),
        seconds: Some(seconds),
        in_time: seconds <= LIMIT,
        encoder: outcome.encoder,
        device: outcome.device,
        ..empty(task)
    })
}

fn tell(rows: &[Row]) -> Result<()> {
    let size = |(width, height): (u32, u32)| format!("{width}x{height}");
    let heads = ["task", "payload", "output", "workers", "fps", "MiB", "10 s clip", "in 40 s"];
    let mut table = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let figure = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        table.push(vec![
            row.task.into(),
            size(row.payload),
            size(row.output),
            row.workers.to_string(),
            figure(row.fps, 2),
            figure(row.mib, 1),
            row.seconds.map_or("-".into(), |seconds| format!("{seconds:.1} s")),
            if row.in_time { "yes" } else { "no" }.into(),
        ]);
    }
    output::table(&table).iter().try_for_each(|line| output::line(line))?;
    for row in rows {
        match &row.error {
            Some(error) => output::line(&format!("{}: {error}", row.task))?,
            None => output::line(&format!("{}: {}, {}", row.task, row.encoder, row.device))?,
        }
    }
    Ok(())
}
