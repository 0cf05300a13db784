//! HTTP: what other programs are served, and the client of it. The only home of axum and ureq.
//!
//! Every listener is a [`server::Listener`] with a router of its own behind [`guard::Guard`];
//! a resource is one file. Nothing here computes: pictures go to `pipeline`, jobs to `daemon`.

pub mod kit;

pub mod control_api;
pub mod image_api;
pub mod vidaio;
