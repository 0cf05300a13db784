//! Bodies of answers that lie in files, a piece at a time: a slow reader holds a connection and a piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use futures_util::stream;

/// Bytes of a piece.
const PIECE: u64 = 64 << 10;

/// A file from this byte on.
#[derive(Clone)]
pub struct FileSource(pub Arc<File>, pub u64);

impl FileSource {
    async fn read(&self, at: u64, length: u64) -> io::Result<Bytes> {
        let (file, from) = (self.0.clone(), self.1 + at);
        let read = move || {
            let mut piece = vec![0; length as usize];
            file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece))
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// What a request asks of a resource that never changes under its name.
enum RequestedPart {
    All,
    /// First byte and length.
    Range(u64, u64),
    Unsatisfiable,
    /// The client has it.
    Known,
}

fn part(headers: &HeaderMap, length: u64, tag: &str) -> RequestedPart {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let names =
        |list: &str| list.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || one == tag);
    if text(IF_NONE_MATCH).is_some_and(names) {
        return RequestedPart::Known;
    }
    let Some(range) = text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|of| of.trim() == tag)) else {
        return RequestedPart::All;
    };
    // What is no range, or more than one, may be answered with all.
    let Ok(parsed) = http_range_header::parse_range_header(range) else { return RequestedPart::All };
    if parsed.ranges.len() > 1 {
        return RequestedPart::All;
    }
    match parsed.validate(length) {
        Ok(ranges) => {
            let range = &ranges[0];
            RequestedPart::Range(*range.start(), range.end() + 1 - range.start())
        }
        Err(_) => RequestedPart::Unsatisfiable,
    }
}

/// As [`of`], or the part of it that the request asks for. `tag`: names these bytes, in quotes.
pub fn ranged(headers: &HeaderMap, source: FileSource, length: u64, kind: &'static str, tag: &str) -> Response<Body> {
    let (status, mut response, told) = match part(headers, length, tag) {
        RequestedPart::All => (StatusCode::OK, of(source, length, kind), None),
        RequestedPart::Range(at, count) => {
            let told = format!("bytes {at}-{}/{length}", at + count - 1);
            (StatusCode::PARTIAL_CONTENT, of(FileSource(source.0, source.1 + at), count, kind), Some(told))
        }
        RequestedPart::Unsatisfiable => {
            (StatusCode::RANGE_NOT_SATISFIABLE, Response::new(Body::empty()), Some(format!("bytes */{length}")))
        }
        RequestedPart::Known => (StatusCode::NOT_MODIFIED, Response::new(Body::empty()), None),
    };
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let words = told.and_then(|told| HeaderValue::from_str(&told).ok()).map(|told| (CONTENT_RANGE, told));
    let tag = HeaderValue::from_str(tag).ok().map(|tag| (ETAG, tag));
    out.extend(words.into_iter().chain(tag).map(|(name, value)| (Some(name), value)));
    response
}

/// An answer of `length` bytes.
pub fn of(source: FileSource, length: u64, kind: &'static str) -> Response<Body> {
    let pieces = stream::try_unfold(0u64, move |at| {
        let source = source.clone();
        async move {
            if at >= length {
                return Ok::<_, io::Error>(None);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn parts_of_a_whole() {
        let mut spool = crate::server::kit::result_links::Spool::new().unwrap();
        spool.append(b"..0123456789.").unwrap();
        let ask = |pairs: &[(HeaderName, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
            let source = FileSource(spool.file().clone(), 2);
            ranged(&headers.collect(), source, 10, "video/mp4", "\"t\"")
        };
        for (range, status, told, body) in [
            ("bytes=0-0", 206, "bytes 0-0/10", "0"),
            ("bytes=2-4", 206, "bytes 2-4/10", "234"),
            ("bytes=7-", 206, "bytes 7-9/10", "789"),
            ("bytes=7-99", 206, "bytes 7-9/10", "789"),
            ("bytes=-3", 206, "bytes 7-9/10", "789"),
            ("bytes=10-", 416, "bytes */10", ""),
            ("bytes=0-1,3-4", 200, "", "0123456789"),
            ("lines=1-2", 200, "", "0123456789"),
            ("bytes=x", 200, "", "0123456789"),
        ] {
            let answer = ask(&[(RANGE, range)]);
            assert_eq!(answer.status().as_u16(), status, "{range}");
            let header = |name| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
            assert_eq!((header(CONTENT_RANGE), header(ACCEPT_RANGES), header(ETAG)), (told, "bytes", "\"t\""));
            let got = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
            assert_eq!(got, body.as_bytes(), "{range}");
        }
        let status = |pairs: &[(HeaderName, &str)]| ask(pairs).status().as_u16();
        assert_eq!(status(&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"t\"")]), 206);
        assert_eq!(status(&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"other\"")]), 200);
        assert_eq!(status(&[(IF_NONE_MATCH, "\"a\", W/\"t\"")]), 304);
    }
}
