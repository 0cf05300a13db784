//! A daemon with the video service, its clients, and what their outputs must be.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::common::{Root, describe, streams, times, within};

/// Settings of every test: results come from a server on this machine.
pub(crate) const SETTINGS: &str = "device = \"cpu\"\nrescan_seconds = 1\nfetch_private = true\n";

/// A running daemon; killed with the test.
pub(crate) struct Service {
    pub root: Root,
    pub child: Child,
    /// Of the two contracts.
    pub original: String,
    pub current: String,
    agent: Agent,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// `detail` of an error, as text.
    pub(crate) fn detail(&self) -> String {
        let detail = self.json()["detail"].clone();
        detail.as_str().map_or_else(|| detail.to_string(), str::to_owned)
    }
}

fn launch(root: &Root, more: &[&str], environment: &[(&str, &str)]) -> (Child, String, String) {
    let before = root.console().len();
    let words = ["daemon", "--vidaio", "127.0.0.1:0", "--vidaio-current", "127.0.0.1:0", "--root"].map(OsStr::new);
    let words = words.into_iter().chain([root.path().as_os_str()]).chain(more.iter().map(OsStr::new));
    let console = std::fs::OpenOptions::new().append(true).create(true).open(root.path().join("console.txt"));
    let console = console.expect("a file for its words");
    let mut command = root.program(&words.collect::<Vec<_>>());
    command.envs(environment.iter().copied()).stdout(console.try_clone().expect("a handle")).stderr(console);
    let child = command.spawn().expect("the program starts");
    let told = |name: &str| {
        let (console, mark) = (root.console(), format!("({name}) is at http://"));
        let line = console[before..].lines().find_map(|line| Some(line.split_once(&mark)?.1.to_owned()))?;
        Some(format!("http://{}", line.trim_end_matches('/')))
    };
    let ready = within(30, || told("upscale-video").is_some() && told("upscale").is_some());
    assert!(ready, "the service did not start\n{}", root.console());
    (child, told("upscale-video").unwrap_or_default(), told("upscale").unwrap_or_default())
}

impl Service {
    pub(crate) fn start(settings: &str) -> Service {
        Service::start_with(Root::new(&format!("{SETTINGS}{settings}")), &[], &[])
    }

    pub(crate) fn start_with(root: Root, more: &[&str], environment: &[(&str, &str)]) -> Service {
        let (child, original, current) = launch(&root, more, environment);
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        Service { root, child, original, current, agent: agent.build().into() }
    }

    /// SIGKILL, and the same daemon anew.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill_and_restart_with(&[]);
    }

    /// The same, with these variables.
    pub(crate) fn kill_and_restart_with(&mut self, environment: &[(&str, &str)]) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.original, self.current) = launch(&self.root, &[], environment);
    }

    pub(crate) fn ask(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = self.agent.run(request.body(body.to_vec()).expect("a request")).expect("an answer");
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body }
    }

    pub(crate) fn get(&self, url: &str) -> Answer {
        self.ask("GET", url, &[], b"")
    }

    pub(crate) fn post(&self, url: &str, body: &Value) -> Answer {
        self.ask("POST", url, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// `POST /upscale-video`.
    pub(crate) fn upscale_video(&self, url: &str, task: &str) -> Answer {
        self.post(
            &format!("{}/upscale-video", self.original),
            &serde_json::json!({"payload_url": url, "task_type": task}),
        )
    }

    /// `POST /upscale` of the current contract.
    pub(crate) fn upscale(&self, body: &Value) -> Answer {
        self.post(&format!("{}/upscale", self.current), body)
    }

    /// `POST /process_video`.
    pub(crate) fn process_video(&self, task: Option<&str>, file: Option<&[u8]>) -> Answer {
        self.process_form(&form(task, file))
    }

    /// The same of a form that is made already, or broken.
    pub(crate) fn process_form(&self, (kind, body): &(String, Vec<u8>)) -> Answer {
        self.ask("POST", &format!("{}/process_video", self.original), &[("content-type", kind)], body)
    }

    /// How often a job of a request was begun.
    pub(crate) fn begun(&self) -> usize {
        self.root.console().lines().filter(|line| line.contains(".requests/") && line.ends_with("-> running")).count()
    }

    /// Lines of the history that say how a request's job ended.
    pub(crate) fn endings(&self, state: &str) -> usize {
        let of_request = |line: &&Value| line["job"].as_str().is_some_and(|job| job.starts_with(".requests/"));
        self.root.history().iter().filter(of_request).filter(|line| line["state"] == state).count()
    }

    /// A file with bytes that were downloaded.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}

/// A clip as the payloads of this service are: no sound, x264 ultrafast, tagged.
pub(crate) fn clip(path: &Path, size: &str, frames: u32) {
    let picture = format!("testsrc2=s={size}:r=25:d={}", f64::from(frames) / 25.0);
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &picture, "-c:v", "libx264"]);
    command.args(["-preset", "ultrafast", "-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_primaries", "bt709"]);
    command.args(["-color_trc", "bt709", "-f", "mp4"]).arg(path);
    assert!(command.status().is_ok_and(|s| s.success()), "ffmpeg could not make {}", path.display());
}

