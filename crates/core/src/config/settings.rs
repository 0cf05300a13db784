//! Validated settings, one struct a consumer, with the defaults.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::path_text;

/// The profile of jobs whose outputs are scored by the Vidaio service.
pub const VIDAIO: &str = "vidaio";

/// What a finished job does with its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSuccess {
    Keep,
    Move,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyMode {
    /// Every packet's timestamp and every stream; first and last frame of each clip decoded.
    Normal,
    /// The whole output is decoded too.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodecChoice {
    Auto,
    H264,
    Hevc,
    Av1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchMode {
    Auto,
    Notify,
    Poll,
}

/// What decides the output of a job. Fixed into the plan when the job starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSettings {
    /// How many times larger. At most one of `size`, `height` and `task` is set; then it counts.
    pub scale: u32,
    /// Width and height that the output is fitted into, as displayed.
    #[serde(default)]
    pub size: Option<(u32, u32)>,
    /// Height of the output, as displayed.
    #[serde(default)]
    pub height: Option<u32>,
    /// `SD2HD`, `HD24K`, `4K28K`, `SD24K`.
    #[serde(default)]
    pub task: Option<String>,
    /// A set of rules that the output has to keep: [`VIDAIO`].
    #[serde(default)]
    pub profile: Option<String>,
    /// A model's name, such as `fast`, or a path to an ONNX file.
    pub model: String,
    /// `auto`, `cpu`, `openvino`, `cuda:N`, `tensorrt:N`.
    pub device: String,
    /// `auto`, `f32`, `bf16`, `f16`.
    pub precision: String,
    pub codec: CodecChoice,
    /// Encoder by FFmpeg's name, past all choice.
    pub encoder: Option<String>,
    /// Quality of software encoders (`crf`) and of NVENC (`cq`); `None` takes the codec's default.
    pub crf: Option<u32>,
    pub cq: Option<u32>,
    pub preset: Option<String>,
    /// `yuv420p`, `yuv420p10le`, ..; `None` keeps the source's.
    pub pixel_format: Option<String>,
    pub max_size_mb: Option<u64>,
    /// `auto` (when flagged), `on`, `off`.
    pub deinterlace: String,
    pub eta_frames: u64,
    pub batch_frames: u64,
    /// Make a film without sound when none of its audio can be kept.
    #[serde(default)]
    pub drop_audio: bool,
    pub verify: VerifyMode,
    pub reuse: bool,
    /// 0: all cores.
    pub threads: u32,
    /// Measure how the work is best cut, once a machine and frame size, among cuts seen to give the same bits.
    #[serde(default = "on")]
    pub autotune: bool,
    /// Tile core in source pixels (`240x216`); `None` chooses.
    pub tile: Option<(u32, u32)>,
    /// Of diffusion models, as the next four: length in pixels that the shorter side has at least
    /// inside the networks.
    #[serde(default = "process_size")]
    pub process_size: u32,
    /// Of the noise.
    #[serde(default)]
    pub seed: u64,
    /// `sample`, `mean`.
    #[serde(default = "sample")]
    pub latent: String,
    /// `wavelet`, `adain`, `none`.
    #[serde(default = "wavelet")]
    pub colour_fix: String,
    /// MiB of the device that tiles are planned for.
    #[serde(default = "device_memory_mb")]
    pub device_memory_mb: u64,
    pub max_job_hours: Option<f64>,
}

fn on() -> bool {
    true
}

fn process_size() -> u32 {
    512
}

fn sample() -> String {
    "sample".into()
}

fn wavelet() -> String {
    "wavelet".into()
}

fn device_memory_mb() -> u64 {
    8192
}

impl Default for JobSettings {
    fn default() -> Self {
        JobSettings {
            scale: 2,
            size: None,
            height: None,
            task: None,
            profile: None,
            model: "fast".into(),
            device: "auto".into(),
            precision: "auto".into(),
            codec: CodecChoice::Auto,
            encoder: None,
            crf: None,
            cq: None,
            preset: None,
            pixel_format: None,
            max_size_mb: None,
            deinterlace: "auto".into(),
            eta_frames: 30,
            batch_frames: 240,
            drop_audio: false,
            verify: VerifyMode::Normal,
            reuse: true,
            threads: 0,
            autotune: true,
            tile: None,
            process_size: process_size(),
            seed: 0,
            latent: sample(),
            colour_fix: wavelet(),
            device_memory_mb: device_memory_mb(),
            max_job_hours: None,
        }
    }
}

