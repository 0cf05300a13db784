//! `upscaled run`: one file in the foreground, resumable like any job.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::config;
use upscaled_core::config::layers::Layer;
use upscaled_core::config::settings::OnSuccess;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console, LogGuard};
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;
use upscaled_engine::models::registry;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::job::standby::Ready;
use upscaled_jobs::job::{finish, planner, runner};
use upscaled_jobs::scratch::area;
use upscaled_jobs::state::job_dir::JobDir;
use upscaled_jobs::state::paths;
use upscaled_media::image::still::{self, StillKind};
use upscaled_media::mux::container;
use upscaled_service::daemon::progress_log;

use crate::cli::args::{DaemonLocation, RunArguments, here};
use crate::cli::exit::CommandEnd;
use crate::cli::show::Show;
use crate::cli::{output, signals};

pub(super) fn run(place: &DaemonLocation, arguments: &RunArguments) -> Result<CommandEnd> {
    let shutdown = signals::shutdown_on_signals()?;
    let order = order(place, arguments)?;
    let show = Show::new(&order.name(), arguments.json);
    let _log = log(&show)?;
    perform(&order, arguments, &show, &shutdown)
}

/// The log of a foreground command. Kept to its end.
pub(super) fn log(show: &Show) -> Result<LogGuard> {
    logging::init(None, Console::Through(show.sink()))
}

/// Does the job of an order made from these arguments.
pub(super) fn perform(
    order: &JobOrder,
    arguments: &RunArguments,
    show: &Show,
    shutdown: &Shutdown,
) -> Result<CommandEnd> {
    if arguments.no_resume {
        anew(order)?;
    } else {
        same_wishes(order, &arguments.layer()?)?;
    }
    for word in area::remove_abandoned(&order.run, &paths::run_scope(), Some(&order.key)) {
        tracing::info!("{word}");
    }
    let result = runner::run(order, &Ready::default(), &|event| show.event(&event), shutdown);
    show.end();
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) if Fault::of(&error) == Fault::Stopped => {
            return Err(Fault::Stopped.because("stopped; the same command goes on from here"));
        }
        Err(error) => {
            drop_hopeless(order, Fault::of(&error));
            return Err(error.context(order.name()));
        }
    };
    finish::drop_folder(order)?;
    if arguments.json {
        output::line(&serde_json::to_string(&upscaled_core::types::progress::Event::Done(outcome))?)?;
    } else {
        output::line(&progress_log::summary(&order.name(), &outcome))?;
    }
    Ok(CommandEnd::Done)
}

/// The output's extension says what is to be written; what is not written here is refused at once.
fn check_extension(order: &JobOrder) -> Result<()> {
    let extension = order.target_file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let kind = match still::kind_of(&order.source) {
        Ok(Some(kind)) => kind,
        // What cannot be read is told by the job.
        Ok(None) | Err(_) => return container::muxer_of(&extension).map(drop),
    };
    let known: &[&str] = match kind {
        StillKind::Png => &["png"],
        StillKind::Jpeg => &["jpg", "jpeg"],
        StillKind::WebP => &["webp"],
        StillKind::Tiff => &["tif", "tiff"],
    };
    if known.contains(&extension.as_str()) {
        return Ok(());
    }
    let (source, kind) = (escape(&order.source), kind.name());
    let message = format!("{source} is a {kind} picture and stays one; let OUTPUT end in .{}", known[0]);
    Err(Fault::Config.because(message))
}

/// For `--no-resume`: removes what an interrupted run has left, once it is sure that a new one
/// can begin.
fn anew(order: &JobOrder) -> Result<()> {
    if !order.job_dir.is_dir() {
        return Ok(());
    }
    if still::kind_of(&order.source)?.is_none() {
        let mut name = order.job_dir.clone().into_os_string();
        name.push(".new");
        planner::plan_only(&JobOrder { job_dir: name.into(), ..order.clone() })
            .with_context(|| format!("{} is left as it was", escape(&order.job_dir)))?;
    }
    finish::remove_folder(order).with_context(|| format!("removing {} for --no-resume", escape(&order.job_dir)))
}

