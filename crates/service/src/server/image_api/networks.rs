//! A network's engines behind a port: one shape of tiles for pictures of every size, and one
//! for the size that most have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::config::target::Target;
use upscaled_core::counted::Counted;
use upscaled_core::types::engine::EngineSpec;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::registry;
use upscaled_engine::planning::choice;
use upscaled_engine::planning::tiling::Cut;
use upscaled_engine::runtime::cascade;
use upscaled_engine::runtime::pool::Died;
use upscaled_engine::runtime::tiled::Engine;
use upscaled_jobs::job::frame_memory;
use upscaled_jobs::pipeline::still;
use upscaled_media::image::still::{Pixels, Still};

use crate::server::image_api::fitted::SizeSpecializedPool;

/// Tiles for pictures of every size are squares, of which little reaches beyond a picture: on the
/// processor this much a side, ..
const SIDE: u32 = 128;
/// .. and so many times what the network sees around a pixel, up to the largest; ..
const SIDE_HALOS: u32 = 16;
const SIDE_MAX: u32 = 640;
/// .. and on a graphics device, which takes several in a call.
const DEVICE_SIDE: u32 = 256;
const DEVICE_BATCH: u32 = 8;
/// What the sessions of one engine may take, bytes.
pub(super) const SESSIONS_BYTES: u64 = 4 << 30;

/// A network's engines.
pub(super) struct Networks {
    every: Arc<Stations>,
    /// For pictures of 16 bits, where those ask for another precision than those of 8.
    deep: Option<Arc<Stations>>,
    fitted: SizeSpecializedPool,
}

impl Networks {
    /// Opens `count` engines of the settings' model, which share the threads out among them.
    pub(super) fn open(settings: &JobSettings, count: u32) -> Result<Networks> {
        let threads = (choice::threads(settings) / count).max(1);
        let settings = JobSettings { threads, ..settings.clone() };
        let (first, notes) = choice::choose(&settings, SIDE, SIDE, 8)?;
        let side = (SIDE_HALOS * first.halo).next_multiple_of(SIDE).clamp(SIDE, SIDE_MAX);
        let side = if first.provider.is_gpu() { DEVICE_SIDE } else { side };
        // Each choice opens and runs the network.
        let (pin, notes) = if side == SIDE { (first, notes) } else { choice::choose(&settings, side, side, 8)? };
        let (deep, _) = choice::choose(&settings, side, side, 16)?;
        // The last one tells the cut, which is settled below.
        notes.split_last().into_iter().flat_map(|(_, others)| others).for_each(|note| tracing::info!("{note}"));
        let model = ModelFile::open_pinned(&pin)?;
        let open = |pin: &EngineSpec, count| {
            let pin = spread(&model, choice::batched(&model, pin, DEVICE_BATCH)?, SESSIONS_BYTES)?;
            Stations::open(&pin, count).map(Arc::new)
        };
        let deep = if same_numbers(&pin, &deep) { None } else { Some(open(&deep, 1)?) };
        let every = open(&pin, count)?;
        Ok(Networks { every, deep, fitted: SizeSpecializedPool::new(settings, model.facts, count) })
    }

    /// The pin of the engines, as for pictures of 8 bits.
    pub(super) fn pin(&self) -> &EngineSpec {
        self.every.pin()
    }

    /// Engines that are left.
    pub(super) fn count(&self) -> usize {
        self.every.alive().count()
    }

    /// Engines whose threads have all died.
    pub(super) fn lost(&self) -> usize {
        self.every.stations.len() - self.count()
    }

    /// Returns whether pictures of some kind find no engine any more.
    pub(super) fn is_over(&self) -> bool {
        [Some(&self.every), self.deep.as_ref()].into_iter().flatten().any(|stations| !stations.is_alive())
    }

    /// The model's name for people.
    pub(super) fn model(&self) -> String {
        registry::title(&self.pin().model)
    }

    /// One line for the log.
    pub(super) fn words(&self) -> String {
        let deep = self.deep.as_ref().map(|s| format!(", {} for 16 bits", s.pin().label())).unwrap_or_default();
        let (label, cut) = (self.pin().label(), Cut::of(self.pin()).words());
        format!("model {} on {label}{deep}, {cut}, {} engines", self.model(), self.count())
    }

