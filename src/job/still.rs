//! A still picture dropped into input/: the same engine, no clips, published the same way.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::config::target::Target;
use crate::engine::enlarge::Engine;
use crate::engine::{cascade, tune};
use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::{fingerprint, frame_memory, publish, resume};
use crate::media::still;
use crate::model::progress::Phase;
use crate::pipeline::still::enlarge;
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
    let output = output?;
    reporter.beat();
    let temporary = publish::temporary(order)?;
    let losses = output.write(&temporary)?;
    for loss in &losses {
        reporter.remark(&format!("lost: {loss}"));
    }
    let kind = output.kind;
    // The picture is read back into as much memory again.
    drop(output);
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
    Ok(Upscaled { path, width, height, device: pin.label(), losses })
}
