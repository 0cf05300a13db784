//! `upscaled parts`: the yardstick of `scripts/bench.py`, as JSON.

use anyhow::{Context, Result};

use upscaled_core::logging::{self, Console};
use upscaled_jobs::job::{parts, planner};
use upscaled_jobs::scratch::area::WorkArea;

use crate::cli::args::{DaemonLocation, PartsArguments, RunArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{output, run};

pub(super) fn run(place: &DaemonLocation, arguments: &PartsArguments) -> Result<CommandEnd> {
    let _log = logging::init(None, Console::Child)?;
    let scratch = std::env::temp_dir().join(format!("upscaled-parts-{}", std::process::id()));
    std::fs::create_dir(&scratch).context("making a folder to measure in")?;
    let measured = measure(place, arguments, &scratch);
    std::fs::remove_dir_all(&scratch).context("removing the folder of the measurement")?;
    output::line(&serde_json::to_string(&measured?)?)?;
    Ok(CommandEnd::Done)
}

fn measure(place: &DaemonLocation, arguments: &PartsArguments, scratch: &std::path::Path) -> Result<parts::StageCosts> {
    let target = scratch.join("parts.mkv");
    let asked = RunArguments::for_file(arguments.input.clone(), target, arguments.set.clone());
    let order = run::order(place, &asked)?;
    let plan = planner::plan_only(&order)?;
    let bytes = plan.format().frame_bytes(plan.width, plan.height) as u64 * arguments.frames;
    let area = WorkArea::open(&order.run, &order.key, bytes + (256 << 20))?;
    let measured = parts::measure(&order.source, &plan, &area, arguments.frames);
    area.destroy()?;
    measured
}
