//! `/api/events`: the jobs as server-sent events, whenever something about them has changed.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use crate::daemon::control::Request;
use crate::http::control::Control;
use crate::http::control::jobs::Jobs;
use crate::http::error::ApiError;

/// Streams of events at a time.
pub const LISTENERS_MAX: usize = 32;
/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_secs(1);
/// A browser that was refused asks again after this.
const FULL: Duration = Duration::from_secs(10);

struct Listener {
    control: Control,
    /// What was told last.
    told: String,
    next: Instant,
    _place: OwnedSemaphorePermit,
}

pub async fn listen(
    State(control): State<Control>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let full = |_| ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "Too many listen already", FULL);
    let place = control.listeners.clone().try_acquire_owned().map_err(full)?;
    let listener = Listener { control, told: String::new(), next: Instant::now(), _place: place };
    let events = unfold(listener, |mut listener| async move {
        // Ends when the daemon does.
        let told = listener.changed().await?;
        Some((Ok(Event::default().event("jobs").data(told)), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl Listener {
    /// The jobs as JSON as soon as they are other than before.
    async fn changed(&mut self) -> Option<String> {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK;
            let jobs = Jobs::from(self.control.ask(Request::Status { job: None }).await.ok()?);
            let text = serde_json::to_string(&jobs).ok()?;
            if text != self.told {
                self.told.clone_from(&text);
                return Some(text);
            }
        }
    }
}