/// How a job process behaves; may change between attempts without changing a bit of output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    pub checkpoint_seconds: u64,
    /// MiB; 0 chooses by what is free.
    pub memory_limit_mb: u64,
    /// MiB; 0 chooses by what is free.
    pub ramdisk_limit_mb: u64,
    /// Where the RAM disk's folders go; `None` chooses.
    #[serde(with = "optional_path")]
    pub work_area: Option<PathBuf>,
    /// Nice level of job processes, 0..=19.
    pub nice: i32,
    pub keep_job_folder: bool,
    pub on_success: OnSuccess,
    /// Folder for `on_success = "move"`.
    #[serde(with = "optional_path")]
    pub move_to: Option<PathBuf>,
    /// MiB that must stay free on the output disk.
    pub min_free_mb: u64,
    /// When the parts of a diffusion model are in memory: `auto`, `together`, `one_by_one`.
    pub model_parts: String,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            checkpoint_seconds: 60,
            memory_limit_mb: 0,
            ramdisk_limit_mb: 0,
            work_area: None,
            nice: 10,
            keep_job_folder: false,
            on_success: OnSuccess::Keep,
            move_to: None,
            min_free_mb: 512,
            model_parts: "auto".into(),
        }
    }
}

/// What the daemon does around jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonSettings {
    pub watch: WatchMode,
    pub rescan_seconds: u64,
    pub settle_ms: u64,
    /// Seconds a file may stand unchanged without opening as media before it fails.
    pub unreadable_seconds: u64,
    pub follow_symlinks: bool,
    /// Still pictures are jobs too.
    pub images: bool,
    /// Files and folders of input/ that are never taken ([`Patterns`](crate::config::patterns::Patterns)).
    pub ignore: Vec<String>,
    /// Seconds without any progress before a job process is killed.
    pub stall_timeout: u64,
    pub attempts_max: u32,
    /// `22:00-07:00`, local time; `None` always works.
    pub work_between: Option<String>,
    /// Days of log files kept.
    pub log_days: u32,
    /// Days that the work of a job is kept that failed or was taken out of the queue.
    pub retry_days: u32,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        DaemonSettings {
            watch: WatchMode::Auto,
            rescan_seconds: 30,
            settle_ms: 2000,
            unreadable_seconds: 60,
            follow_symlinks: true,
            images: true,
            ignore: Vec::new(),
            stall_timeout: 300,
            attempts_max: 3,
            work_between: None,
            log_days: 14,
            retry_days: 30,
        }
    }
}

/// A word that is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Jobs of the video service at a time, at most.
pub const WORKERS_MAX: u32 = 32;

/// The video service of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// Jobs of the service that run at the same time, 1..=[`WORKERS_MAX`].
    pub vidaio_workers: u32,
    /// What links to results begin with, such as `https://films.example`; `None`: as the request names us.
    pub public_url: Option<String>,
    /// Folder whose files may be named by path.
    #[serde(with = "optional_path")]
    pub shared_folder: Option<PathBuf>,
    /// Seconds that results are kept.
    pub result_seconds: u64,
    /// MiB and seconds of one download.
    pub fetch_max_mb: u64,
    pub fetch_seconds: u64,
    /// Downloads from this machine and private networks are allowed.
    pub fetch_private: bool,
    /// An S3-compatible store for results: bucket, address (`None`: Amazon's own) and region.
    pub store_bucket: Option<String>,
    pub store_endpoint: Option<String>,
    pub store_region: String,
    pub store_access_key: Option<Secret>,
    pub store_secret_key: Option<Secret>,
    /// Whom to tell of jobs that are done or have failed.
    pub notify_url: Option<String>,
    /// Signs what is told.
    pub notify_secret: Option<Secret>,
    /// He may be on this machine or in a private network.
    pub notify_private: bool,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        ServiceSettings {
            vidaio_workers: 1,
            public_url: None,
            shared_folder: None,
            result_seconds: 86_400,
            fetch_max_mb: 1024,
            fetch_seconds: 300,
            fetch_private: false,
            store_bucket: None,
            store_endpoint: None,
            store_region: "us-east-1".into(),
            store_access_key: None,
            store_secret_key: None,
            notify_url: None,
            notify_secret: None,
            notify_private: false,
        }
    }
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folders {
    #[serde(with = "path_text")]
    pub root: PathBuf,
    #[serde(with = "path_text")]
    pub input: PathBuf,
    #[serde(with = "path_text")]
    pub output: PathBuf,
    #[serde(with = "path_text")]
    pub logs: PathBuf,
}

mod optional_path {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(path_text::escape).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
        match Option::<String>::deserialize(d)? {
            None => Ok(None),
            Some(text) => path_text::unescape(&text).map(Some).ok_or_else(|| D::Error::custom("malformed path")),
        }
    }
}
