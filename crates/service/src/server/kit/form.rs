//! Uploads: multipart forms read to their end, into memory or onto the disk, within limits of bytes and
//! time, before anything else is taken for them.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::server::kit::bodies::Bodies;
use crate::server::kit::error::{ApiError, Problem};
use crate::server::kit::limits::Limits;
use crate::server::kit::upload_sink::{OnDisk, Taker, Writing};

/// Seconds after which a client whose upload found no room may try again.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// So long, and so often, an upload that found no room looks for that of slower ones.
const ROOM_WAIT: Duration = Duration::from_secs(1);
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// Fields of plain text that are kept, and bytes of each; more of one is dropped.
const TEXTS_MAX: usize = 16;
const TEXT_MAX: usize = 4096;

/// Bytes of uploads at hand, over all requests.
#[derive(Default)]
pub struct Uploads(Arc<AtomicU64>);

/// A share of them, given back when dropped.
struct ByteReservation {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl ByteReservation {
    /// The same, and where there is no room, the slowest bodies go for it.
    async fn take_from(&mut self, bodies: Option<&Bodies>, bytes: u64, most: u64) -> bool {
        let end = Instant::now() + ROOM_WAIT;
        while !self.take(bytes, most) {
            if Instant::now() >= end || !bodies.is_some_and(Bodies::make_room) {
                return false;
            }
            sleep(ROOM_LOOK).await;
        }
        true
    }

    /// Takes more; `false` where that passes `most` over all shares.
    fn take(&mut self, bytes: u64, most: u64) -> bool {
        let fits = |all: u64| all.checked_add(bytes).filter(|all| *all <= most);
        let taken = self.all.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for ByteReservation {
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
pub struct UploadForm<F = File> {
    pub files: Vec<F>,
    pub texts: Vec<(String, String)>,
    _share: ByteReservation,
}

/// Waits for the next piece of an upload, but not beyond its time. How its client gets on is seen to by
/// [`crate::server::kit::bodies`].
async fn before<T>(end: Instant, piece: impl Future<Output = T>) -> Result<T, ApiError> {
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "The upload took too long");
    timeout_at(end, piece).await.map_err(late)
}

impl Uploads {
    /// Reads all files that stand in `field` into memory.
    ///
    /// # Errors
    /// 422 where the body is no form or has no such file, 400 where it is malformed, 413 beyond
    /// the limits, 408 where it takes too long, 429 where too many uploads are at hand.
    pub async fn read(
        &self,
        request: Request,
        field: &'static str,
        many: bool,
        limits: &Limits,
    ) -> Result<UploadForm, ApiError> {
        let form = self.parts(request, field, many, limits, None, || Ok(Vec::new())).await?;
        let files = form.files.into_iter().map(|(name, bytes)| File { name, bytes: bytes.into() }).collect();
        Ok(UploadForm { files, texts: form.texts, _share: form._share })
    }

    /// Reads the one file that stands in `field` onto the file system of a folder; of an upload that is `refused` nothing
    /// is kept, and it is read on only so that its client gets to know.
    ///
    /// # Errors
    /// Those of [`Uploads::read`], 503 where there is no room for it, and `refused`.
    pub async fn to_disk(
        &self,
        request: Request,
        field: &'static str,
        folder: &Path,
        limits: &Limits,
        refused: Option<ApiError>,
    ) -> Result<UploadForm<OnDisk>, ApiError> {
        let form = self.parts(request, field, false, limits, refused, || Writing::begin(folder)).await?;
        let mut files = Vec::new();
        for (_, writing) in form.files {
            files.push(writing.end().await?);
        }
        Ok(UploadForm { files, texts: form.texts, _share: form._share })
    }

    async fn parts<T: Taker>(
        &self,
        request: Request,
        field: &'static str,
        many: bool,
        limits: &Limits,
        refused: Option<ApiError>,
        begin: impl Fn() -> Result<T, ApiError>,
    ) -> Result<UploadForm<(String, T)>, ApiError> {
        let length = request.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits.form_bytes + limits.drain_bytes) {
            return Err(too_large(limits.form_bytes));
        }
        let bodies = request.extensions().get::<Arc<Bodies>>().cloned();
        let Ok(mut parts) = Multipart::from_request(request, &()).await else { return Err(missing(field)) };
        let share = ByteReservation { all: self.0.clone(), bytes: 0 };
        let mut reading = FormReader { files: Vec::new(), share, refused, refused_bytes: 0 };
        let mut texts = Vec::new();
        let (end, mut received) = (Instant::now() + limits.upload_time, 0);
        loop {
            let part = before(end, parts.next_field()).await?.map_err(|e| malformed(&e, limits))?;
            let Some(mut part) = part else { break };
            let wanted = part.name() == Some(field) && (many || reading.files.is_empty());
            let name = part.file_name().filter(|name| wanted && !name.is_empty()).map(str::to_owned);
            if name.is_some() && reading.files.len() >= limits.files {
                let words = format!("At most {} files are taken at a time", limits.files);
                reading.refuse(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words));
            }
            let text = part.name().filter(|_| part.file_name().is_none() && texts.len() < TEXTS_MAX).map(str::to_owned);
            let mut file = name
                .filter(|_| reading.refused.is_none())
                .map(|name| begin().map(|taker| (name, taker)))
                .transpose()?;
            let mut words = Vec::new();
            while let Some(piece) = before(end, part.chunk()).await?.map_err(|e| malformed(&e, limits))? {
                received += piece.len() as u64;
                let taken = file.as_ref().map(|(_, taker)| taker.taken());
                if !reading.counts(&piece, taken, received, limits, bodies.as_deref()).await? {
                    file = None;
                    continue;
                }
                if text.is_some() && words.len() + piece.len() <= TEXT_MAX {
                    words.extend_from_slice(&piece);
                }
                if let Some((_, taker)) = &mut file {
                    taker.take(piece).await?;
                }
            }
            texts.extend(text.zip(String::from_utf8(words).ok()));
            reading.files.extend(file);
        }
        match reading.refused {
            Some(error) => Err(error),
            None if reading.files.is_empty() => Err(missing(field)),
            None => Ok(UploadForm { files: reading.files, texts, _share: reading.share }),
        }
    }
}

/// A form on its way.
struct FormReader<T> {
    files: Vec<(String, T)>,
    share: ByteReservation,
    /// Why it will not be taken; it is read on for a while, so that the client gets to know.
    refused: Option<ApiError>,
    refused_bytes: u64,
}

impl<T> FormReader<T> {
    fn refuse(&mut self, error: ApiError) {
        self.refused.get_or_insert(error);
        self.files.clear();
    }