/// A payload that FFmpeg makes of a source of lavfi.
pub(crate) fn made(service: &Service, name: &str, picture: &str, options: &str) -> PathBuf {
    let path = service.root.path().join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", picture]);
    command.args(options.split_whitespace()).arg(&path);
    assert!(command.status().is_ok_and(|status| status.success()), "ffmpeg could not make {name}");
    path
}

/// The bytes of such a clip.
pub(crate) fn clip_bytes(size: &str, frames: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("clip.mp4");
    clip(&path, size, frames);
    std::fs::read(path).expect("a clip")
}

/// Every rule that scorers hold an output to, by ffprobe.
pub(crate) fn assert_rules(payload: &Path, output: &Path, scale: u64) {
    let (a, b) = (describe(payload), describe(output));
    let (x, y) = (&streams(&a, "video")[0], &streams(&b, "video")[0]);
    let name = output.display();
    assert_eq!((&y["codec_name"], &y["profile"]), (&Value::from("hevc"), &Value::from("Main")), "{name}");
    assert_eq!(y["pix_fmt"], "yuv420p", "{name}");
    assert!(b["format"]["format_name"].as_str().is_some_and(|f| f.contains("mp4")), "{name}");
    assert!(matches!(y["sample_aspect_ratio"].as_str(), None | Some("1:1")), "{name}: {}", y["sample_aspect_ratio"]);
    assert_eq!(x["r_frame_rate"], y["r_frame_rate"], "{name}");
    for tag in ["color_space", "color_primaries", "color_transfer"] {
        if let (Some(before), Some(after)) = (x[tag].as_str(), y[tag].as_str()) {
            assert_eq!(before, after, "{tag} of {name}");
        }
    }
    for side in ["width", "height"] {
        assert_eq!(x[side].as_u64().map(|n| n * scale), y[side].as_u64(), "{side} of {name}");
    }
    // The index first, so that players begin before all of it is there
    let made = std::fs::read(output).expect("a file");
    let place = |name: &[u8]| made.windows(4).position(|four| four == name).expect("a box of MP4");
    assert!(place(b"moov") < place(b"mdat"), "{name}");
    let frames = (times(payload).len(), times(output).len());
    assert!(frames.0 == frames.1 && frames.1 >= 10, "{frames:?} frames of {name}");
    let bytes = [payload, output].map(|path| std::fs::metadata(path).expect("a file").len());
    let most = if scale == 4 { 20 } else { 8 };
    assert!(bytes[1] <= most * bytes[0], "{bytes:?} bytes of {name}");
}

/// The form of `/process_video`, with its type.
pub(crate) fn form(task: Option<&str>, file: Option<&[u8]>) -> (String, Vec<u8>) {
    let mut form = Vec::new();
    if let Some(task) = task {
        form.extend(
            format!("--B\r\nContent-Disposition: form-data; name=\"task_type\"\r\n\r\n{task}\r\n").into_bytes(),
        );
    }
    if let Some(file) = file {
        let head = "--B\r\nContent-Disposition: form-data; name=\"video_file\"; filename=\"a.mp4\"\r\n\r\n";
        form.extend([head.as_bytes(), file, b"\r\n"].concat());
    }
    form.extend(b"--B--\r\n");
    ("multipart/form-data; boundary=B".into(), form)
}
