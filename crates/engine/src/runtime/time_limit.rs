//! Ends a run of a network that takes too long: a graph may hold a loop without an end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use ort::session::RunOptions;

/// Runs a session, with these options, and ends it after `limit`.
///
/// # Errors
/// `None` when the limit was reached, else the session's own error.
pub(crate) fn within<T>(
    limit: Duration,
    options: &RunOptions,
    run: impl FnOnce() -> ort::Result<T>,
) -> Result<T, Option<ort::Error>> {
    let (done, waits) = mpsc::channel::<()>();
    let late = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let (late, waits) = (&late, waits);
        scope.spawn(move || {
            if waits.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::Relaxed);
                if let Err(error) = options.terminate() {
                    tracing::warn!("a network that takes too long cannot be ended: {error}");
                }
            }
        });
        let result = run();
        drop(done);
        result
    });
    result.map_err(|error| (!late.load(Ordering::Relaxed)).then_some(error))
}
