//! Doctor: processor, memory, GPU and systemd.

use std::path::{Path, PathBuf};

use upscaled_core::path_text::escape;
use upscaled_core::sys::processors;

use crate::cli::doctor::Finding;

/// Where the driver's libraries lie, WSL2's among them.
const LIBRARY_FOLDERS: &[&str] = &[
    "/usr/lib/wsl/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/cuda/compat",
];
const UNIT: &str = "upscaled.service";

pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![processor()];
    findings.extend(gpu(Path::new("/")));
    findings.push(systemd());
    findings
}

fn processor() -> Finding {
    let cores = processors::count();
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let known = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"].into_iter().filter(|name| has(name));
    let known = known.collect::<Vec<_>>().join(" ");
    let memory = memory_mb().map(|mb| format!(", {mb} MiB of memory available")).unwrap_or_default();
    let found = format!("{cores} threads {known}{memory}");
    if cfg!(target_arch = "x86_64") && !has("avx2") {
        Finding::works("machine", found).but("without AVX2, upscaling on this processor is slow")
    } else {
        Finding::works("machine", found)
    }
}

fn memory_mb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// What there is of an NVIDIA GPU. `root` is `/`, or a stand-in for it.
fn gpu(root: &Path) -> Vec<Finding> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let wsl = at("/dev/dxg").exists();
    let devices: Vec<String> =
        (0..16).map(|n| format!("/dev/nvidia{n}")).filter(|device| at(device).exists()).collect();
    if devices.is_empty() && !wsl {
        return vec![Finding::missing("gpu", "no NVIDIA GPU (/dev/nvidia0, /dev/dxg)", "the processor does the work")];
    }
    let found = if devices.is_empty() { "/dev/dxg (WSL2)".into() } else { devices.join(", ") };
    let version = std::fs::read_to_string(at("/proc/driver/nvidia/version")).unwrap_or_default();
    let version = version.lines().next().unwrap_or_default().trim().to_string();
    let mut findings = vec![Finding::works("gpu", [found, version].join("  ").trim_end().to_string())];
    for (name, use_of_it) in [("libcuda.so.1", "upscaling on it"), ("libnvidia-encode.so.1", "NVENC, encoding on it")] {
        let folder = LIBRARY_FOLDERS.iter().find(|folder| at(folder).join(name).exists());
        findings.push(match folder {
            Some(folder) => {
                Finding::works("gpu", format!("{} for {use_of_it}", escape(&PathBuf::from(folder).join(name))))
            }
            None => Finding::missing("gpu", format!("no {name}, for {use_of_it}"), missing_library(wsl)),
        });
    }
    findings
}

fn missing_library(wsl: bool) -> &'static str {
    if wsl {
        "install a current NVIDIA driver in Windows, none in Linux; then /usr/lib/wsl/lib has it"
    } else {
        "install the driver's user libraries; in a container, start it with the GPU and the video capability"
    }
}

fn systemd() -> Finding {
    if !Path::new("/run/systemd/system").is_dir() {
        return Finding::missing("systemd", "systemd does not run here", "start the daemon by hand: upscaled daemon");
    }
    let folders = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    if !folders.iter().any(|folder| Path::new(folder).join(UNIT).exists()) {
        return Finding::missing("systemd", format!("{UNIT} is not installed"), "run: make install");
    }
    let asked = std::process::Command::new("systemctl").args(["is-active", UNIT]).output();
    let state = asked.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string()).unwrap_or_default();
    match state.as_str() {
        "active" => Finding::works("systemd", format!("{UNIT} runs")),
        state => {
            let state = if state.is_empty() { "in an unknown state" } else { state };
            let advice = "run: systemctl start upscaled; why it stopped: journalctl -u upscaled";
            Finding::missing("systemd", format!("{UNIT} is installed and {state}"), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_of_every_kind_of_machine() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let works = || gpu(root).iter().map(|f| f.works).collect::<Vec<_>>();
        assert_eq!(works(), [false]);
        put("dev/dxg");
        assert_eq!(works(), [true, false, false]);
        assert!(gpu(root)[1].advice.as_deref().unwrap().contains("Windows"));
        put("usr/lib/wsl/lib/libcuda.so.1");
        assert_eq!(works(), [true, true, false]);
        put("dev/nvidia0");
        put("usr/lib64/libnvidia-encode.so.1");
        assert_eq!(works(), [true, true, true]);
        assert!(gpu(root)[0].found.starts_with("/dev/nvidia0"));
    }
}
