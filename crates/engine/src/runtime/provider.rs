//! Execution providers: how each is asked for, with everything set that it would choose itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ort::environment::Environment;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use upscaled_core::fault::Fault;
use upscaled_core::sys::memory;
use upscaled_core::types::engine::{EngineSpec, Precision, Provider};

use crate::models::model_file::ShapedNetwork;
use crate::models::prelu::{self, PreluForm};
use crate::runtime::{cache, library};

/// A processor's provider that fails while less than this can be had has failed for lack of memory, bytes: what its
/// libraries map, and a session of the largest tiles.
const SESSION_NEED: u64 = 512 << 20;

/// Holds each session to so many MiB of a graphics device's memory.
const GPU_MEMORY: &str = "UPSCALED_GPU_MEMORY_MB";

/// What a session is opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTarget {
    pub provider: Provider,
    pub device: u32,
    pub precision: Precision,
    /// Threads inside a call, on the processor.
    pub threads: u32,
}

impl SessionTarget {
    /// What a pin's sessions are opened on.
    pub fn of(pin: &EngineSpec) -> SessionTarget {
        SessionTarget { provider: pin.provider, device: pin.device, precision: pin.precision, threads: pin.threads }
    }
}

/// Whether the processor multiplies bf16 in hardware; without it bf16 is slower than f32.
pub fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Opens a session; [`Fault::Device`] when the provider is missing or refuses the network.
/// Activations take the form that the provider is fastest with.
pub fn open(network: &ShapedNetwork, target: SessionTarget) -> Result<Session> {
    open_with(network, target, PreluForm::of(target.provider))
}

/// The same with PReLU written in a form.
pub fn open_with(network: &ShapedNetwork, target: SessionTarget, form: PreluForm) -> Result<Session> {
    let environment = library::init()?;
    if target.provider.is_gpu() {
        library::preload_gpu();
    }
    let engines = engine_folder(network, target);
    // TensorRT makes its own 16-bit kernels; for CUDA the network itself is rewritten.
    let halved = match (target.provider, target.precision) {
        (Provider::Cuda, Precision::F16) => Some(network.half()?),
        _ => None,
    };
    let network = halved.as_ref().unwrap_or(network);
    let session =
        || builder(&environment, target, engines.as_deref())?.commit_from_memory(&prelu::written(&network.bytes, form));
    session().map_err(|error| failure(target.provider, &error))
}

/// Opens a graph as it is in its file, with the weights that lie beside it.
pub fn open_file(path: &Path, target: SessionTarget) -> Result<Session> {
    let environment = library::init()?;
    if target.provider.is_gpu() {
        library::preload_gpu();
    }
    let session = || builder(&environment, target, None)?.commit_from_file(path);
    session().map_err(|error| failure(target.provider, &error))
}

/// What all sessions on a target have in common.
fn builder(environment: &Environment, target: SessionTarget, engines: Option<&Path>) -> ort::Result<SessionBuilder> {
    let on_cpu = target.provider == Provider::Cpu;
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // Other providers bring their own threads.
        .with_intra_threads(if on_cpu { target.threads.max(1) as usize } else { 1 })?
        .with_inter_threads(1)?
        // Decoder, encoder and inference share the cores: no thread may burn one waiting.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    if let Some(provider) = dispatch(target, engines) {
        builder = builder.with_execution_providers([provider.error_on_failure()])?;
    }
    if target.provider == Provider::Openvino {
        // Pixels must not depend on which part of a graph a provider happened to take.
        builder = builder.with_disable_cpu_fallback()?;
    }
    Ok(builder)
}

/// The folder for engines that TensorRT builds of this network: in the user's cache.
fn engine_folder(network: &ShapedNetwork, target: SessionTarget) -> Option<PathBuf> {
    if target.provider != Provider::Tensorrt {
        return None;
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&network.bytes).update(target.precision.name().as_bytes()).update(&target.device.to_le_bytes());
    let folder = cache::folder()?.join("tensorrt").join(&hash.finalize().to_hex()[..32]);
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder)
}

