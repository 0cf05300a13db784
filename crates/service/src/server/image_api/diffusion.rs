//! A diffusion model's engines behind a port: pictures that wait for the same go in one call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::{Map, Value, json};

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::config::target::Target as Size;
use upscaled_core::fault::Fault;
use upscaled_core::types::engine::Precision;
use upscaled_engine::diffusion::field::Field;
use upscaled_engine::diffusion::upscaler::{DiffusionOptions, Setup, Upscaler};
use upscaled_engine::models::diffusion::DiffusionPart;
use upscaled_engine::models::registry;
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::pool::Died;
use upscaled_engine::runtime::provider::SessionTarget;
use upscaled_jobs::pipeline::still_diffusion;
use upscaled_media::image::still::Still;

use crate::server::image_api::request::UpscaleParams;

/// Most pictures in one call of the model: as many as share its tiles well, and no more than may
/// have to wait for each other.
pub(super) const TOGETHER: usize = 8;
/// How long a picture waits for company, in the moment in which an upload is decoded.
const LINGER: Duration = Duration::from_millis(30);

/// Which parts of each engine are in memory.
type Loaded = [(DiffusionPart, bool); 3];

/// Engines that take pictures from one queue.
pub(super) struct Diffusion {
    tasks: Sender<DiffusionTask>,
    /// Of each engine.
    loaded: Vec<Arc<Mutex<Loaded>>>,
    /// Held by each engine's thread.
    alive: Weak<()>,
    target: SessionTarget,
    label: String,
    model: String,
    settings: JobSettings,
}

/// A picture in the queue.
struct DiffusionTask {
    picture: Field,
    asked: DiffusionRequest,
}

/// What is asked for, and by whom.
struct DiffusionRequest {
    options: DiffusionOptions,
    /// Gone when nobody waits any more.
    asker: Weak<()>,
    answer: Sender<Result<Field>>,
}

impl DiffusionRequest {
    fn is_waited_for(&self) -> bool {
        self.asker.strong_count() > 0
    }
}

impl Diffusion {
    /// Opens `count` engines, with all parts in memory that the plan keeps there.
    pub(super) fn open(folder: &Path, settings: &JobSettings, run: &RunSettings, count: u32) -> Result<Diffusion> {
        let threads = (choice::threads(settings) / count).max(1);
        let setup = Setup { threads, ..still_diffusion::setup(settings, run) };
        let (tasks, queue) = unbounded();
        let (mut loaded, mut about) = (Vec::new(), None);
        let alive = Arc::new(());
        for n in 0..count {
            let mut model = Upscaler::open(folder, &setup)?;
            model.load()?;
            model.take_words().iter().for_each(|words| tracing::info!("{words}"));
            let precision = if model.folder().precision == "f16" { Precision::F16 } else { Precision::F32 };
            about.get_or_insert((SessionTarget { precision, ..model.target() }, model.label()));
            let state = Arc::new(Mutex::new(model.loaded()));
            loaded.push(state.clone());
            let queue = queue.clone();
            let thread = std::thread::Builder::new().name(format!("diffusion-{n}"));
            let held = alive.clone();
            let run = move || {
                serve(&mut model, &queue, &state);
                drop(held);
            };
            thread.spawn(run).context("starting an engine's thread")?;
        }
        let (target, label) = about.ok_or_else(|| Fault::Internal.because("a worker without engines"))?;
        let model = registry::title(&settings.model);
        Ok(Diffusion { tasks, loaded, alive: Arc::downgrade(&alive), target, label, model, settings: settings.clone() })
    }

    /// Engines that are left.
    pub(super) fn count(&self) -> usize {
        self.alive.strong_count()
    }

    /// Engines whose thread has died.
    pub(super) fn lost(&self) -> usize {
        self.loaded.len() - self.count()
    }

