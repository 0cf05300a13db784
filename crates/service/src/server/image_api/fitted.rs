//! Tiles cut for the size that most pictures come in: frames of a film all have the same.
//!
//! Tiles of one shape serve pictures of every size, but compute more than there is: beyond the
//! edges, and halos of tiles smaller than need be. Where one size keeps coming, engines with
//! tiles cut for it are opened beside the others, and take its pictures from then on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, ensure};

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::{caught, one_line};
use upscaled_core::types::engine::EngineSpec;
use upscaled_engine::models::facts::ModelFacts;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::planning::tiling::Cut;
use upscaled_engine::planning::{choice, test_picture};

use crate::server::image_api::networks::{SESSIONS_BYTES, Stations, bytes, spread};

/// Engines are opened when they would have saved the work of so many pictures.
const WORTH: f64 = 8.0;
/// What others would have saved counts so much less after each picture of the size that has its engines.
const FADING: f64 = 0.98;
/// Sizes that are counted at a time; and ones that are given up, of which no more is heard.
const SIZES: usize = 16;

type Size = (u32, u32);

/// What is known of a size that pictures came in.
struct SizeUsage {
    size: Size,
    /// What its own tiles would have saved, in its pictures.
    saved: f64,
    given_up: bool,
}

#[derive(Default)]
struct FittedState {
    /// The last one asked for comes last.
    asked: Vec<SizeUsage>,
    opening: bool,
    fitted: Option<(Size, Arc<Stations>)>,
}

/// The engines whose tiles are cut for one size.
pub(super) struct SizeSpecializedPool {
    settings: JobSettings,
    facts: ModelFacts,
    count: u32,
    state: Arc<Mutex<FittedState>>,
}

impl SizeSpecializedPool {
    /// `settings` and `count`: of the engines that serve every size.
    pub(super) fn new(settings: JobSettings, facts: ModelFacts, count: u32) -> SizeSpecializedPool {
        SizeSpecializedPool { settings, facts, count, state: Arc::default() }
    }

    /// The engines for pictures of a size, if there are any. Each call counts as a picture, which
    /// `every` has else to do.
    pub(super) fn stations(&self, size: Size, every: &Arc<Stations>) -> Option<Arc<Stations>> {
        let mut state = lock(&self.state);
        if state.fitted.as_ref().is_some_and(|(_, stations)| !stations.is_alive()) {
            // Those that serve every size are left, and will do.
            let over = state.fitted.take().map(|(size, _)| size);
            state.asked.retain(|asked| Some(asked.size) != over);
            state.asked.extend(over.map(|size| SizeUsage { size, saved: 0.0, given_up: true }));
        }
        if let Some((_, stations)) = state.fitted.as_ref().filter(|(fitted, _)| *fitted == size) {
            let stations = stations.clone();
            // A rare size is not to drive out the common one.
            state.asked.iter_mut().for_each(|asked| asked.saved *= FADING);
            return Some(stations);
        }
        let fitting = choice::cut_for(every.pin(), &self.settings, &self.facts, size)?;
        let saved = saving(every.pin(), &fitting, size);
        if state.count(size, saved) && !state.opening {
            state.opening = true;
            // Their memory is wanted.
            state.fitted = None;
            drop(state);
            self.open(size, fitting, every.clone());
        }
        None
    }

    /// The size whose engines are open.
    #[cfg(test)]
    pub(super) fn size(&self) -> Option<Size> {
        lock(&self.state).fitted.as_ref().map(|(size, _)| *size)
    }