/// For people: BLAKE3 of the engine that TensorRT runs this network with, after it was opened.
pub fn engine_hash(network: &ShapedNetwork, target: SessionTarget) -> Option<String> {
    let entries = std::fs::read_dir(engine_folder(network, target)?).ok()?;
    let engine = entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "engine"))?;
    let mut hash = blake3::Hasher::new();
    hash.update_reader(std::fs::File::open(engine).ok()?).ok()?;
    Some(hash.finalize().to_hex().to_string())
}

/// What a session may take of a device's memory, bytes: [`GPU_MEMORY`], else all.
fn memory_limit() -> Option<usize> {
    let mebibytes = std::env::var(GPU_MEMORY).ok()?.parse::<usize>().ok().filter(|&n| n > 0)?;
    mebibytes.checked_mul(1 << 20)
}

/// An error of ONNX Runtime as a fault.
pub fn failure(provider: Provider, error: &ort::Error) -> anyhow::Error {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let fault = match memory::is_told(&text) || !provider.is_gpu() && memory::is_short(SESSION_NEED) {
        true => Fault::DeviceMemory,
        false => Fault::Device,
    };
    fault.because(format!("{} failed: {text}", name(provider)))
}

/// Whether ONNX Runtime's library has the part for a provider beside it.
pub fn is_here(provider: Provider) -> bool {
    match provider {
        Provider::Tensorrt => library::has_provider("tensorrt"),
        Provider::Cuda => library::has_provider("cuda"),
        Provider::Openvino => library::has_provider("openvino"),
        Provider::Cpu => true,
    }
}

/// A provider's name for people.
pub fn name(provider: Provider) -> &'static str {
    match provider {
        Provider::Tensorrt => "TensorRT",
        Provider::Cuda => "CUDA",
        Provider::Openvino => "OpenVINO",
        Provider::Cpu => "the processor",
    }
}

/// ONNX Runtime's own CPU provider needs none.
/// `engines`: where TensorRT keeps what it builds.
fn dispatch(target: SessionTarget, engines: Option<&Path>) -> Option<ExecutionProviderDispatch> {
    let device = target.device as i32;
    match target.provider {
        Provider::Cpu => None,
        Provider::Openvino => {
            let precision = if target.precision == Precision::Bf16 { "bf16" } else { "f32" };
            // Its defaults are bf16 wherever the processor has it, pinned threads, and its own count.
            let config = format!(
                r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{precision}","ENABLE_CPU_PINNING":"NO","INFERENCE_NUM_THREADS":"{}","NUM_STREAMS":"1"}}}}"#,
                target.threads.max(1)
            );
            Some(ep::OpenVINO::default().with_device_type("CPU").with_arbitrary_config("load_config", config).build())
        }
        Provider::Cuda => {
            let cuda = ep::CUDA::default()
                .with_device_id(device)
                // A search by timing would choose other kernels, and other bits, from run to run.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .with_tf32(false);
            Some(match memory_limit() {
                // Asking for no more than is needed, or the limit would be met at half of it.
                Some(bytes) => cuda
                    .with_memory_limit(bytes)
                    .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                    .build(),
                None => cuda.build(),
            })
        }
        Provider::Tensorrt => {
            let half = target.precision == Precision::F16;
            let trt = ep::TensorRT::default().with_device_id(device).with_fp16(half);
            let trt = match memory_limit() {
                Some(bytes) => trt.with_max_workspace_size(bytes),
                None => trt,
            };
            Some(match engines {
                // Built once: building chooses kernels by timing, so another time it may choose others.
                Some(folder) => trt
                    .with_engine_cache(true)
                    .with_engine_cache_path(folder.display())
                    .with_timing_cache(true)
                    .with_timing_cache_path(folder.display())
                    .build(),
                None => trt.build(),
            })
        }
    }
}
