//! Uploads: multipart forms read to their end, within limits of bytes and time, before anything
//! else is taken for them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use serde_json::Value;

use crate::http::error::{ApiError, Problem};
use crate::http::limits::Limits;

/// Seconds after which a client whose upload found no room may try again.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// Fields of plain text that are kept, and bytes of each; more of one is dropped.
const TEXTS_MAX: usize = 16;
const TEXT_MAX: usize = 4096;

/// Bytes of uploads in memory, over all requests.
#[derive(Default)]
pub struct Uploads(Arc<AtomicU64>);

/// A share of them, given back when dropped.
struct Share {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Share {
    /// Takes more; `false` where that passes `most` over all shares.
    fn take(&mut self, bytes: u64, most: u64) -> bool {
        let fits = |all: u64| all.checked_add(bytes).filter(|all| *all <= most);
        let taken = self.all.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// An uploaded file.
#[derive(Clone)]
pub struct File {
    /// As the client called it.
    pub name: String,
    pub bytes: Bytes,
}

/// The files of one field, in their order, and the fields that are plain text.
pub struct Form {
    pub files: Vec<File>,
    pub texts: Vec<(String, String)>,
    _share: Share,
}

/// How an upload gets on.
struct Pace<'a> {
    start: Instant,
    received: u64,
    limits: &'a Limits,
}

impl Pace<'_> {
    /// Waits for the next piece, but not for ever.
    async fn next<T>(&self, piece: impl Future<Output = T>) -> Result<T, ApiError> {
        let late = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "The upload was too slow");
        if self.start.elapsed() > self.limits.time_for(self.received) {
            return Err(late());
        }
        tokio::time::timeout(self.limits.stall, piece).await.map_err(|_| late())
    }
}

impl Uploads {
    /// Reads all files that stand in `field`.
    ///
    /// # Errors
    /// 422 where the body is no form or has no such file, 400 where it is malformed, 413 beyond
    /// the limits, 408 where it comes too slowly, 429 where too many uploads are at hand.
    pub async fn read(
        &self,
        request: Request,
        field: &'static str,
        many: bool,
        limits: &Limits,
    ) -> Result<Form, ApiError> {
        let length = request.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits.form_bytes + limits.drain_bytes) {
            return Err(too_large(limits.form_bytes));
        }
        let Ok(mut parts) = Multipart::from_request(request, &()).await else { return Err(missing(field)) };
        let share = Share { all: self.0.clone(), bytes: 0 };
        let mut reading = Reading { files: Vec::new(), share, refused: None, refused_bytes: 0 };
        let mut texts = Vec::new();
        let mut pace = Pace { start: Instant::now(), received: 0, limits };
        loop {
            let part = pace.next(parts.next_field()).await?.map_err(|e| malformed(&e, limits))?;
            let Some(mut part) = part else { break };
            let wanted = part.name() == Some(field) && (many || reading.files.is_empty());
            let name = part.file_name().filter(|name| wanted && !name.is_empty()).map(str::to_owned);
            if name.is_some() && reading.files.len() >= limits.files {
                let words = format!("At most {} files are taken at a time", limits.files);
                reading.refuse(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words));
            }
            let text = part.name().filter(|_| part.file_name().is_none() && texts.len() < TEXTS_MAX).map(str::to_owned);
            let mut bytes = Vec::new();
            let mut words = Vec::new();
            while let Some(piece) = pace.next(part.chunk()).await?.map_err(|e| malformed(&e, limits))? {
                pace.received += piece.len() as u64;
                reading.piece(&piece, name.is_some(), &mut bytes, pace.received, limits)?;
                if text.is_some() && words.len() + piece.len() <= TEXT_MAX {
                    words.extend_from_slice(&piece);
                }
            }
            texts.extend(text.zip(String::from_utf8(words).ok()));
            if let (Some(name), None) = (name, &reading.refused) {
                reading.files.push(File { name, bytes: bytes.into() });
            }
        }
        match reading.refused {
            Some(error) => Err(error),
            None if reading.files.is_empty() => Err(missing(field)),
            None => Ok(Form { files: reading.files, texts, _share: reading.share }),
        }
    }
}

/// A form on its way.
struct Reading {
    files: Vec<File>,
    share: Share,
    /// Why it will not be taken; it is read on for a while, so that the client gets to know.
    refused: Option<ApiError>,
    refused_bytes: u64,
}

impl Reading {
    fn refuse(&mut self, error: ApiError) {
        self.refused.get_or_insert(error);
        self.files.clear();
    }

