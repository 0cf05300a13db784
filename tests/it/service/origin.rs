//! A web server by hand that payloads are fetched from, with the faults of real ones.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Serves `clip` under several paths, and remembers what it was asked.
pub(crate) struct Origin {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    pub(crate) fn start(clip: Vec<u8>) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (clip, log) = (Arc::new(clip), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (clip, log) = (clip.clone(), log.clone());
                thread::spawn(move || serve(stream, &clip, &log));
            }
        });
        Origin { port, asked }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far that begin with `path`, each with its Range.
    pub(crate) fn asked(&self, path: &str) -> Vec<String> {
        let asked = self.asked.lock().expect("the log");
        asked.iter().filter(|line| line.starts_with(path)).cloned().collect()
    }
}

fn serve(mut stream: TcpStream, clip: &[u8], log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
    let mut lines = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        lines.push(line.trim().to_owned());
        line.clear();
    }
    let path = lines.first().and_then(|l| l.split(' ').nth(1)).unwrap_or_default().to_owned();
    let range = lines.iter().find_map(|l| l.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned));
    let earlier = {
        let mut log = log.lock().expect("the log");
        let earlier = log.iter().filter(|l| l.split(' ').next() == Some(&path)).count();
        log.push(format!("{path} {}", range.clone().unwrap_or_default()));
        earlier
    };
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()).unwrap_or(0);
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n");
    let whole = |length: usize| format!("Content-Length: {length}\r\nETag: \"one\"\r\n");
    let _ = match path.split('?').next().unwrap_or_default() {
        // Breaks off after a third, then in the middle of the rest, then goes through.
        "/broken" if earlier < 2 => {
            let end = from + (clip.len() - from) / 3;
            let told = format!("Content-Range: bytes {from}-{}/{}\r\n", clip.len() - 1, clip.len());
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let more = whole(clip.len() - from) + if from > 0 { &told } else { "" };
            stream.write_all(head(status, &more).as_bytes()).and_then(|()| stream.write_all(&clip[from..end]))
        }
        // The first gets a third, and then nothing more.
        "/slow" if earlier < 1 => {
            let third = stream
                .write_all(head("200 OK", &whole(clip.len())).as_bytes())
                .and_then(|()| stream.write_all(&clip[..clip.len() / 3]));
            thread::sleep(Duration::from_secs(30));
            third
        }
        "/clip" | "/broken" | "/slow" if from > 0 => {
            let told = format!("Content-Range: bytes {from}-{}/{}\r\n", clip.len() - 1, clip.len());
            let more = whole(clip.len() - from) + &told;
            stream
                .write_all(head("206 Partial Content", &more).as_bytes())
                .and_then(|()| stream.write_all(&clip[from..]))
        }
        "/clip" | "/broken" | "/slow" => {
            stream.write_all(head("200 OK", &whole(clip.len())).as_bytes()).and_then(|()| stream.write_all(clip))
        }
        // The first is out of order.
        "/shaky" if earlier < 1 => {
            stream.write_all(head("503 Service Unavailable", "Content-Length: 0\r\n").as_bytes())
        }
        "/shaky" => {
            stream.write_all(head("200 OK", &whole(clip.len())).as_bytes()).and_then(|()| stream.write_all(clip))
        }
        "/text" => stream.write_all((head("200 OK", &whole(9)) + "no video\n").as_bytes()),
        "/large" => stream.write_all(head("200 OK", &whole(5 << 30)).as_bytes()),
        "/endless" => {
            let piece = vec![0; 1 << 16];
            let mut sent = stream.write_all(head("200 OK", "").as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(&piece);
            }
            sent
        }
        "/silent" => {
            thread::sleep(Duration::from_secs(30));
            Ok(())
        }
        "/redirect" => stream.write_all(head("302 Found", "Location: /clip\r\n").as_bytes()),
        "/circle" => stream.write_all(head("302 Found", "Location: /circle\r\n").as_bytes()),
        "/to-file" => stream.write_all(head("302 Found", "Location: file:///etc/passwd\r\n").as_bytes()),
        _ => stream.write_all(head("404 Not Found", "Content-Length: 0\r\n").as_bytes()),
    };
}