    pub(super) fn model(&self) -> String {
        self.model.clone()
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn target(&self) -> SessionTarget {
        self.target
    }

    pub(super) fn words(&self) -> String {
        format!("diffusion model {} on {}, {} engines", self.model, self.label, self.count())
    }

    /// Which parts are in memory, one entry an engine.
    pub(super) fn parts(&self) -> Value {
        let word = |here| if here { "in memory" } else { "loaded when needed" };
        let entry = |loaded: &Arc<Mutex<Loaded>>| {
            let loaded = *loaded.lock().unwrap_or_else(PoisonError::into_inner);
            Value::Object(loaded.iter().map(|(part, here)| (part.name().to_owned(), word(*here).into())).collect())
        };
        self.loaded.iter().map(entry).collect()
    }

    /// What is made of a picture of a size.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where it becomes too large.
    pub(super) fn options(&self, size: (u32, u32), wish: UpscaleParams) -> Result<DiffusionOptions> {
        let to = Size::Scale(wish.scale).size(size, false, (1, 1))?;
        still_diffusion::check(&self.model, size, to)?;
        let options = still_diffusion::options(&self.settings, wish.scale as usize);
        Ok(DiffusionOptions { process: wish.process_size as usize, ..options })
    }

    /// Enlarges a picture, together with others that wait for the same.
    pub(super) fn enlarge(&self, options: &DiffusionOptions, picture: Still, asker: &Weak<()>) -> Result<Still> {
        let scale = options.scale as u32;
        let to = (picture.width * scale, picture.height * scale);
        let (answer, made) = bounded(1);
        let field = still_diffusion::field(&picture)?;
        let gone = || Died("the diffusion model's thread has died");
        let asked = DiffusionRequest { options: *options, asker: asker.clone(), answer };
        self.tasks.send(DiffusionTask { picture: field, asked }).map_err(|_| gone())?;
        let made = made.recv().map_err(|_| gone())??;
        Ok(still_diffusion::of_field(&picture, &made, to))
    }
}

/// `models_loaded` of `/health`, with the names that clients of the original know.
pub(super) fn state(open: bool) -> Map<String, Value> {
    let names = ["transformer", "vae", "timesteps", "prompt_embeds", "pooled_prompt_embeds"];
    names.into_iter().map(|name| (name.to_owned(), json!(open))).collect()
}

/// Works on what the queue holds until nobody can put anything into it.
fn serve(model: &mut Upscaler, queue: &Receiver<DiffusionTask>, loaded: &Mutex<Loaded>) {
    let mut next: Option<DiffusionTask> = None;
    while let Some(first) = next.take().or_else(|| queue.recv().ok()) {
        let options = first.asked.options;
        let (mut pictures, mut asked) = (vec![first.picture], vec![first.asked]);
        while asked.len() < TOGETHER {
            match queue.recv_timeout(LINGER) {
                Ok(task) if task.asked.options == options => {
                    pictures.push(task.picture);
                    asked.push(task.asked);
                }
                other => {
                    next = other.ok();
                    break;
                }
            }
        }
        answer(model, &pictures, &asked);
        model.take_words().iter().for_each(|words| tracing::warn!("{words}"));
        *loaded.lock().unwrap_or_else(PoisonError::into_inner) = model.loaded();
    }
}

/// Answers all that ask for the same options. What fails for all is tried for each, so that only
/// those fail that must.
fn answer(model: &mut Upscaler, pictures: &[Field], asked: &[DiffusionRequest]) {
    match together(model, pictures, asked) {
        Ok(made) => asked.iter().zip(made).for_each(|(asked, made)| drop(asked.answer.send(Ok(made)))),
        Err(_) if asked.len() > 1 => {
            pictures.chunks(1).zip(asked.chunks(1)).for_each(|(picture, asked)| answer(model, picture, asked));
        }
        Err(error) => drop(asked[0].answer.send(Err(error))),
    }
}

/// One call for all pictures, given up when nobody waits for any of them.
fn together(model: &mut Upscaler, pictures: &[Field], asked: &[DiffusionRequest]) -> Result<Vec<Field>> {
    let check = || match asked.iter().any(DiffusionRequest::is_waited_for) {
        true => Ok(()),
        false => Err(Fault::Stopped.because("nobody waits for this picture any more")),
    };
    check()?;
    let options = asked[0].options;
    catch_unwind(AssertUnwindSafe(|| model.upscale(pictures, &options, &mut |_| check()))).unwrap_or_else(|_| {
        // Whatever state the parts are in, they are opened anew.
        model.unload();
        Err(Fault::Internal.because("a defect of the program ended the work on a picture; the log has it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::test_util::runtime_is_here;
    use upscaled_media::image::still::StillKind;

    fn picture(width: u32, height: u32, level: f32) -> Still {
        let count = width as usize * height as usize;
        let luma = (0..count).map(|n| level * (n % 7) as f32 / 7.0).collect();
        let (cb, cr) = (vec![0.5; count], vec![0.5; count]);
        let (kind, alpha, gray, icc, exif) = (StillKind::Png, None, false, None, None);
        Still { kind, width, height, luma, cb, cr, alpha, depth: 8, gray, icc, exif }
    }

    #[test]
    fn those_that_fail_do_not_take_others_with_them() {
        if !runtime_is_here() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model");
        let settings = JobSettings { device: "cpu".into(), ..JobSettings::default() };
        let model = Diffusion::open(&folder, &settings, &RunSettings::default(), 1).unwrap();
        let wish = UpscaleParams { scale: 2, process_size: 64 };
        let options = model.options((20, 30), wish).unwrap();
        let here = Arc::new(());
        let enlarge = |level: f32, asker: &Weak<()>| {
            let made = model.enlarge(&options, picture(20, 30, level), asker);
            made.map(|made| made.luma).map_err(|error| Fault::of(&error))
        };
        let alone = enlarge(0.9, &Arc::downgrade(&here)).unwrap();
        assert_eq!(alone.len(), 40 * 60);
        let gone = Arc::downgrade(&Arc::new(()));
        std::thread::scope(|scope| {
            let (enlarge, here) = (&enlarge, Arc::downgrade(&here));
            let ask = |level: f32, asker: &Weak<()>| {
                let asker = asker.clone();
                scope.spawn(move || enlarge(level, &asker))
            };
            let threads = [ask(0.9, &here), ask(f32::NAN, &here), ask(0.9, &gone), ask(0.9, &here)];
            let [first, bad, left, last] = threads.map(|thread| thread.join().unwrap());
            assert!(first == Ok(alone.clone()) && last == Ok(alone.clone()));
            assert_eq!(bad, Err(Fault::Internal));
            assert!(left == Err(Fault::Stopped) || left == Ok(alone.clone()), "together with others it may be made");
        });
        assert_eq!(enlarge(0.9, &gone), Err(Fault::Stopped));
        let error = model.options((16_000, 16_000), UpscaleParams { scale: 4, ..wish }).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported);
    }
}
