//! Execution providers: how each is asked for, with everything set that it would choose itself.

use anyhow::Result;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::base::fault::Fault;
use crate::engine::runtime;
use crate::model::engine::{Precision, Provider};
use crate::network::model_file::Network;

/// What a session is opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub provider: Provider,
    pub device: u32,
    pub precision: Precision,
    /// Threads inside a call, on the processor.
    pub threads: u32,
}

/// Whether the processor multiplies bf16 in hardware; without it bf16 is slower than f32.
pub fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Opens a session; [`Fault::Device`] when the provider is missing or refuses the network.
pub fn open(network: &Network, target: Target) -> Result<Session> {
    let environment = runtime::init()?;
    let session = || -> ort::Result<Session> {
        let on_cpu = target.provider == Provider::Cpu;
        let mut builder = Session::builder(&environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // Other providers bring their own threads.
            .with_intra_threads(if on_cpu { target.threads.max(1) as usize } else { 1 })?
            .with_inter_threads(1)?
            // Decoder, encoder and inference share the cores: no thread may burn one waiting.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?;
        if let Some(provider) = dispatch(target) {
            builder = builder.with_execution_providers([provider.error_on_failure()])?;
        }
        if target.provider == Provider::Openvino {
            // Pixels must not depend on which part of a graph a provider happened to take.
            builder = builder.with_disable_cpu_fallback()?;
        }
        builder.commit_from_memory(&network.bytes)
    };
    session().map_err(|error| failure(target.provider, &error))
}

/// An error of ONNX Runtime as a fault.
pub fn failure(provider: Provider, error: &ort::Error) -> anyhow::Error {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let lower = text.to_lowercase();
    let memory = ["out of memory", "failed to allocate memory", "bad_alloc"].iter().any(|sign| lower.contains(sign));
    let fault = if memory { Fault::DeviceMemory } else { Fault::Device };
    fault.because(format!("{} failed: {text}", name(provider)))
}

/// Whether ONNX Runtime's library has the part for a provider beside it.
pub fn is_here(provider: Provider) -> bool {
    match provider {
        Provider::Tensorrt => runtime::has_provider("tensorrt"),
        Provider::Cuda => runtime::has_provider("cuda"),
        Provider::Openvino => runtime::has_provider("openvino"),
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
fn dispatch(target: Target) -> Option<ExecutionProviderDispatch> {
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
        Provider::Cuda => Some(
            ep::CUDA::default()
                .with_device_id(device)
                // A search by timing would choose other kernels, and other bits, from run to run.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .with_tf32(false)
                .build(),
        ),
        Provider::Tensorrt => {
            let half = target.precision == Precision::F16;
            Some(ep::TensorRT::default().with_device_id(device).with_fp16(half).build())
        }
    }
}
