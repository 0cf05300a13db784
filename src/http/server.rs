//! A listener and its connections, each within limits, until it is told to stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::base::fault::Fault;
use crate::http::limits::Limits;

/// Rest after an accept that failed (out of file descriptors, mostly).
const ACCEPT_REST: Duration = Duration::from_millis(100);

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
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    /// Serves until `stop`, then takes no more connections and lets what runs come to its end, for
    /// at most [`Limits::end_time`]. Whether all of it did.
    pub async fn serve(self, app: Router, limits: &Limits, stop: impl Future<Output = ()>) -> Result<bool> {
        let listener = tokio::net::TcpListener::from_std(self.listener).context("taking over the listener")?;
        let places = Arc::new(Semaphore::new(limits.connections));
        let graceful = GracefulShutdown::new();
        let mut stop = pin!(stop);
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                () = &mut stop => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(limits.stall));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_buf_size(limits.header_bytes)
                .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app.clone()));
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("a connection ended: {error}");
                }
                drop(place);
            });
        }
        drop(listener);
        Ok(tokio::time::timeout(limits.end_time, graceful.shutdown()).await.is_ok())
    }
}
