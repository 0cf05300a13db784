//! A still picture dropped into input/: the same engine, no clips, published the same way.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::engine::enlarge::Engine;
use crate::engine::tune;
use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::{fingerprint, publish, resume};
use crate::media::still::{self, Still};
use crate::model::progress::Phase;
use crate::pixel::resample::lanczos;
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
    let (pin, remarks) = tune::choose(settings, source.width, source.height, source.depth)?;
    for remark in remarks {
        reporter.log("info", &remark);
    }
    reporter.enter(Phase::Upscaling, "");
    let engine = Engine::open(&pin).context("opening the upscaling engine")?;
    let from = (source.width as usize, source.height as usize);
    let (width, height) = (source.width * settings.scale, source.height * settings.scale);
    let to = (width as usize, height as usize);
    let luma = engine.planes(&[&source.luma], from)?.remove(0);
    reporter.beat();
    let wide = |plane: &Vec<f32>| lanczos(plane, from, to);
    let output = Still {
        width,
        height,
        luma,
        cb: wide(&source.cb),
        cr: wide(&source.cr),
        alpha: source.alpha.as_ref().map(wide),
        ..source
    };
    reporter.beat();
    let temporary = publish::temporary(order)?;
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
    let extension = order.source.extension().map_or_else(|| output.kind.name().to_lowercase(), |e| escape(e.as_ref()));
    let key = &dir.marker().key;
    let path = publish::publish(order, dir, key, &temporary, &extension, &|_| resume::beat(reporter))?;
    Ok(Upscaled { path, width, height, device: pin.label(), losses })
}