    /// The pin for a picture of a size, `scale` times as large.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where that is too large, or not to be reached with the model.
    pub(super) fn pin_for(&self, size: (u32, u32), depth: u8, scale: u32) -> Result<EngineSpec> {
        let mut pin = self.stations(depth).pin().clone();
        let target = Target::Scale(scale).size(size, false, (1, 1))?;
        cascade::reach(&mut pin, size, target)?;
        Ok(pin)
    }

    /// Bytes of memory that a picture needs with a pin of [`Networks::pin_for`].
    pub(super) fn need(pin: &EngineSpec, size: (u32, u32), scale: u32) -> u64 {
        let output = (size.0.saturating_mul(scale), size.1.saturating_mul(scale));
        frame_memory::of_still(pin, size, output)
    }

    /// Enlarges a picture, in the engine that has least to do. Several threads may ask: the
    /// tiles of all their pictures stand in the same queues.
    pub(super) fn enlarge(&self, pin: &EngineSpec, picture: Still) -> Result<Pixels> {
        let stations = self.stations(picture.depth);
        let size = (picture.width, picture.height);
        let is_every = Arc::ptr_eq(stations, &self.every);
        let fitted = if is_every { self.fitted.stations(size, stations) } else { None };
        fitted.as_ref().unwrap_or(stations).enlarge(pin, picture)
    }

    fn stations(&self, depth: u8) -> &Arc<Stations> {
        self.deep.as_ref().filter(|_| depth > 8).unwrap_or(&self.every)
    }
}

/// Engines of one pin.
pub(super) struct Stations {
    pin: EngineSpec,
    stations: Vec<Station>,
}

/// An engine, and how many pictures are in it.
struct Station {
    engine: Engine,
    busy: AtomicUsize,
}

impl Stations {
    /// Opens `count` engines.
    pub(super) fn open(pin: &EngineSpec, count: u32) -> Result<Stations> {
        let open = |_| Ok(Station { engine: Engine::open_lasting(pin)?, busy: AtomicUsize::new(0) });
        Ok(Stations { pin: pin.clone(), stations: (0..count.max(1)).map(open).collect::<Result<_>>()? })
    }

    pub(super) fn pin(&self) -> &EngineSpec {
        &self.pin
    }

    /// An engine that is there for sure.
    pub(super) fn first(&self) -> &Engine {
        &self.stations[0].engine
    }

    fn alive(&self) -> impl Iterator<Item = &Station> {
        self.stations.iter().filter(|station| station.engine.is_alive())
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive().next().is_some()
    }

    fn enlarge(&self, pin: &EngineSpec, picture: Still) -> Result<Pixels> {
        // One that opens its threads again takes pictures only where no other does.
        let load = |station: &&Station| (!station.engine.is_open(), station.busy.load(Ordering::SeqCst));
        let station = self.alive().min_by_key(load).ok_or(Died("all engines have died"))?;
        let _visit = Counted::one(&station.busy);
        let enlarged = still::enlarge(&station.engine, pin, picture, &|| {});
        // The ladder has told it to the log; nobody else is to be told.
        drop(station.engine.take_words());
        enlarged
    }
}

/// A session a thread, as far as `room` in bytes goes: several pictures keep more of them at work
/// than the bands of one would.
pub(super) fn spread(model: &ModelFile, pin: EngineSpec, room: u64) -> Result<EngineSpec> {
    let spread = EngineSpec { sessions: pin.sessions * pin.threads, threads: 1, ..pin.clone() };
    Ok(if pin.provider.is_gpu() || bytes(model, &spread)? > room { pin } else { spread })
}

/// Estimated bytes of a pin's sessions.
pub(super) fn bytes(model: &ModelFile, pin: &EngineSpec) -> Result<u64> {
    Ok(choice::session_bytes(model, pin)?.saturating_mul(u64::from(pin.sessions)))
}

