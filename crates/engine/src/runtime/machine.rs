//! What the speed of this machine depends on: its processor and its graphics devices.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use upscaled_core::sys::processors;

use crate::runtime::library;

/// A machine, as far as measurements of another do not hold for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineFingerprint {
    /// The processor's model.
    pub processor: String,
    /// Processors this process may use.
    pub cores: u32,
    /// Models of the NVIDIA devices, by device number.
    pub gpus: Vec<String>,
}

impl MachineFingerprint {
    pub fn this() -> MachineFingerprint {
        let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| processor(&text));
        MachineFingerprint {
            processor: processor.unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: processors::count(),
            gpus: gpus(Path::new("/proc/driver/nvidia/gpus")),
        }
    }
}

/// How the names of libraries begin whose versions measurements depend on.
const LIBRARIES: [&str; 6] = ["libonnxruntime", "libopenvino", "libnvinfer", "libcudnn", "libcublas", "libcudart"];

/// All libraries at hand that a network runs in, for the keys of kept answers: ONNX Runtime's
/// description, a hash of name, size and time of each file beside it, and with `gpu` the
/// version of the driver.
pub fn libraries(gpu: bool) -> Result<Vec<String>> {
    let mut known = vec![library::description()?];
    known.extend(library::library()?.parent().map(files));
    if gpu {
        let version = std::fs::read_to_string("/sys/module/nvidia/version");
        known.extend(version.ok().map(|version| format!("driver {}", version.trim())));
    }
    Ok(known)
}

fn files(folder: &Path) -> String {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of the file that a link leads to.
        let Ok(about) = std::fs::metadata(entry.path()) else { continue };
        if LIBRARIES.iter().any(|start| name.starts_with(start)) {
            files.push(format!("{name} {} {}.{}", about.len(), about.mtime(), about.mtime_nsec()));
        }
    }
    files.sort();
    format!("files {}", &blake3::hash(files.join("\n").as_bytes()).to_hex()[..32])
}

/// The processors are looked at for so long.
const LOOK: Duration = Duration::from_millis(200);
/// More than this share of them at work leaves no quiet for measuring.
const BUSY: f64 = 0.6;

/// Whether others keep the processors at work: what is timed now would say little.
pub fn busy() -> bool {
    let look = || std::fs::read_to_string("/proc/stat").ok().and_then(|text| ticks(&text));
    let before = look();
    std::thread::sleep(LOOK);
    match (before, look()) {
        (Some((worked, all)), Some((worked_now, all_now))) if all_now > all => {
            (worked_now.saturating_sub(worked)) as f64 > BUSY * (all_now - all) as f64
        }
        _ => false,
    }
}

/// Ticks that all processors worked, and all ticks, since the start.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    // user, nice, system, idle, waiting for disks, ..
    let idle = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().sum();
    Some((all - idle, all))
}

fn processor(cpuinfo: &str) -> Option<String> {
    value(cpuinfo, "model name")
}

/// What stands behind `name:` in lines of `name : value`.
fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The driver's folder holds one folder a device, named by its place on the bus.
fn gpus(folder: &Path) -> Vec<String> {
    let mut devices: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    devices.sort();
    let read = |device: &std::path::PathBuf| std::fs::read_to_string(device.join("information")).ok();
    devices.iter().filter_map(read).filter_map(|text| value(&text, "Model")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_library_is_another_answer() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("libonnxruntime_providers_openvino.so", "one");
        let before = files(folder.path());
        file("notes.txt", "of no matter");
        assert_eq!(files(folder.path()), before);
        file("libonnxruntime_providers_openvino.so", "another");
        let after = files(folder.path());
        assert_ne!(after, before);
        file("libopenvino.so", "");
        assert_ne!(files(folder.path()), after);
    }

    #[test]
    fn names_are_read_as_the_kernel_writes_them() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some  Processor @ 2.0GHz\n";
        assert_eq!(processor(text), Some("Some Processor @ 2.0GHz".into()));
        assert_eq!(processor("Processor: x"), None);
        let folder = tempfile::tempdir().unwrap();
        for (bus, model) in [("0000:65:00.0", "NVIDIA B"), ("0000:17:00.0", "NVIDIA A")] {
            std::fs::create_dir(folder.path().join(bus)).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 1\n");
            std::fs::write(folder.path().join(bus).join("information"), text).unwrap();
        }
        assert_eq!(gpus(folder.path()), ["NVIDIA A", "NVIDIA B"]);
        assert!(gpus(&folder.path().join("none")).is_empty());
        assert_eq!(MachineFingerprint::this(), MachineFingerprint::this());
        assert_eq!(ticks("cpu  10 1 5 80 4 0 1 0 7 7\ncpu0 1\n"), Some((17, 101)));
        assert_eq!(ticks("intr 5"), None);
    }
}
