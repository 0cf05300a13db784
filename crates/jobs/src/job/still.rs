//! A still picture dropped into input/, or all pages of a TIFF: the same engine, no clips, published the same way.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::config::target::Target;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::engine::EngineSpec;
use upscaled_core::types::progress::Phase;
use upscaled_engine::diffusion::upscaler::Upscaler;
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::cascade;
use upscaled_engine::runtime::tiled::Engine;
use upscaled_media::image::still::{self, Pixels, Still, TiffPages};

use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::{fingerprint, frame_memory, publish, resume};
use crate::pipeline::still::enlarge;
use crate::pipeline::still_diffusion;
use crate::state::job_dir::JobDir;

/// What became of a picture.
pub struct UpscaledStill {
    pub path: PathBuf,
    pub width: u32,
    pub height: u32,
    /// Pages; one but for some TIFF files.
    pub pages: usize,
    pub device: String,
    pub losses: Vec<String>,
}

impl UpscaledStill {
    /// Returns what was checked, in words.
    pub fn verified(&self) -> String {
        let (width, height) = (self.width, self.height);
        match self.pages {
            1 => format!("read back as {width}x{height}"),
            pages => format!("{pages} pages read back, the first as {width}x{height}"),
        }
    }
}

/// Upscales and publishes a picture. Work that is interrupted begins anew: it is short.
pub fn run(order: &JobOrder, dir: &JobDir, reporter: &Reporter, shutdown: &Shutdown) -> Result<UpscaledStill> {
    let print = fingerprint::take(&order.source)?;
    let contents = still::contents(&order.source)?;
    let target = Target::of(&order.settings);
    let size = |from: &(u32, u32)| target.size(*from, false, (1, 1));
    let sizes: Vec<(u32, u32)> = contents.pages.iter().map(size).collect::<Result<_>>()?;
    let mut made = StillProgress { losses: Vec::new(), kind: None };
    contents.losses.iter().for_each(|loss| made.lost(loss, reporter));
    // Engines are built here and below: a phase with time for it.
    reporter.enter(Phase::Planning, "");
    let mut maker = Maker { order, reporter, engine: None, model: None, device: String::new() };
    let temporary = publish::temporary(order)?;
    let written = write(&mut maker, &sizes, &temporary, &mut made, shutdown);
    written.inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
    let device = std::mem::take(&mut maker.device);
    // Its memory is of use to what reads the file back.
    drop(maker);
    reporter.enter(Phase::Verifying, "");
    check(order, &sizes, &temporary, reporter, shutdown)?;
    fingerprint::check(&order.source, &print)?;
    reporter.enter(Phase::Publishing, "");
    let kind = made.kind.unwrap_or_default();
    let extension = order.source.extension().map_or_else(|| kind.to_owned(), |e| escape(e.as_ref()));
    let key = &dir.marker().key;
    let path = publish::publish(order, dir, key, &temporary, &extension, &|_| resume::beat(reporter))?;
    let (width, height) = sizes.first().copied().unwrap_or_default();
    Ok(UpscaledStill { path, width, height, pages: sizes.len(), device, losses: made.losses })
}

/// What is known of a file on its way.
struct StillProgress {
    losses: Vec<String>,
    /// The name of its kind.
    kind: Option<&'static str>,
}

impl StillProgress {
    fn lost(&mut self, loss: &str, reporter: &Reporter) {
        if !self.losses.iter().any(|known| known == loss) {
            self.losses.push(loss.to_owned());
            reporter.remark(&format!("lost: {loss}"));
        }
    }
}

/// Makes the pictures and writes the file, page after page: only one of them is in memory.
fn write(
    maker: &mut Maker<'_>,
    sizes: &[(u32, u32)],
    temporary: &Path,
    made: &mut StillProgress,
    shutdown: &Shutdown,
) -> Result<()> {
    let (source, reporter) = (&maker.order.source, maker.reporter);
    if let [size] = sizes {
        let output = maker.make(still::read(source)?, *size)?;
        reporter.beat();
        made.kind = Some(output.about().kind.name());
        // Held no longer: the picture is read back into as much memory again.
        let losses = output.write(temporary)?;
        losses.iter().for_each(|loss| made.lost(loss, reporter));
        return Ok(());
    }
    let pixels = sizes.iter().map(|(width, height)| u64::from(*width) * u64::from(*height)).sum();
    let mut file = TiffPages::create(temporary, sizes.len(), pixels)?;
    for (page, size) in sizes.iter().enumerate() {
        shutdown.check()?;
        reporter.log("info", &format!("page {} of {}", page + 1, sizes.len()));
        let output = maker.make(still::read_page(source, page)?, *size)?;
        reporter.beat();
        made.kind = Some(output.about().kind.name());
        let losses = file.add(output)?;
        losses.iter().for_each(|loss| made.lost(loss, reporter));
    }
    file.finish()
}