fn same_numbers(a: &EngineSpec, b: &EngineSpec) -> bool {
    (a.provider, a.device, a.precision) == (b.provider, b.device, b.precision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::fault::Fault;
    use upscaled_engine::test_util::runtime_is_here;
    use upscaled_media::image::still::{Opened, StillKind};

    fn picture(width: u32, height: u32, depth: u8) -> Still {
        let plane = |of: usize| -> Vec<f32> {
            (0..width as usize * height as usize)
                .map(|i| 0.2 + 0.6 * (((i % width as usize) * (of + 3) + i / width as usize * 5) % 97) as f32 / 97.0)
                .collect()
        };
        let (luma, cb, cr) = (plane(0), plane(1), plane(2));
        let (kind, alpha, gray, icc, exif) = (StillKind::Png, Some(plane(3)), false, None, None);
        Still { kind, width, height, luma, cb, cr, alpha, depth, gray, icc, exif }
    }

    #[test]
    fn sizes_and_depths_share_the_tiles() {
        if !runtime_is_here() {
            return;
        }
        let settings = JobSettings { autotune: false, threads: 2, ..Default::default() };
        let engines = Networks::open(&settings, 2).unwrap();
        assert_eq!((engines.count(), engines.model().as_str()), (2, "fast"));
        let enlarge = |width, height, depth, scale| {
            let source = picture(width, height, depth);
            let pin = engines.pin_for((width, height), depth, scale).unwrap();
            let made = engines.enlarge(&pin, source).unwrap();
            assert_eq!((made.about().width, made.about().height), (width * scale, height * scale));
            made.encode().unwrap().0
        };
        let alone = [(1, 1, 8, 2), (70, 45, 8, 4), (333, 130, 16, 2)].map(|(w, h, d, s)| enlarge(w, h, d, s));
        let together: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let enlarge = &enlarge;
            let threads = [(1, 1, 8, 2), (70, 45, 8, 4), (333, 130, 16, 2)]
                .map(|(w, h, d, s)| scope.spawn(move || enlarge(w, h, d, s)));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert!(alone.iter().zip(&together).all(|(a, b)| a == b), "neighbours change a picture");
        assert_eq!(Opened::new(&alone[2], "deep").unwrap().depth(), 16);
        let error = engines.pin_for((16_000, 8_000), 8, 4).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported, "{error:#}");
        // A size that keeps coming gets tiles of its own, which make the same pixels.
        let before = enlarge(150, 70, 8, 2);
        let start = std::time::Instant::now();
        while engines.fitted.size().is_none() && start.elapsed().as_secs() < 60 {
            enlarge(150, 70, 8, 2);
        }
        assert_eq!(engines.fitted.size(), Some((150, 70)));
        assert!(enlarge(150, 70, 8, 2) == before);
    }

    #[test]
    fn an_engine_whose_threads_have_died_gets_no_pictures() {
        if !runtime_is_here() {
            return;
        }
        let settings = JobSettings { autotune: false, threads: 2, ..Default::default() };
        let engines = Networks::open(&settings, 2).unwrap();
        let pin = engines.pin_for((40, 30), 8, 2).unwrap();
        let enlarge = || engines.enlarge(&pin, picture(40, 30, 8)).map(|made| made.encode().unwrap().0);
        let good = enlarge().unwrap();
        let kill = |station: &Station| {
            while station.engine.is_alive() {
                let _ = station.engine.pool().submit(Box::new(|_| panic!("planned")));
                std::thread::yield_now();
            }
        };
        // One death costs the pictures of that thread alone
        let [first, second] = [0, 1].map(|n| &engines.every.stations[n]);
        first.engine.pool().submit(Box::new(|_| panic!("planned"))).unwrap();
        assert!((0..4).all(|_| enlarge().unwrap() == good));
        assert_eq!((engines.count(), engines.lost(), engines.is_over()), (2, 0, false));
        kill(first);
        assert!((0..4).all(|_| enlarge().unwrap() == good), "the dead engine, which has least to do, gets pictures");
        assert_eq!((engines.count(), engines.lost(), engines.is_over()), (1, 1, false));
        kill(second);
        assert!(Died::is_cause_of(&enlarge().err().unwrap()));
        assert_eq!((engines.count(), engines.lost(), engines.is_over()), (0, 2, true));
    }
}
