//! What a child process learns of the daemon's environment: what it needs to find its libraries, devices and folders,
//! and nothing else. Tokens, keys of storage services and preloaded libraries end here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables by name: the person, place and time; where the system, systemd and this program's own cache are; what the
/// program itself reads in a child.
const NAMES: &[&str] = &[
    "CACHE_DIRECTORY",
    "GLIBC_TUNABLES",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "ORT_DYLIB_PATH",
    "PATH",
    "RUNTIME_DIRECTORY",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "UPSCALED_GPU_MEMORY_MB",
    "UPSCALED_LOG",
    "USER",
    #[cfg(any(test, feature = "failpoints"))]
    "UPSCALED_FAILPOINTS",
];
/// Variables by the beginning of their names: locale and folders; glibc's memory; devices and the libraries that drive
/// them.
const BEGINNINGS: &[&str] = &[
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "GOMP_",
    "INTEL_",
    "KMP_",
    "LC_",
    "LIBVA_",
    "MALLOC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "ONEAPI_",
    "ONEDNN_",
    "OPENVINO_",
    "OV_",
    "TBB_",
    "TRT_",
    "XDG_",
    "ZE_",
];
/// Would load a library of somebody's choice.
const NEVER: &[&str] = &["CUDA_INJECTION32_PATH", "CUDA_INJECTION64_PATH"];

/// Of these variables those that are for a child.
pub fn of_child(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(name, _)| is_for_child(name))
}

fn is_for_child(name: &OsStr) -> bool {
    let among = |names: &[&str]| names.iter().any(|known| name == *known);
    let begins = |known: &&str| name.as_bytes().starts_with(known.as_bytes());
    !among(NEVER) && (among(NAMES) || BEGINNINGS.iter().any(begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_goes_on() {
        for needed in
            ["PATH", "LD_LIBRARY_PATH", "ORT_DYLIB_PATH", "TZ", "LC_ALL", "XDG_RUNTIME_DIR", "CUDA_VISIBLE_DEVICES"]
        {
            assert!(is_for_child(OsStr::new(needed)), "{needed}");
        }
        for kept in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "UPSCALED_TOKEN",
            "UPSCALED_STORE_ACCESS_KEY",
            "UPSCALED_STORE_SECRET_KEY",
            "BUCKET_COMPATIBLE_ACCESS_KEY",
            "BUCKET_COMPATIBLE_SECRET_KEY",
            "MINER_STORAGE_S3_ACCESS_KEY_ID",
            "MINER_STORAGE_S3_SECRET_ACCESS_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "SSH_AUTH_SOCK",
            "https_proxy",
            "CUDA_INJECTION64_PATH",
            "PATHX",
            "",
        ] {
            assert!(!is_for_child(OsStr::new(kept)), "{kept}");
        }
    }
}
