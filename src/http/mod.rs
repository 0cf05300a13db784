//! HTTP: what other programs are served, and the client of it. The only home of axum and ureq.
//!
//! Every listener is a [`server::Listener`] with a router of its own behind [`guard::Guard`];
//! a resource is one file. Nothing here computes: pictures go to `pipeline`, jobs to `daemon`.

pub mod bodies;
pub mod client;
pub mod connection;
pub mod control;
pub mod descriptors;
pub mod error;
pub mod fetch;
pub mod form;
pub mod gpu;
pub mod guard;
pub mod images;
pub mod limits;
pub mod links;
pub mod notices;
pub mod openapi;
pub mod pace;
pub mod query;
pub mod reply;
pub mod router;
pub mod seats;
pub mod server;
pub mod shared;
pub mod shown;
pub mod taker;
pub mod vidaio;

/// Names the arithmetic of TLS, once for the program: clients of HTTPS ask for it by no other way.
fn use_tls() {
    // Refused when it is named already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
