//! A still picture dropped into input/: the same engine, no clips, published the same way.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::config::target::Target;
use crate::engine::diffusion::upscaler::Upscaler;
use crate::engine::enlarge::Engine;
use crate::engine::{cascade, tune};
use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::{fingerprint, frame_memory, publish, resume};
use crate::media::still::{self, Pixels, Still};
use crate::model::progress::Phase;
use crate::pipeline::still::enlarge;
use crate::pipeline::still_diffusion;
use crate::store::job_dir::JobDir;

/// What became of a picture.
pub struct Upscaled {
    pub path: PathBuf,
    pub width: u32,
    pub height: u32,
    pub device: String,
    pub losses: Vec<String>,
}

/// Upscales and publishes a picture. Work that is interrupted begins anew: it is short.
pub fn run(order: &JobOrder, dir: &JobDir, reporter: &Reporter) -> Result<Upscaled> {
    let print = fingerprint::take(&order.source)?;
    let source = still::read(&order.source)?;
    let settings = &order.settings;
    let (width, height) = Target::of(settings).size((source.width, source.height), false, (1, 1))?;
    // Engines are built here and below: a phase with time for it.
    reporter.enter(Phase::Planning, "");
    let made = match still_diffusion::folder(&settings.model) {
        Some(folder) => diffused(&folder, order, source, (width, height), reporter),
        None => enlarged(order, source, (width, height), reporter),
    };
    let (output, device) = made?;
    reporter.beat();
    let temporary = publish::temporary(order)?;
    let kind = output.about().kind;
    // Held no longer: the picture is read back into as much memory again.
    let losses = output.write(&temporary)?;
    for loss in &losses {
        reporter.remark(&format!("lost: {loss}"));
    }
    reporter.enter(Phase::Verifying, "");
    let back = still::read(&temporary).context("reading the finished picture back")?;
    if (back.width, back.height) != (width, height) {
        let message = format!("{} came out as {}x{}", order.name(), back.width, back.height);
        return Err(Fault::Mismatch.because(message));
    }
    fingerprint::check(&order.source, &print)?;
    reporter.enter(Phase::Publishing, "");
    let extension = order.source.extension().map_or_else(|| kind.name().to_lowercase(), |e| escape(e.as_ref()));
    let key = &dir.marker().key;
    let path = publish::publish(order, dir, key, &temporary, &extension, &|_| resume::beat(reporter))?;
    Ok(Upscaled { path, width, height, device, losses })
}

/// The picture in its new size by a network, and the device that made it.
fn enlarged(
    order: &JobOrder,
    source: Still,
    (width, height): (u32, u32),
    reporter: &Reporter,
) -> Result<(Pixels, String)> {
    let settings = &order.settings;
    let (mut pin, remarks) = tune::choose(settings, source.width, source.height, source.depth)?;
    cascade::reach(&mut pin, (source.width, source.height), (width, height))?;
    let need = frame_memory::of_still(&pin, (source.width, source.height), (width, height));
    frame_memory::check(need, (width, height))?;
    for remark in remarks {
        reporter.log("info", &remark);
    }
    let engine = Engine::open(&pin).context("opening the upscaling engine")?;
    reporter.enter(Phase::Upscaling, "");
    let output = enlarge(&engine, &pin, source, &|| reporter.beat());
    if let Some(words) = engine.take_words() {
        reporter.remark(&words);
    }
    Ok((output?, pin.label()))
}

/// The same by a diffusion model.
fn diffused(
    folder: &Path,
    order: &JobOrder,
    source: Still,
    size: (u32, u32),
    reporter: &Reporter,
) -> Result<(Pixels, String)> {
    still_diffusion::check(&order.settings.model, (source.width, source.height), size)?;
    frame_memory::check(still_diffusion::bytes((source.width, source.height), size), size)?;
    let settings = &order.settings;
    let mut model = Upscaler::open(folder, &still_diffusion::setup(settings, &order.run))?;
    reporter.enter(Phase::Upscaling, "");
    let output = still_diffusion::enlarge(&mut model, settings, source, size, &mut |_| {
        reporter.beat();
        Ok(())
    });
    model.take_words().iter().for_each(|words| reporter.remark(words));
    Ok((output?.pixels()?, model.label()))
}
