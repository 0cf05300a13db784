//! The daemon, and what is served over HTTP.

pub mod client;
pub mod daemon;
pub mod ingest;
pub mod server;
mod tls;
pub mod webhooks;