    /// Takes a piece of a file, or of another field, which only counts.
    fn piece(
        &mut self,
        piece: &[u8],
        wanted: bool,
        file: &mut Vec<u8>,
        received: u64,
        limits: &Limits,
    ) -> Result<(), ApiError> {
        if self.refused.is_some() {
            *file = Vec::new();
            self.refused_bytes += piece.len() as u64;
            let enough = self.refused_bytes > limits.drain_bytes;
            return if enough { self.refused.take().map_or(Ok(()), Err) } else { Ok(()) };
        }
        if received > limits.form_bytes {
            self.refuse(too_large(limits.form_bytes));
        } else if wanted && (file.len() + piece.len()) as u64 > limits.file_bytes {
            self.refuse(too_large(limits.file_bytes));
        } else if wanted && !self.share.take(piece.len() as u64, limits.uploads_bytes) {
            let words = "Too many uploads at the moment; try again later";
            self.refuse(ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, FULL_RETRY));
        } else if wanted {
            file.extend_from_slice(piece);
        }
        Ok(())
    }
}

fn too_large(most: u64) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The upload is larger than {} MiB", most >> 20))
}

fn missing(field: &'static str) -> ApiError {
    let (kind, message) = ("missing", "Field required");
    ApiError::fields(&[Problem { kind, place: ["body", field], message, input: Value::Null }])
}

fn malformed(error: &MultipartError, limits: &Limits) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limits.form_bytes),
        _ => ApiError::new(StatusCode::BAD_REQUEST, "There was an error parsing the body"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};

    fn part(name: &str, file: Option<&str>, content: &str) -> String {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n")
    }

    fn request(body: Body) -> Request {
        Request::post("/").header("content-type", "multipart/form-data; boundary=B").body(body).unwrap()
    }

    fn small() -> Limits {
        Limits {
            file_bytes: 10,
            form_bytes: 40,
            drain_bytes: 1000,
            files: 2,
            uploads_bytes: 20,
            stall: Duration::from_millis(50),
            ..Limits::default()
        }
    }

    fn read(uploads: &Uploads, body: Body, many: bool) -> Result<Form, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(uploads.read(request(body), "file", many, &small()))
    }

    fn names(form: Result<Form, ApiError>) -> Result<Vec<String>, u16> {
        let names = |form: Form| form.files.iter().map(|f| format!("{}={}", f.name, f.bytes.len())).collect();
        form.map(names).map_err(|e| e.status().as_u16())
    }

    #[test]
    fn files_of_a_form() {
        let uploads = Uploads::default();
        let cases = [
            (vec![part("file", Some("a"), "123")], false, Ok(vec!["a=3"])),
            (
                vec![part("x", None, "1"), part("file", Some("a"), "1"), part("file", Some("b"), "")],
                true,
                Ok(vec!["a=1", "b=0"]),
            ),
            (vec![part("file", Some("a"), "1"), part("file", Some("b"), "")], false, Ok(vec!["a=1"])),
            (vec![part("other", Some("a"), "1")], false, Err(422)),
            (vec![part("file", None, "1")], false, Err(422)),
            (vec![part("file", Some(""), "")], false, Err(422)),
            (vec![], false, Err(400)),
            (vec![part("file", Some("a"), "12345678901")], false, Err(413)),
            (vec![part("x", None, &"1".repeat(50)), part("file", Some("a"), "1")], false, Err(413)),
            (
                vec![part("file", Some("a"), "1"), part("file", Some("b"), "1"), part("file", Some("c"), "1")],
                true,
                Err(413),
            ),
            (vec![part("file", Some("a"), &"1".repeat(5000))], false, Err(413)),
        ];
        for (parts, many, want) in cases {
            let end = if parts.is_empty() { "" } else { "--B--\r\n" };
            let body = Body::from(parts.concat() + end);
            let want = want.map(|names| names.into_iter().map(String::from).collect());
            assert_eq!(names(read(&uploads, body, many)), want, "{parts:?}");
        }
        let plain = Request::post("/").body(Body::from("x")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(uploads.read(plain, "file", false, &small())).err().unwrap();
        assert_eq!(error.status().as_u16(), 422);
        assert_eq!(uploads.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn memory_is_shared_and_slow_clients_go() {
        let uploads = Uploads::default();
        let full = || Body::from(part("file", Some("a"), "123456789") + "--B--\r\n");
        let (first, second) = (read(&uploads, full(), false).unwrap(), read(&uploads, full(), false).unwrap());
        assert_eq!(names(read(&uploads, full(), false)), Err(429));
        drop((first, second));
        assert!(read(&uploads, full(), false).is_ok());
        let begun = stream::iter([Ok::<_, std::io::Error>(part("file", Some("a"), "12"))]);
        let hanging = Body::from_stream(begun.chain(stream::pending()));
        assert_eq!(names(read(&uploads, hanging, false)), Err(408));
        assert_eq!(uploads.0.load(Ordering::SeqCst), 0);
    }
}
