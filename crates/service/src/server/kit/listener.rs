//! A listener and its connections, each within limits, until it is told to stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::time::Instant;

use upscaled_core::fault::Fault;

use crate::server::kit::limits::Limits;
use crate::server::kit::seats::Seats;
use crate::server::kit::{connection, descriptors};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Rest after an accept that failed (out of file descriptors, mostly), and how often that is told.
const ACCEPT_REST: Duration = Duration::from_millis(20);
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A bound address, not yet served.
pub struct Listener {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Listener {
    /// Binds the first address that a host name stands for. Port 0 takes any that is free. `flags`: those
    /// with which a person chose it, for messages.
    pub fn bind(host: &str, port: u16, flags: &str) -> Result<Listener> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let address = (name, port).to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
            Fault::Config.because(format!("{flags}: {host} is no address of this machine; take 127.0.0.1 or 0.0.0.0"))
        })?;
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Fault::Busy
                .because(format!("{address} is in use, perhaps by another of these; choose another with {flags}")),
            _ => Fault::Config.because(format!("{address} cannot be bound ({error}); correct {flags}")),
        })?;
        listener.set_nonblocking(true)?;
        // Said once more, since the library's own number is small.
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    /// Serves until `stop`, then takes no more connections and lets what runs come to its end, for
    /// at most [`Limits::end_time`]. Whether all of it did.
    pub async fn serve(self, app: Router, limits: &Limits, stop: impl Future<Output = ()>) -> Result<bool> {
        let listener = tokio::net::TcpListener::from_std(self.listener).context("taking over the listener")?;
        let seats = Seats::new(descriptors::room(limits.connections, limits.listeners), limits);
        let graceful = GracefulShutdown::new();
        let limits = Arc::new(limits.clone());
        let mut told: Option<Instant> = None;
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            let mut tell = |words: &str| {
                if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                    tracing::warn!("{words}");
                    told = Some(Instant::now());
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tell(&format!("a connection could not be accepted: {error}"));
                    seats.end_worst();
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let Some(seat) = seats.enter() else {
                tell("a connection was closed: as many as there may be are at work");
                continue;
            };
            let (app, limits, watcher) = (app.clone(), limits.clone(), graceful.watcher());
            tokio::spawn(async move { connection::serve(stream, seat, app, &limits, watcher).await });
        }
        drop(listener);
        Ok(tokio::time::timeout(limits.end_time, graceful.shutdown()).await.is_ok())
    }
}
