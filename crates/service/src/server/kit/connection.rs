//! One connection: its requests one after the other, at the pace that is asked of its client.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use axum::response::IntoResponse;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::server::kit::auth::HEALTH;
use crate::server::kit::error::ApiError;
use crate::server::kit::limits::Limits;
use crate::server::kit::seats::Seat;

/// Bytes that the kernel holds for a client beyond what is on its way: one who does not read is noticed soon, and holds
/// little.
const UNSENT_MAX: u32 = 128 << 10;
/// A client who was refused while it was sending may go on for so long, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes read at a time meanwhile.
const LINGER_BLOCK: usize = 16 << 10;
/// A client who found too many others may come back after this.
const FULL_RETRY: Duration = Duration::from_secs(2);

/// Answers the requests of a connection until it ends, or another one needs its place.
pub async fn serve(stream: TcpStream, seat: Seat, app: Router, limits: &Limits, watcher: Watcher) {
    let _ = stream.set_nodelay(true);
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_MAX) {
        tracing::debug!("a connection's unsent bytes are not bounded: {error}");
    }
    let seat = Arc::new(seat);
    let app = TowerToHyperService::new(app);
    let caller = seat.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let seat = caller.clone();
        let begins = seat.begins_call(!request.body().is_end_stream()) || request.uri().path() == HEALTH;
        request.extensions_mut().insert(seat.clone());
        let answer = begins.then(|| app.call(request));
        async move {
            let response = match answer {
                Some(answer) => answer.await?,
                None => full(),
            };
            Ok::<_, Infallible>(counted(response, seat))
        }
    });
    let drain = limits.drain_bytes;
    let timer = Box::pin(sleep_until(Instant::now()));
    let io = Io { stream: Some(stream), seat: seat.clone(), timer, drain };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        ended = watcher.watch(connection) => {
            if let Err(error) = ended {
                tracing::debug!("a connection ended: {error}");
            }
        }
        () = seat.over() => tracing::debug!("a connection was ended for another one"),
    }
}

fn full() -> Response<Body> {
    let words = "Too many requests at the moment; try again later";
    let mut response = ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, FULL_RETRY).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer, counted where it is in memory.
fn counted(response: Response<Body>, seat: Arc<Seat>) -> Response<Body> {
    let response = match response.body().size_hint().exact() {
        Some(bytes) if !seat.holds(bytes) => full(),
        _ => response,
    };
    response.map(|inner| Body::new(ResponseBody { inner, seat }))
}

/// An answer's body, which tells when there is no more of it.
struct ResponseBody {
    inner: Body,
    seat: Arc<Seat>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.seat.ends_call();
    }
}

/// A socket whose reader has to get on.
struct Io {
    stream: Option<TcpStream>,
    seat: Arc<Seat>,
    timer: Pin<Box<Sleep>>,
    /// Bytes that are read on from a client who was refused.
    drain: u64,
}

impl Io {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Returns what came of writing; an error where the client takes too little.
    fn judged(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Ready(Ok(bytes)) => self.seat.wrote(*bytes as u64),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let Some(limit) = self.seat.waits_for_reader() else { return Poll::Pending };
                if self.timer.deadline() != limit {
                    self.timer.as_mut().reset(limit);
                }
                if self.timer.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        wrote
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        let wrote = io.stream()?.poll_write(context, bytes);
        io.judged(context, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        let wrote = io.stream()?.poll_write_vectored(context, parts);
        io.judged(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        let flushed = io.stream()?.poll_flush(context);
        if flushed.is_ready() {
            io.seat.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(context)
    }
}

impl Drop for Io {
    /// Closing a socket with unread bytes in it would take the answer from its client.
    fn drop(&mut self) {
        if let (true, Some(stream), Ok(runtime)) =
            (self.seat.is_unread(), self.stream.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(linger(stream, self.seat.clone(), self.drain));
        }
    }
}

/// Reads what a refused client still sends, for a while.
async fn linger(mut stream: TcpStream, seat: Arc<Seat>, mut drain: u64) {
    let read_on = async {
        stream.shutdown().await?;
        let mut block = vec![0; LINGER_BLOCK];
        loop {
            let read = stream.read(&mut block).await? as u64;
            if read == 0 || read > drain {
                return io::Result::Ok(());
            }
            drain -= read;
        }
    };
    tokio::select! {
        _ = timeout(LINGER, read_on) => {}
        () = seat.over() => {}
    }
}