    /// Counts a piece, of a file of which so much is `taken`, or of another field; whether it is to be kept.
    async fn counts(
        &mut self,
        piece: &[u8],
        taken: Option<u64>,
        received: u64,
        limits: &Limits,
        bodies: Option<&Bodies>,
    ) -> Result<bool, ApiError> {
        let length = piece.len() as u64;
        if self.refused.is_some() {
            self.refused_bytes += length;
            let enough = self.refused_bytes > limits.drain_bytes;
            return if enough { self.refused.take().map_or(Ok(false), Err) } else { Ok(false) };
        }
        if received > limits.form_bytes {
            self.refuse(too_large(limits.form_bytes));
        } else if taken.is_some_and(|taken| taken + length > limits.file_bytes) {
            self.refuse(too_large(limits.file_bytes));
        } else if taken.is_some() && !self.share.take_from(bodies, length, limits.uploads_bytes).await {
            let words = "Too many uploads at the moment; try again later";
            self.refuse(ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, FULL_RETRY));
        }
        Ok(self.refused.is_none())
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
        Limits { file_bytes: 10, form_bytes: 40, drain_bytes: 1000, files: 2, uploads_bytes: 20, ..Limits::default() }
    }

    fn read(uploads: &Uploads, body: Body, many: bool) -> Result<UploadForm, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(uploads.read(request(body), "file", many, &small()))
    }

    fn names(form: Result<UploadForm, ApiError>) -> Result<Vec<String>, u16> {
        let names = |form: UploadForm| form.files.iter().map(|f| format!("{}={}", f.name, f.bytes.len())).collect();
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
        let brief = Limits { upload_time: Duration::from_millis(50), ..small() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let late = runtime.block_on(uploads.read(request(hanging), "file", false, &brief)).err().unwrap();
        assert_eq!(late.status().as_u16(), 408);
        assert_eq!(uploads.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn files_on_the_disk_have_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limits = Limits { file_bytes: 1_500_000, form_bytes: 1_900_000, uploads_bytes: 2_000_000, ..small() };
        let large = "x".repeat((1 << 20) + 7);
        let to_disk = |file: &str| {
            let body = Body::from(part("task", None, "a") + &part("file", Some("a"), file) + "--B--\r\n");
            runtime.block_on(uploads.to_disk(request(body), "file", folder.path(), &limits, None))
        };
        let form = to_disk(&large).unwrap();
        assert_eq!((form.files.len(), &form.texts[..]), (1, &[("task".to_owned(), "a".to_owned())][..]));
        assert_eq!(form.files[0].hash, blake3::hash(large.as_bytes()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // Places are counted over all, and come back
        assert_eq!(to_disk(&"x".repeat(1_400_000)).err().unwrap().status().as_u16(), 429);
        upscaled_core::atomic_file::name(&form.files[0].file, &folder.path().join("a")).unwrap();
        drop(form);
        assert_eq!(uploads.0.load(Ordering::SeqCst), 0);
        assert_eq!(std::fs::read_to_string(folder.path().join("a")).unwrap(), large);
        assert_eq!(to_disk(&"x".repeat(1_500_001)).err().unwrap().status().as_u16(), 413);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let brief = Limits { upload_time: Duration::from_millis(10), ..limits.clone() };
        let begun = stream::iter([Ok::<_, std::io::Error>(part("file", Some("a"), "12"))]);
        let hanging = request(Body::from_stream(begun.chain(stream::pending())));
        let late = runtime.block_on(uploads.to_disk(hanging, "file", folder.path(), &brief, None)).err().unwrap();
        assert_eq!(late.status().as_u16(), 408);
        assert_eq!(uploads.0.load(Ordering::SeqCst), 0);
    }
}