    /// Opens engines of `pin` in a thread of their own; pictures do not wait for them.
    fn open(&self, size: Size, pin: EngineSpec, every: Arc<Stations>) {
        let (state, count) = (self.state.clone(), self.count);
        let body = move || {
            let opened = caught("opening engines", || open(size, &pin, &every, count));
            let mut state = lock(&state);
            state.opening = false;
            match opened {
                Ok(stations) => {
                    let (width, height) = size;
                    let cut = Cut::of(stations.pin()).words();
                    tracing::info!("pictures of {width}x{height} have tiles of their own: {cut}");
                    state.fitted = Some((size, Arc::new(stations)));
                    // Another size is to save as much again before it takes their place.
                    state.asked.retain(|asked| asked.given_up);
                }
                Err(error) => {
                    tracing::debug!("no tiles of their own for {size:?}: {}", one_line(&error));
                    state.asked.iter_mut().filter(|asked| asked.size == size).for_each(|asked| asked.given_up = true);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("fitted".into()).spawn(body) {
            tracing::debug!("no thread for opening engines: {error}");
            lock(&self.state).opening = false;
        }
    }
}

impl FittedState {
    /// Counts a picture; whether tiles for its size are worth opening.
    fn count(&mut self, size: Size, saved: f64) -> bool {
        let known = self.asked.iter().position(|asked| asked.size == size);
        let mut asked = match known {
            Some(at) => self.asked.remove(at),
            None => SizeUsage { size, saved: 0.0, given_up: false },
        };
        asked.saved += saved;
        let worth = asked.saved >= WORTH && !asked.given_up;
        if self.asked.len() >= SIZES {
            self.asked.remove(0);
        }
        self.asked.push(asked);
        worth
    }
}

/// The share of a picture's work that `fitting` does not have to do.
fn saving(every: &EngineSpec, fitting: &EngineSpec, size: Size) -> f64 {
    // Other pictures' tiles fill the rest of a call.
    let work = |pin: &EngineSpec| Cut { batch: 1, ..Cut::of(pin) }.pixels(size, pin.halo);
    (1.0 - work(fitting) / work(every)).max(0.0)
}

/// Engines that make the same pixels as those that serve every size, which is tried.
fn open(size: Size, pin: &EngineSpec, every: &Stations, count: u32) -> Result<Stations> {
    let model = ModelFile::open_pinned(pin)?;
    let room = SESSIONS_BYTES.saturating_sub(bytes(&model, every.pin())?);
    let pin = spread(&model, choice::fit(&model, pin)?, room)?;
    ensure!(pin.provider.is_gpu() || bytes(&model, &pin)? <= room, "their sessions take too much memory");
    let stations = Stations::open(&pin, count)?;
    // Borders between tiles and the picture's edges are what could differ.
    let part = |size: u32, tile: u32| size.min(2 * tile) as usize;
    let (width, height) = (part(size.0, pin.tile_width), part(size.1, pin.tile_height));
    let planes: Vec<Vec<f32>> =
        (1..=pin.channels).map(|channel| test_picture::plane(width, height, channel, 0)).collect();
    let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
    let made =
        |stations: &Stations| Ok::<_, anyhow::Error>(stations.first().still(&planes, (width, height), 1)?.floats());
    ensure!(made(&stations)? == made(every)?, "other pixels than with the tiles for every size");
    Ok(stations)
}

fn lock(state: &Mutex<FittedState>) -> MutexGuard<'_, FittedState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_keeps_coming_is_worth_it() {
        let mut state = FittedState::default();
        assert!(!(0..15).any(|_| state.count((512, 512), 0.5)));
        // Others between, as many as are counted, do not make it forgotten.
        assert!(!(0..SIZES as u32 - 1).any(|n| state.count((n, n), 0.5)));
        assert!(state.count((512, 512), 0.5));
        assert!(!(0..100).any(|_| state.count((640, 480), 0.0)));
        // One more size than are counted: the one that came longest ago is forgotten.
        assert!(!(0..SIZES as u32).any(|n| state.count((n, 1), 0.1)));
        assert!(!state.count((512, 512), 0.5));
        state.asked.iter_mut().for_each(|asked| asked.given_up = true);
        assert!(!state.count((512, 512), 100.0));
        assert_eq!(state.asked.len(), SIZES);
    }
}