/// Reads every page back.
fn check(
    order: &JobOrder,
    sizes: &[(u32, u32)],
    temporary: &Path,
    reporter: &Reporter,
    shutdown: &Shutdown,
) -> Result<()> {
    let wrong = |what: String| Err(Fault::Mismatch.because(format!("{} came out {what}", order.name())));
    // A lone picture is read once: that tells its size too.
    if sizes.len() > 1 {
        let pages = still::contents(temporary).context("reading the finished picture back")?.pages.len();
        if pages != sizes.len() {
            return wrong(format!("with {pages} of {} pages", sizes.len()));
        }
    }
    for (page, (width, height)) in sizes.iter().enumerate() {
        shutdown.check()?;
        let back = still::read_page(temporary, page).context("reading the finished picture back")?;
        if (back.width, back.height) != (*width, *height) {
            return wrong(format!("as {}x{}", back.width, back.height));
        }
        reporter.beat();
    }
    Ok(())
}

/// Makes pictures larger, with what was opened for the one before where that fits.
struct Maker<'a> {
    order: &'a JobOrder,
    reporter: &'a Reporter<'a>,
    engine: Option<(EngineSpec, Engine)>,
    model: Option<Upscaler>,
    /// The device that made the last picture.
    device: String,
}

impl Maker<'_> {
    fn make(&mut self, source: Still, size: (u32, u32)) -> Result<Pixels> {
        match still_diffusion::folder(&self.order.settings.model) {
            Some(folder) => self.diffused(&folder, source, size),
            None => self.enlarged(source, size),
        }
    }

    /// The picture in its new size by a network.
    fn enlarged(&mut self, source: Still, (width, height): (u32, u32)) -> Result<Pixels> {
        let (settings, reporter) = (&self.order.settings, self.reporter);
        let (chosen, remarks) = choice::choose(settings, source.width, source.height, source.depth)?;
        let mut pin = chosen.clone();
        cascade::reach(&mut pin, (source.width, source.height), (width, height))?;
        let need = frame_memory::of_still(&pin, (source.width, source.height), (width, height));
        frame_memory::check(need, (width, height))?;
        let held = self.engine.take().filter(|(held, _)| *held == chosen);
        let (_, engine) = match held {
            Some(held) => self.engine.insert(held),
            None => {
                for remark in remarks {
                    reporter.log("info", &remark);
                }
                reporter.enter(Phase::Planning, "");
                let engine = Engine::open(&pin).context("opening the upscaling engine")?;
                self.engine.insert((chosen, engine))
            }
        };
        reporter.enter(Phase::Upscaling, "");
        let output = enlarge(engine, &pin, source, &|| reporter.beat());
        if let Some(words) = engine.take_words() {
            reporter.remark(&words);
        }
        self.device = pin.label();
        output
    }

    /// The same by a diffusion model.
    fn diffused(&mut self, folder: &Path, source: Still, size: (u32, u32)) -> Result<Pixels> {
        let (settings, reporter) = (&self.order.settings, self.reporter);
        still_diffusion::check(&settings.model, (source.width, source.height), size)?;
        frame_memory::check(still_diffusion::bytes((source.width, source.height), size), size)?;
        let model = match &mut self.model {
            Some(model) => model,
            None => {
                let model = Upscaler::open(folder, &still_diffusion::setup(settings, &self.order.run))?;
                self.model.insert(model)
            }
        };
        reporter.enter(Phase::Upscaling, "");
        let output = still_diffusion::enlarge(model, settings, source, size, &mut |_| {
            reporter.beat();
            Ok(())
        });
        model.take_words().iter().for_each(|words| reporter.remark(words));
        self.device = model.label();
        output?.pixels()
    }
}
