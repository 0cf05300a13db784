//! A network held open at one shape, with its input and output memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::Tensor;

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::types::engine::Provider;

use crate::models::model_file::ShapedNetwork;
use crate::pixels::stitch::OutputLayout;
use crate::runtime::provider::{self, SessionTarget};

/// A session may be opened for so long: TensorRT builds an engine meanwhile.
pub const OPENING_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Calls of networks that have ended, in this process.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Sessions being opened, and since when one of them has been.
static OPENING: Mutex<(u32, Option<Instant>)> = Mutex::new((0, None));

/// Calls of networks that have ended, in this process: it grows while any network works, however
/// long a frame takes.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Whether a session is being opened in this process, and for less than [`OPENING_LIMIT`].
pub fn is_opening() -> bool {
    let (count, since) = *OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    count > 0 && since.is_some_and(|since| since.elapsed() < OPENING_LIMIT)
}

/// A call of a network has ended.
pub(crate) fn count() {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

/// Held while a session is opened.
pub(crate) struct Opening;

impl Opening {
    pub(crate) fn begin() -> Opening {
        let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        *opening = (opening.0 + 1, opening.1.filter(|_| opening.0 > 0).or_else(|| Some(Instant::now())));
        Opening
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        // One has ended: those that go on have their time from now.
        *opening = (opening.0.saturating_sub(1), Some(Instant::now()));
    }
}

/// A session of fixed shape; batches of tiles go through it one after the other.
pub struct Net {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
    provider: Provider,
    input: Tensor<f32>,
    input_dims: [usize; 4],
    output_dims: [usize; 4],
    pub layout: OutputLayout,
    pub residual: bool,
}

impl Net {
    pub fn open(network: &ShapedNetwork, target: SessionTarget) -> Result<Net> {
        let opening = Opening::begin();
        let session = provider::open(network, target)?;
        drop(opening);
        Net::over(session, network, target)
    }

    /// A session of the network, however it was opened.
    pub fn over(session: Session, network: &ShapedNetwork, target: SessionTarget) -> Result<Net> {
        let told = |error: ort::Error| provider::failure(target.provider, &error);
        let input = memory(&session, target, network.input_dims, MemoryType::CPUInput).map_err(told)?;
        let output = memory(&session, target, network.output_dims, MemoryType::CPUOutput).map_err(told)?;
        // Every run writes to the same memory.
        let outputs = OutputSelector::no_default().with(&network.output).preallocate(&network.output, output);
        let options = RunOptions::new().map_err(told)?.with_outputs(outputs);
        Ok(Net {
            session,
            options,
            provider: target.provider,
            input,
            input_dims: network.input_dims,
            output_dims: network.output_dims,
            layout: network.layout,
            residual: network.residual,
        })
    }

    /// Tiles in a call.
    pub fn batch(&self) -> usize {
        self.input_dims[0]
    }

    /// Samples of one tile's input and of its output.
    pub fn tile_lengths(&self) -> (usize, usize) {
        (self.input_dims[1..].iter().product(), self.output_dims[1..].iter().product())
    }

    /// The input, all tiles of the batch, to be filled before [`Net::run`].
    pub fn input(&mut self) -> &mut [f32] {
        self.input.extract_tensor_mut().1
    }

    /// Runs the network on the input and hands input and output, all tiles, to `then`.
    pub fn run<R>(&mut self, then: impl FnOnce(&[f32], &[f32]) -> R) -> Result<R> {
        failpoint::hit("infer")?;
        let provider = self.provider;
        let told = |error: ort::Error| provider::failure(provider, &error);
        let outputs = self.session.run_with_options(ort::inputs![&self.input], &self.options).map_err(told)?;
        count();
        let (shape, output) = outputs[0].try_extract_tensor::<f32>().map_err(told)?;
        if !shape.iter().zip(self.output_dims).all(|(&a, b)| a == b as i64) || shape.len() != 4 {
            let message = format!("a network gave {shape:?} where its graph says {:?}", self.output_dims);
            return Err(Fault::Unsupported.because(message));
        }
        Ok(then(self.input.extract_tensor().1, output))
    }
}

/// Zeroed memory for a tensor of this program's side. For CUDA and TensorRT it is pinned, so
/// that the device reads and writes it without another copy between.
fn memory(session: &Session, target: SessionTarget, dims: [usize; 4], side: MemoryType) -> ort::Result<Tensor<f32>> {
    if target.provider.is_gpu() {
        let pinned = || -> ort::Result<Tensor<f32>> {
            let device = target.device as i32;
            let info = MemoryInfo::new(AllocationDevice::CUDA_PINNED, device, AllocatorType::Device, side)?;
            let mut tensor = Tensor::<f32>::new(&Allocator::new(session, info)?, dims)?;
            // Fails where the memory cannot be reached from here.
            tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0);
            Ok(tensor)
        };
        match pinned() {
            Ok(tensor) => return Ok(tensor),
            Err(error) => tracing::debug!("no pinned memory, ordinary is taken: {error}"),
        }
    }
    Tensor::<f32>::new(&Allocator::default(), dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model_file::ModelFile;
    use crate::test_util::{pin, runtime_is_here};

    #[test]
    fn calls_and_openings_are_seen() {
        let opening = Opening::begin();
        assert!(is_opening());
        drop(opening);
        if !runtime_is_here() {
            return;
        }
        let model = ModelFile::open("fast").unwrap();
        let network = model.network(1, 48, 48).unwrap();
        let before = calls();
        let mut net = Net::open(&network, SessionTarget::of(&pin(&model, (32, 32)))).unwrap();
        net.run(|_, _| ()).unwrap();
        net.run(|_, _| ()).unwrap();
        assert!(calls() >= before + 2);
    }
}
