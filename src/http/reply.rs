//! Bodies of answers, in pieces: a reader that is too slow is dropped, and never holds more than a
//! connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use futures_util::stream;
use tokio::time::Instant;

use crate::http::limits::Limits;

/// Bytes of a piece.
const PIECE: u64 = 256 << 10;

/// Where an answer's bytes are.
#[derive(Clone)]
pub enum Source {
    Memory(Bytes),
    /// From this byte on.
    File(Arc<File>, u64),
}

impl Source {
    async fn read(&self, at: u64, length: u64) -> io::Result<Bytes> {
        match self {
            Source::Memory(bytes) => Ok(bytes.slice(at as usize..(at + length) as usize)),
            Source::File(file, start) => {
                let (file, from) = (file.clone(), start + at);
                let read = move || {
                    let mut piece = vec![0; length as usize];
                    file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece))
                };
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
        }
    }
}

/// An answer of `length` bytes, which must have gone out within the limits' time.
pub fn of(source: Source, length: u64, kind: &'static str, limits: &Limits) -> Response<Body> {
    let end = Instant::now() + limits.time_for(length);
    let pieces = stream::try_unfold(0u64, move |at| {
        let source = source.clone();
        async move {
            if at >= length {
                return Ok(None);
            }
            if Instant::now() > end {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            let piece = source.read(at, (length - at).min(PIECE)).await?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, next)))
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
