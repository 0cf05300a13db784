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

use crate::server::kit::error::ApiError;
use crate::server::kit::pace::{Lag, Least, Pace};
use crate::server::kit::seats::Seat;

/// A body waits so long for a place, looks for one so often, and may be sent again after so long.
const WAIT_MAX: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_secs(2);

/// Why a body is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyEnd {
    /// Nothing came, or too little.
    Slow,
    /// Another one takes its place.
    Overtaken,
    /// It found no place.
    Full,
}

impl BodyEnd {
    fn answer(self) -> Response {
        let error = match self {
            BodyEnd::Slow => ApiError::new(StatusCode::REQUEST_TIMEOUT, "The request's body came too slowly"),
            BodyEnd::Overtaken => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "Too many requests at the moment, and this one's body came the slowest; try again later",
            ),
            BodyEnd::Full => {
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
    all: Mutex<AllBodies>,
    /// Those that look for a place, in the order in which they came.
    line: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct AllBodies {
    next: u64,
    bodies: HashMap<u64, BodyReader>,
}

struct BodyReader {
    pace: Pace,
    received: u64,
    end: Option<oneshot::Sender<BodyEnd>>,
}

impl Bodies {
    pub fn new(most: usize, least: Least) -> Arc<Bodies> {
        Arc::new(Bodies { most, least, all: Mutex::default(), line: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, AllBodies> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the slowest of the bodies of which something was received, for the memory that it holds; whether there was
    /// one that is slow.
    pub fn make_room(&self) -> bool {
        self.end_slowest(|body| body.received > 0)
    }

    fn end_slowest(&self, may_end: impl Fn(&BodyReader) -> bool) -> bool {
        let (mut all, now) = (self.lock(), Instant::now());
        let bodies = all.bodies.iter().filter(|(_, body)| may_end(body));
        let behind = bodies.map(|(id, body)| (body.pace.behind(now), *id));
        let slowest: Option<(Lag, u64)> = behind.filter(|(behind, _)| behind.is_slow()).max();
        let Some(body) = slowest.and_then(|(_, id)| all.bodies.remove(&id)) else { return false };
        if let Some(end) = body.end {
            let _ = end.send(BodyEnd::Overtaken);
        }
        true
    }

    fn try_enter(&self, end: &mut Option<oneshot::Sender<BodyEnd>>) -> Option<u64> {
        let mut all = self.lock();
        if all.bodies.len() >= self.most {
            return None;
        }
        let id = all.next;
        all.next += 1;
        all.bodies.insert(id, BodyReader { pace: Pace::default(), received: 0, end: end.take() });
        Some(id)
    }

    /// A place; [`BodyEnd::Full`] is told where there is none.
    async fn enter(self: &Arc<Self>, end: oneshot::Sender<BodyEnd>) -> Option<BodySlot> {
        let mut end = Some(end);
        let limit = Instant::now() + WAIT_MAX;
        if let Ok(_turn) = timeout_at(limit, self.line.lock()).await {
            loop {
                if let Some(id) = self.try_enter(&mut end) {
                    return Some(BodySlot { bodies: self.clone(), id });
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
        let _ = end?.send(BodyEnd::Full);
        None
    }
}

/// A body's place, until dropped.
struct BodySlot {
    bodies: Arc<Bodies>,
    id: u64,
}

impl BodySlot {
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
                let _ = end.send(BodyEnd::Slow);
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

impl Drop for BodySlot {
    fn drop(&mut self) {
        self.bodies.lock().bodies.remove(&self.id);
    }
}

/// A body before and after its first piece was asked for.
enum BodyStage {
    Untouched(Arc<Bodies>, oneshot::Sender<BodyEnd>),
    Read(BodySlot),
}

/// The body as the resource reads it. One that is given up never ends: the request does.
fn read(bodies: Arc<Bodies>, body: Body, seat: Option<Arc<Seat>>, end: oneshot::Sender<BodyEnd>) -> Body {
    let start = (BodyStage::Untouched(bodies, end), body.into_data_stream());
    Body::from_stream(stream::unfold(start, move |(stage, mut body)| {
        let seat = seat.clone();
        async move {
            let place = match stage {
                BodyStage::Read(place) => Some(place),
                BodyStage::Untouched(bodies, end) => bodies.enter(end).await,
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
            Some((piece?, (BodyStage::Read(place), body)))
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

    const LONG: Duration = Duration::from_secs(60);
    const PATIENT: Least = Least { stall: LONG, grace: LONG, rate: 1000 };

    /// Reads the first piece of a body, and the others a while later.
    async fn hold(request: Request) -> String {
        let mut body = request.into_body().into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        sleep(Duration::from_millis(2600)).await;
        let mut length = first.len();
        while let Some(piece) = body.next().await {
            length += piece.unwrap().len();
        }
        length.to_string()
    }

    /// Two places.
    fn app(least: Least) -> Router {
        Router::new()
            .route("/", post(|body: Bytes| async move { body.len().to_string() }))
            .route("/hold", post(hold))
            .route("/unread", post(|| async { "unread" }))
            .layer(from_fn_with_state(Bodies::new(2, least), pass))
    }

    type Answer = (u16, Duration, String);

    /// Sends a body: what was answered, and when.
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

    #[tokio::test(flavor = "current_thread")]
    async fn a_body_moves_on_or_ends() {
        let least = Least { stall: Duration::from_millis(400), grace: Duration::from_millis(600), rate: 1000 };
        let app = app(least);
        // Nothing comes; much too little; enough, for longer than either may last
        let sent = [stalled(), pieces(100, 1, 50, true)].map(|body| send(&app, "/", body));
        let [(first, first_time, words), (second, second_time, _)] = {
            let [first, second] = sent;
            [first.await.unwrap(), second.await.unwrap()]
        };
        assert!(first == 408 && words.contains("too slowly"), "{words}");
        assert!(second == 408 && second_time > first_time, "{second_time:?}");
        assert!(first_time >= least.stall && second_time >= least.grace, "{first_time:?} {second_time:?}");
        let (status, time, text) = send(&app, "/", pieces(20, 400, 50, true)).await.unwrap();
        assert!((status, text.as_str()) == (200, "8000") && time > least.grace, "{status} after {time:?}");
        // What nobody reads is not waited for
        let (status, time, text) = send(&app, "/unread", stalled()).await.unwrap();
        assert!((status, text.as_str()) == (200, "unread") && time < least.stall, "{time:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_slowest_makes_room() {
        let app = app(PATIENT);
        let (kept, slow) = (send(&app, "/hold", whole()), send(&app, "/", stalled()));
        sleep(Duration::from_millis(200)).await;
        assert_eq!(send(&app, "/", whole()).await.unwrap().2, "20");
        let (status, _, text) = slow.await.unwrap();
        assert!(status == 408 && text.contains("slowest"), "{text}");
        // A crowd of those who stall keeps nobody out
        let crowd: Vec<_> = (0..50).map(|_| send(&app, "/", stalled())).collect();
        let stalls = || crowd.iter().filter(|stalled| !stalled.is_finished()).count();
        while stalls() > 2 {
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(send(&app, "/", whole()).await.unwrap().2, "20");
        for ended in crowd.into_iter().filter(JoinHandle::is_finished) {
            assert!(matches!(ended.await.unwrap().0, 408 | 503));
        }
        assert_eq!(kept.await.unwrap().2, "20");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_who_get_on_are_waited_for() {
        let app = app(PATIENT);
        let kept = [(); 2].map(|()| send(&app, "/hold", whole()));
        let third = send(&app, "/", whole());
        sleep(Duration::from_millis(1500)).await;
        let fourth = send(&app, "/", whole());
        let (status, time, text) = third.await.unwrap();
        assert!(status == 503 && time >= WAIT_MAX && text.contains("Too many"), "{status} after {time:?}");
        assert_eq!(fourth.await.unwrap().2, "20");
        for kept in kept {
            assert_eq!(kept.await.unwrap().2, "20");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn memory_is_made_of_the_slowest() {
        let bodies = Bodies::new(2, PATIENT);
        let place = async || {
            let (end, ended) = oneshot::channel();
            (bodies.enter(end).await.unwrap(), ended)
        };
        let ((first, mut first_ended), (second, mut second_ended)) = (place().await, place().await);
        assert!(!bodies.make_room(), "nothing has come, and nobody is slow");
        let mut never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()).into_data_stream();
        let _ = futures_util::future::select(Box::pin(first.next(&mut never)), Box::pin(sleep(OWED))).await;
        assert!(!bodies.make_room(), "the slow one holds no memory");
        assert_eq!(second.next(&mut whole().into_data_stream()).await.unwrap().unwrap().unwrap().len(), 10);
        assert!(!bodies.make_room(), "the one that holds memory is not slow");
        let _ = futures_util::future::select(Box::pin(second.next(&mut never)), Box::pin(sleep(OWED))).await;
        assert!(
            bodies.make_room() && second_ended.try_recv() == Ok(BodyEnd::Overtaken) && first_ended.try_recv().is_err()
        );
    }

    /// Longer than what makes one slow.
    const OWED: Duration = Duration::from_millis(150);
}
