//! `/api/events`: the jobs as server-sent events, whenever something about them has changed.
//!
//! One task asks the daemon for all who listen, and asks nothing while nobody does. What it hears becomes one event,
//! made once and handed to everybody.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream::unfold;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};

use crate::daemon::control::Request;
use crate::server::control_api::ControlApi;
use crate::server::control_api::jobs::Jobs;
use crate::server::kit::error::ApiError;

/// Streams of events at a time.
pub(super) const LISTENERS_MAX: usize = 32;
/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_secs(1);
/// A silent stream says so often that it is alive.
const ALIVE: Duration = Duration::from_secs(15);
/// A browser that was refused asks again after this.
const FULL: Duration = Duration::from_secs(10);

/// What those who listen are told.
#[derive(Default)]
pub(super) struct EventFeed {
    /// The latest event as it goes over the wire; nothing while nobody listens.
    latest: watch::Sender<Option<Bytes>>,
    /// Somebody has come.
    wanted: Notify,
}

/// Looks at the daemon for as long as somebody listens. It never ends.
pub(super) async fn look(control: ControlApi) {
    let feed = &control.feed;
    loop {
        feed.wanted.notified().await;
        while feed.latest.receiver_count() > 0 {
            if let Ok(response) = control.ask(Request::first_page()).await
                && let Ok(text) = serde_json::to_string(&Jobs::new(&control, response))
            {
                let event = Bytes::from(format!("event: jobs\ndata: {text}\n\n"));
                feed.latest.send_if_modified(|latest| {
                    let changed = latest.as_ref() != Some(&event);
                    latest.replace(event);
                    changed
                });
            }
            sleep(LOOK).await;
        }
        // Who comes next is not told of what is long past.
        feed.latest.send_replace(None);
    }
}

struct EventListener {
    latest: watch::Receiver<Option<Bytes>>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn listen(State(control): State<ControlApi>) -> Result<Response, ApiError> {
    let full = |_| ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "Too many listen already", FULL);
    let place = control.listeners.clone().try_acquire_owned().map_err(full)?;
    let mut latest = control.feed.latest.subscribe();
    latest.mark_changed();
    control.feed.wanted.notify_one();
    let events = unfold(EventListener { latest, _place: place }, |mut listener| async move {
        let piece = listener.next().await?;
        Some((Ok::<_, Infallible>(piece), listener))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

impl EventListener {
    /// The next event, or a comment that keeps the connection alive; `None` when the daemon ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match timeout(ALIVE, self.latest.changed()).await {
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
                Ok(changed) => changed.ok()?,
            }
            if let Some(event) = self.latest.borrow_and_update().clone() {
                return Some(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::{Command, DaemonView, Response as Answer};
    use crate::server::control_api::ControlApiOptions;
    use crate::server::kit::auth::Guard;
    use futures_util::StreamExt;
    use std::path::Path;
    use tokio::sync::mpsc;
    use upscaled_core::config::settings::{Folders, ServiceSettings};
    use upscaled_jobs::state::downloads::DownloadStore;
    use upscaled_jobs::state::paths::RootLayout;
    use upscaled_jobs::state::state_folder::StateFolder;

    fn options(root: &Path) -> ControlApiOptions {
        let at = |name: &str| root.join(name);
        let layout =
            RootLayout::new(&Folders { root: at(""), input: at("input"), output: at("output"), logs: at("logs") });
        let downloads = DownloadStore::new(layout.clone(), &StateFolder::open(&layout).unwrap()).unwrap();
        ControlApiOptions { layout, downloads, settings: ServiceSettings::default() }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_asks_for_all_and_nobody_for_none() {
        let (asked, mut requests) = mpsc::channel::<Command>(1);
        let guard = Guard::new("127.0.0.1:80".parse().unwrap(), None, false).unwrap();
        let root = tempfile::tempdir().unwrap();
        let control = ControlApi::new(asked, guard, options(root.path())).unwrap();
        tokio::spawn(look(control.clone()));
        let quiet = timeout(LOOK, requests.recv()).await;
        assert!(quiet.is_err(), "asked though nobody listens");
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(listen(State(control.clone())).await.unwrap().into_body().into_data_stream());
        }
        for queued in [1, 2] {
            let asked = requests.recv().await.unwrap();
            assert_eq!(asked.request, Request::first_page());
            let daemon = Some(DaemonView { queued, ..DaemonView::default() });
            asked.reply.send(Answer { daemon, ..Answer::default() }).unwrap();
            let mut heard = Vec::new();
            for stream in &mut streams {
                heard.push(stream.next().await.unwrap().unwrap());
            }
            let first = &heard[0];
            assert!(first.starts_with(b"event: jobs\ndata: {") && first.ends_with(b"}\n\n"), "{first:?}");
            assert!(String::from_utf8_lossy(first).contains(&format!("\"queued\":{queued},")), "{first:?}");
            assert!(heard.iter().all(|event| event.as_ptr() == first.as_ptr()), "the event is copied");
            assert!(requests.try_recv().is_err(), "asked more than once for all");
        }
        drop(streams);
        assert!(timeout(2 * LOOK, requests.recv()).await.is_err(), "asked on after the last had gone");
        let mut late = listen(State(control.clone())).await.unwrap().into_body().into_data_stream();
        let asked = requests.recv().await.unwrap();
        asked
            .reply
            .send(Answer { daemon: Some(DaemonView { queued: 3, ..DaemonView::default() }), ..Answer::default() })
            .unwrap();
        assert!(String::from_utf8_lossy(&late.next().await.unwrap().unwrap()).contains("\"queued\":3,"));
    }
}
