//! Bodies of requests on their way: each moves on at a least rate, and so many are read at a time.
//!
//! A body takes its place when the resource begins to read it: behind its header and the guard, and never where nobody
//! reads it. Where all places are taken, the body that gets on worst makes room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::http::error::ApiError;
use crate::http::pace::{Behind, Least, Pace};
use crate::http::seats::Seat;

/// A body waits so long for a place, looks for one so often, and may be sent again after so long.
const WAIT_MAX: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_secs(2);

/// Why a body is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing came, or too little.
    Slow,
    /// Another one takes its place.
    Overtaken,
    /// It found no place.
    Full,
}

impl End {
    fn answer(self) -> Response {
        let error = match self {
            End::Slow => ApiError::new(StatusCode::REQUEST_TIMEOUT, "The request's body came too slowly"),
            End::Overtaken => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "Too many requests at the moment, and this one's body came the slowest; try again later",
            ),
            End::Full => {
                let words = "Too many requests at the moment; try again later";
                ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, RETRY)
            }
        };
        let mut response = error.into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// The bodies of a listener that are being read.
pub struct Bodies {
    most: usize,
    least: Least,
    all: Mutex<All>,
    /// Those that look for a place, in the order in which they came.
    line: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct All {
    next: u64,
    bodies: HashMap<u64, Reading>,
}

struct Reading {
    pace: Pace,
    received: u64,
    end: Option<oneshot::Sender<End>>,
}

impl Bodies {
    pub fn new(most: usize, least: Least) -> Arc<Bodies> {
        Arc::new(Bodies { most, least, all: Mutex::default(), line: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the slowest of the bodies of which something was received, for the memory that it holds; whether there was
    /// one that is slow.
    pub fn make_room(&self) -> bool {
        self.end_slowest(|body| body.received > 0)
    }

    fn end_slowest(&self, may_end: impl Fn(&Reading) -> bool) -> bool {
        let (mut all, now) = (self.lock(), Instant::now());
        let bodies = all.bodies.iter().filter(|(_, body)| may_end(body));
        let behind = bodies.map(|(id, body)| (body.pace.behind(now), *id));
        let slowest: Option<(Behind, u64)> = behind.filter(|(behind, _)| behind.is_slow()).max();
        let Some(body) = slowest.and_then(|(_, id)| all.bodies.remove(&id)) else { return false };
        if let Some(end) = body.end {
            let _ = end.send(End::Overtaken);
        }
        true
    }

    fn try_enter(&self, end: &mut Option<oneshot::Sender<End>>) -> Option<u64> {
        let mut all = self.lock();
        if all.bodies.len() >= self.most {
            return None;
        }
        let id = all.next;
        all.next += 1;
        all.bodies.insert(id, Reading { pace: Pace::default(), received: 0, end: end.take() });
        Some(id)
    }

    /// A place; [`End::Full`] is told where there is none.
    async fn enter(self: &Arc<Self>, end: oneshot::Sender<End>) -> Option<Place> {
        let mut end = Some(end);
        let limit = Instant::now() + WAIT_MAX;
        if let Ok(_turn) = timeout_at(limit, self.line.lock()).await {
            loop {
                if let Some(id) = self.try_enter(&mut end) {
                    return Some(Place { bodies: self.clone(), id });
                }
                if self.end_slowest(|_| true) {
                    continue;
                }
                if Instant::now() >= limit {
                    break;
                }
                sleep(LOOK).await;
            }
        }
        let _ = end?.send(End::Full);
        None
    }
}

/// A body's place, until dropped.
struct Place {
    bodies: Arc<Bodies>,
    id: u64,
}

impl Place {
    /// Waits for the next piece; `None` when the body is given up, which is told.
    async fn next(&self, body: &mut BodyDataStream) -> Option<Option<<BodyDataStream as stream::Stream>::Item>> {
        let limit = {
            let mut all = self.bodies.lock();
            let pace = &mut all.bodies.get_mut(&self.id)?.pace;
            pace.wait(Instant::now());
            pace.limit(&self.bodies.least)?
        };
        let piece = timeout_at(limit, body.next()).await;
        let mut all = self.bodies.lock();
        let Ok(piece) = piece else {
            if let Some(end) = all.bodies.remove(&self.id)?.end {
                let _ = end.send(End::Slow);
            }
            return None;
        };
        let length = piece.as_ref().and_then(|piece| piece.as_ref().ok()).map_or(0, |bytes| bytes.len() as u64);
        let reading = all.bodies.get_mut(&self.id)?;
        reading.received += length;
        reading.pace.moved(length, &self.bodies.least, Instant::now());
        Some(piece)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bodies.lock().bodies.remove(&self.id);
    }
}

/// A body before and after its first piece was asked for.
enum Stage {
    Untouched(Arc<Bodies>, oneshot::Sender<End>),
    Read(Place),
}

/// The body as the resource reads it. One that is given up never ends: the request does.
fn read(bodies: Arc<Bodies>, body: Body, seat: Option<Arc<Seat>>, end: oneshot::Sender<End>) -> Body {
    let start = (Stage::Untouched(bodies, end), body.into_data_stream());
    Body::from_stream(stream::unfold(start, move |(stage, mut body)| {
        let seat = seat.clone();
        async move {
            let place = match stage {
                Stage::Read(place) => Some(place),
                Stage::Untouched(bodies, end) => bodies.enter(end).await,
            };
            let piece = match &place {
                Some(place) => place.next(&mut body).await,
                None => None,
            };
            let (Some(place), Some(piece)) = (place, piece) else { return std::future::pending().await };
            if piece.is_none()
                && let Some(seat) = seat
            {
                seat.has_sent_all();
            }
            Some((piece?, (Stage::Read(place), body)))
        }
    }))
}

/// The middleware: bodies within limits. Whatever a resource is doing with one that is given up ends there.
pub async fn pass(State(bodies): State<Arc<Bodies>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (end, ended) = oneshot::channel();
    let (mut parts, body) = request.into_parts();
    let seat = parts.extensions.get::<Arc<Seat>>().cloned();
    parts.extensions.insert(bodies.clone());
    let request = Request::from_parts(parts, read(bodies, body, seat, end));
    tokio::select! {
        biased;
        Ok(end) = ended => end.answer(),
        response = next.run(request) => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use axum::Router;
    use axum::body::Bytes;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::task::JoinHandle;

    const LEAST: Least = Least { stall: Duration::from_secs(20), grace: Duration::from_secs(30), rate: 1000 };

    /// Two places.
    fn app() -> Router {
        Router::new()
            .route("/", post(|body: Bytes| async move { body.len().to_string() }))
            .route("/unread", post(|| async { "unread" }))
            .layer(from_fn_with_state(Bodies::new(2, LEAST), pass))
    }

    type Answer = (u16, Duration, String);

    /// Sends a body, and what was answered, and when.
    fn send(app: &Router, path: &str, body: Body) -> JoinHandle<Answer> {
        let (start, request) = (Instant::now(), Request::post(path).body(body).unwrap());
        let answer = TowerToHyperService::new(app.clone()).call(request);
        tokio::spawn(async move {
            let answer = answer.await.unwrap();
            let (status, time) = (answer.status().as_u16(), start.elapsed());
            assert_eq!(answer.headers().contains_key(CONNECTION), status != 200, "{status}");
            let text = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
            (status, time, String::from_utf8_lossy(&text).into_owned())
        })
    }

    /// Pieces of so many bytes with so many milliseconds before each; then, unless it ends, nothing for ever.
    fn pieces(count: usize, bytes: usize, pause: u64, ends: bool) -> Body {
        let piece = move |_| async move {
            sleep(Duration::from_millis(pause)).await;
            Ok::<_, Infallible>(vec![7; bytes])
        };
        let all = stream::iter(0..count).then(piece);
        if ends { Body::from_stream(all) } else { Body::from_stream(all.chain(stream::pending())) }
    }

    fn stalled() -> Body {
        pieces(1, 10, 0, false)
    }

    fn whole() -> Body {
        pieces(2, 10, 0, true)
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_body_moves_on_or_ends() {
        let app = app();
        let about = |(status, time, _): Answer| (status, time.as_secs());
        assert_eq!(about(send(&app, "/", stalled()).await.unwrap()), (408, 20));
        // Piece by piece, and much too slow
        assert_eq!(about(send(&app, "/", pieces(100, 1, 1000, true)).await.unwrap()), (408, 30));
        // At the least rate a body may take all the time it needs
        assert_eq!(about(send(&app, "/", pieces(100, 2000, 1900, true)).await.unwrap()), (200, 190));
        // What nobody reads holds up nobody
        let unread = send(&app, "/unread", stalled()).await.unwrap();
        assert_eq!((about((unread.0, unread.1, String::new())), unread.2.as_str()), ((200, 0), "unread"));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_slowest_makes_room() {
        let app = app();
        let fast = send(&app, "/", pieces(200, 100 << 10, 50, true));
        let slow = send(&app, "/", stalled());
        sleep(Duration::from_secs(1)).await;
        let (status, time, text) = send(&app, "/", whole()).await.unwrap();
        assert_eq!((status, text.as_str()), (200, "20"));
        assert!(time < Duration::from_millis(100), "{time:?}");
        let (status, _, text) = slow.await.unwrap();
        assert!(status == 408 && text.contains("slowest"), "{text}");
        // A crowd of those who stall keeps nobody out
        let crowd: Vec<_> = (0..100).map(|_| send(&app, "/", stalled())).collect();
        let (status, time, _) = send(&app, "/", whole()).await.unwrap();
        assert!(status == 503 || time < Duration::from_secs(3), "{status} after {time:?}");
        sleep(Duration::from_secs(5)).await;
        let (status, time, _) = send(&app, "/", whole()).await.unwrap();
        assert!(status == 200 && time < Duration::from_millis(300), "{status} after {time:?}");
        assert_eq!(fast.await.unwrap().2, (200 * (100 << 10)).to_string());
        for stalled in crowd {
            assert!(matches!(stalled.await.unwrap().0, 408 | 503));
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn those_who_get_on_are_waited_for() {
        let app = app();
        let fast = || pieces(100, 200 << 10, 100, true);
        let two = [send(&app, "/", fast()), send(&app, "/", fast())];
        sleep(Duration::from_millis(10)).await;
        let (status, time, _) = send(&app, "/", whole()).await.unwrap();
        assert_eq!((status, time.as_secs()), (503, 2));
        sleep(Duration::from_secs(7)).await;
        let (status, time, _) = send(&app, "/", whole()).await.unwrap();
        assert!(status == 200 && time > Duration::from_millis(500), "{status} after {time:?}");
        for answer in two {
            assert_eq!(answer.await.unwrap().0, 200);
        }
    }
}
