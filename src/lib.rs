//! `upscaled`: a daemon and tool that makes videos larger with super-resolution networks.
//!
//! The modules are layers; each may use only those listed above it (ARCHITECTURE.md, held by
//! `tests/tidy.rs`).

pub mod base;
pub mod model;

pub mod config;

pub mod media;

pub mod pixel;
pub mod tile;

pub mod network;

pub mod engine;

pub mod store;
pub mod work;

pub mod pipeline;

pub mod job;

pub mod judge;

pub mod daemon;

pub mod http;

pub mod cli;
