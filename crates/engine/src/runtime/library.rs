//! ONNX Runtime: its library found, loaded once, its messages sent to our log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

use anyhow::{Context as _, Result};
use ort::environment::Environment;
use ort::logging::LogLevel;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::sys::memory;

/// Names a library; a file, or a folder with one.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";
const FILE: &str = "libonnxruntime.so";

/// What the driver makes: on Linux itself, and in WSL2.
const DRIVER: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];
/// How the names of libraries for graphics devices begin.
const GPU_LIBRARIES: [&str; 9] = [
    "libnvJitLink.so",
    "libcudart.so",
    "libnvrtc.so",
    "libcublasLt.so",
    "libcublas.so",
    "libcufft.so",
    "libcurand.so",
    "libcudnn",
    "libnvinfer",
];

/// What fails to load while less than this can be had has failed for lack of memory, bytes.
const LIBRARIES_NEED: u64 = 256 << 20;

static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The file of ONNX Runtime's library: what `ORT_DYLIB_PATH` names, else the first found in
/// the folders beside the program, the system's, and `lib/` of the current folder.
pub fn library() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        return in_folder(&path).or_else(|| path.is_file().then(|| path.clone())).ok_or_else(|| {
            let text = escape(&path);
            Fault::NotFound
                .because(format!("ONNX Runtime is not at {text}, where {VARIABLE} says; correct or unset it, or restart the service after an upgrade"))
        });
    }
    let folders = folders();
    folders.iter().find_map(|f| in_folder(f)).ok_or_else(|| {
        let looked = folders.iter().map(|f| escape(f)).collect::<Vec<_>>().join(", ");
        Fault::NotFound.because(format!(
            "ONNX Runtime ({FILE}) was not found in {looked}; run `make setup`, or set {VARIABLE} to the library"
        ))
    })
}

/// Returns the library in the folder that it really lies in, so that no link that is changed later leads elsewhere.
/// Its own name stays: its providers are looked for beside it.
pub fn pinned(library: &Path) -> Result<PathBuf> {
    let (Some(folder), Some(name)) = (library.parent(), library.file_name()) else { return Ok(library.into()) };
    Ok(folder.canonicalize().with_context(|| format!("looking for {}", escape(library)))?.join(name))
}

/// Where the library may lie, in order. An installation keeps each version in a folder of its own, of which `current`
/// is the newest.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(bin) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(bin.join("lib"));
        folders.extend(bin.parent().map(|prefix| prefix.join("lib/upscaled/current")));
        folders.extend(bin.parent().map(|prefix| prefix.join("lib/upscaled")));
        folders.extend(bin.ancestors().skip(1).take(2).map(|up| up.join("lib")));
    }
    for installed in ["/usr/lib/upscaled", "/usr/local/lib/upscaled"].map(Path::new) {
        folders.extend([installed.join("current"), installed.to_owned()]);
    }
    folders.extend(std::env::current_dir().ok().map(|here| here.join("lib")));
    folders.dedup();
    folders
}

/// Whether an NVIDIA driver is at work here.
fn driver_is_here() -> bool {
    DRIVER.iter().any(|path| Path::new(path).exists())
}

/// The library in a folder: by its plain name, else with the highest version behind it. The
/// one for graphics devices, in `gpu/`, goes first where there is a driver.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let gpu = driver_is_here().then(|| plain_or_newest(&folder.join("gpu"))).flatten();
    gpu.or_else(|| plain_or_newest(folder))
}

fn plain_or_newest(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(FILE);
    if plain.is_file() {
        return Some(plain);
    }
    named(folder, "libonnxruntime.so.").pop()
}

/// Files of a folder whose names start so, sorted.
fn named(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(start)).map(|e| e.path()).collect();
    found.sort();
    found
}

/// Whether the library's folder holds the part for a provider (`openvino`, `cuda`, `tensorrt`).
pub fn has_provider(name: &str) -> bool {
    let file = format!("libonnxruntime_providers_{name}.so");
    library().is_ok_and(|library| library.with_file_name(file).is_file())
}

/// Loads the library, once in a process.
pub fn init() -> Result<Environment> {
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let path = library()?;
    // OpenVINO's libraries lie beside ours, where the provider, having no search path of its
    // own, would not look for them. Loaded before it, they are found by their names.
    if let Some(folder) = path.parent() {
        for start in ["libopenvino.so", "libopenvino_onnx_frontend.so"] {
            if let Some(file) = named(folder, start).first()
                && let Err(error) = ort::util::preload_dylib(file)
            {
                tracing::debug!("{}: {error}", escape(file));
            }
        }
    }
    let failed = |error: &dyn std::fmt::Display| {
        let text = escape(&path);
        match memory::has_run_out(&error.to_string(), LIBRARIES_NEED) {
            true => Fault::DeviceMemory.because(format!(
                "ONNX Runtime at {text} does not load, since memory has run out: {error}; give it more memory"
            )),
            false => Fault::Device.because(format!("ONNX Runtime at {text} does not load: {error}; run `make setup`")),
        }
    };
    let builder = ort::init_from(&path).map_err(|e| failed(&e))?;
    let logger = Arc::new(|level: LogLevel, _: &str, _: &str, _: &str, message: &str| match level {
        LogLevel::Error | LogLevel::Fatal => tracing::warn!("ONNX Runtime: {message}"),
        LogLevel::Warning => tracing::debug!("ONNX Runtime: {message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!("ONNX Runtime: {message}"),
    });
    let environment =
        builder.with_name("upscaled").with_telemetry(false).with_logger(logger).build().map_err(|e| failed(&e))?;
    environment.set_log_level(LogLevel::Warning);
    *slot = Some(environment.clone());
    Ok(environment)
}

/// Loads the libraries of CUDA, cuDNN and TensorRT that lie beside ONNX Runtime, so that its
/// parts for graphics devices find them by name. Those that are absent are looked for by the
/// system's loader, where they are needed. Once in a process.
pub fn preload_gpu() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let Some(folder) = library().ok().and_then(|path| path.parent().map(Path::to_owned)) else { return };
        let mut waiting: Vec<PathBuf> = GPU_LIBRARIES.iter().flat_map(|start| named(&folder, start)).collect();
        // They need each other: what does not load yet may do so after another.
        loop {
            let before = waiting.len();
            waiting.retain(|file| ort::util::preload_dylib(file).is_err());
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        for file in waiting {
            tracing::debug!("{} does not load", escape(&file));
        }
    });
}

/// `ONNX Runtime rel-1.24.1 (/usr/lib/upscaled/libonnxruntime.so)`, for plans and people.
pub fn description() -> Result<String> {
    init()?;
    let branch = ort::info().split("git-branch=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("unknown");
    Ok(format!("ONNX Runtime {branch} ({})", escape(&library()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_name_wins_then_the_highest_version() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(in_folder(folder.path()), None);
        for name in ["libonnxruntime.so.1.23.0", "libonnxruntime.so.1.24.1", "libonnxruntime_providers_shared.so"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(in_folder(folder.path()), Some(folder.path().join("libonnxruntime.so.1.24.1")));
        std::fs::write(folder.path().join(FILE), "").unwrap();
        assert_eq!(in_folder(folder.path()), Some(folder.path().join(FILE)));
    }
}
