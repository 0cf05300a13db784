//! A worker started for a test, HTTP by hand, and pictures.

use std::ffi::OsStr;
use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use image::{DynamicImage, ImageFormat};
use serde_json::Value;

use crate::common::{Root, fields, finish, within};

/// An answer may take this long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between the parts of a form.
pub(crate) const BOUNDARY: &str = "----a-boundary";

/// A running worker.
pub(crate) struct Server {
    pub root: Root,
    pub port: u16,
    pub child: Child,
}

/// A port that is free at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

impl Server {
    /// `upscaled worker` with more flags, ready.
    pub(crate) fn start(flags: &[&str]) -> Server {
        let server = Server::launch(flags);
        server.wait();
        server
    }

    /// Waits until it is ready.
    pub(crate) fn wait(&self) {
        let ready = within(120, || self.try_ask("GET", "/health", &[], b"").is_some_and(|a| a.status == 200));
        assert!(ready, "the worker did not become ready\n{}", self.root.console());
    }

    /// The same, without waiting.
    pub(crate) fn launch(flags: &[&str]) -> Server {
        Server::launch_in(flags, |_| {})
    }

    /// The same in a folder with something in it.
    pub(crate) fn launch_in(flags: &[&str], prepare: impl FnOnce(&Path)) -> Server {
        Server::launch_with(flags, &[], prepare)
    }

    /// The same with more variables.
    pub(crate) fn launch_with(flags: &[&str], variables: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Server {
        let root = Root::new("");
        prepare(root.path());
        let port = free_port();
        let number = port.to_string();
        let words = ["worker", "--port", &number].into_iter().chain(flags.iter().copied()).map(OsStr::new);
        let mut command = root.program(&words.collect::<Vec<_>>());
        let console = std::fs::File::create(root.path().join("console.txt")).expect("a file for its words");
        let temporary = root.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a folder");
        command
            .env("TMPDIR", temporary)
            .envs(variables.iter().copied())
            .stdout(console.try_clone().expect("a handle"))
            .stderr(console);
        let child = command.spawn().expect("the program starts");
        Server { root, port, child }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the worker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    fn try_ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(&self.request(method, path, headers, body)).ok()?;
        Answer::read(&mut stream, method == "HEAD")
    }

    /// The bytes of a request.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: 127.0.0.1:{}\r\n", self.port);
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        [head.as_bytes(), b"\r\n", body].concat()
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.try_ask(method, path, headers, body);
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}\n{}", self.root.console()))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    /// POST of a form.
    pub(crate) fn post(&self, path: &str, parts: &[Part<'_>]) -> Answer {
        self.ask("POST", path, &[("Content-Type", &form_type())], &form(parts))
    }

    /// POST of JSON.
    pub(crate) fn tell(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// POST of one picture to `/upscale`.
    pub(crate) fn upscale(&self, query: &str, picture: &[u8]) -> Answer {
        self.post(&format!("/upscale{query}"), &[Part::file("file", "a.png", picture)])
    }

    /// The same, where the worker may end meanwhile.
    pub(crate) fn try_upscale(&self, picture: &[u8]) -> Option<Answer> {
        let body = form(&[Part::file("file", "a.png", picture)]);
        self.try_ask("POST", "/upscale", &[("Content-Type", &form_type())], &body)
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(kill.is_ok_and(|s| s.success()), "kill {name}");
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        finish(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A part of a form.
pub(crate) struct Part<'a> {
    pub field: &'a str,
    pub file: Option<&'a str>,
    pub content: &'a [u8],
}

impl<'a> Part<'a> {
    pub(crate) fn file(field: &'a str, name: &'a str, content: &'a [u8]) -> Part<'a> {
        Part { field, file: Some(name), content }
    }
}

pub(crate) fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

pub(crate) fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        let file = part.file.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{}\"{file}\r\n\r\n", part.field);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(part.content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// What comes until the end; `None` for what is cut short.
    pub(crate) fn read(stream: &mut impl Read, head_only: bool) -> Option<Answer> {
        let mut bytes = Vec::new();
        // What came before a reset counts.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
        let length = answer.header("content-length").and_then(|l| l.parse::<usize>().ok());
        (head_only || length.is_none_or(|length| length == answer.body.len())).then_some(answer)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The status and the reason.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let detail = &self.json()["detail"];
        (self.status, detail.as_str().map_or_else(|| detail.to_string(), str::to_owned))
    }

    /// The names of its fields, in the order of the alphabet.
    pub(crate) fn fields(&self) -> Vec<String> {
        fields(&self.json())
    }

    pub(crate) fn picture(&self) -> DynamicImage {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        image::load_from_memory_with_format(&self.body, ImageFormat::Png).expect("a PNG")
    }
}

/// A picture with something in it.
pub(crate) fn picture(width: u32, height: u32) -> DynamicImage {
    let pixel =
        |x: u32, y: u32| image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x * 7 + y * 3) % 256) as u8]);
    image::RgbImage::from_fn(width, height, pixel).into()
}

pub(crate) fn packed(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, format).expect("a picture is written");
    out.into_inner()
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    packed(&picture(width, height), ImageFormat::Png)
}

/// Appends a chunk of a PNG.
pub(crate) fn chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend(name);
    out.extend(data);
    out.extend(crc(&out[start..]).to_be_bytes());
}

/// The sum that PNG has over a chunk's name and data.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