/// A run that goes on keeps the settings it began with: flags that want others are refused, not
/// ignored. Settings files count for new jobs.
fn same_wishes(order: &JobOrder, flags: &Layer) -> Result<()> {
    let Some(plan) = JobDir::open(&order.job_dir)?.map(|dir| dir.read_plan()).transpose()?.flatten() else {
        return Ok(());
    };
    let wanted = serde_json::to_value(&order.settings)?;
    let differ = |name: &&str| match (plan.settings.get(name), wanted.get(name)) {
        (Some(begun), Some(wanted)) => begun != wanted,
        _ => false,
    };
    let words: Vec<String> =
        flags.names().filter(differ).map(|name| format!("{name} = {}", plan.settings[name])).collect();
    if words.is_empty() {
        return Ok(());
    }
    let (target, words) = (escape(&order.target_file), words.join(", "));
    Err(Fault::Config.because(format!(
        "{target} has been begun with {words}; leave those flags away to go on with it, or add --no-resume to drop what \
         is done and start anew"
    )))
}

/// What failed for good before anything was done leaves nothing to go on from.
fn drop_hopeless(order: &JobOrder, fault: Fault) {
    let Ok(Some(dir)) = JobDir::open(&order.job_dir) else { return };
    let planned = !matches!(dir.read_plan(), Ok(None));
    let sealed = std::fs::read_dir(dir.clips_dir()).is_ok_and(|mut clips| clips.next().is_some());
    // What a newer program began is its own.
    if (!planned || (fault.is_final() && fault != Fault::NewerState && !sealed))
        && let Err(error) = finish::remove_folder(order)
    {
        tracing::warn!("{}", one_line(&error));
    }
}

/// The job that these arguments mean, if it can be. Its folder stands beside the output.
pub(super) fn order(place: &DaemonLocation, arguments: &RunArguments) -> Result<JobOrder> {
    let here = here();
    if here.as_os_str().is_empty() && (arguments.input.is_relative() || arguments.output.is_relative()) {
        return Err(Fault::NotFound.because(
            "the current folder has been removed; change to another folder, or name both files by their whole paths",
        ));
    }
    let source = absolute(&here, &arguments.input);
    let target = absolute(&here, &arguments.output);
    let (source_text, target_text) = (escape(&source), escape(&target));
    match std::fs::metadata(&source) {
        Err(e) => return Err(Fault::NotFound.because(format!("{source_text} cannot be opened ({e})"))),
        Ok(facts) if !facts.is_file() => return Err(Fault::BadInput.because(format!("{source_text} is not a file"))),
        Ok(_) => {}
    }
    if target.is_dir() {
        return Err(Fault::Config.because(format!("{target_text} is a folder; name the file to be written")));
    }
    let (Some(folder), Some(_), Some(name)) = (target.parent(), target.file_name(), source.file_name()) else {
        return Err(Fault::Config.because(format!("{target_text} is no file name; name the file to be written")));
    };
    if !folder.is_dir() {
        return Err(Fault::NotFound.because(format!("there is no folder {}; make it first", escape(folder))));
    }
    let job_dir = paths::run_job_dir(&target)?;
    // A job that was stopped between its last two steps has its output already.
    if target.symlink_metadata().is_ok() && !job_dir.is_dir() {
        return Err(Fault::Config.because(format!("{target_text} exists and is not replaced; choose another name")));
    }
    let sources = place.sources(arguments.layer()?)?;
    let settings = config::resolve(&sources)?;
    let (mut job, mut run) = match source.strip_prefix(&settings.folders.input) {
        Ok(relative) => config::resolve_job(&sources, &settings.folders, relative)?,
        Err(_) => (settings.job, settings.run),
    };
    job.model = registry::resolve(&job.model, Some(&sources.root))?;
    // What becomes of the source is for the daemon's input folder; here it is a person's file.
    run.on_success = OnSuccess::Keep;
    let order = JobOrder {
        relative: PathBuf::from(name),
        job_dir,
        target_dir: folder.to_path_buf(),
        crowded: false,
        key: paths::run_job_key(&target),
        attempt: 0,
        lean: 0,
        together: 1,
        previews: false,
        settings: job,
        run,
        target_file: target,
        source,
    };
    check_extension(&order)?;
    Ok(order)
}

fn absolute(here: &Path, path: &Path) -> PathBuf {
    here.join(path).components().collect()
}
