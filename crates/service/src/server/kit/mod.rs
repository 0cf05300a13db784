//! Shared by all listeners: connections, bodies, limits, authentication, errors.

pub mod auth;
pub mod bodies;
pub mod connection;
pub mod descriptors;
pub mod error;
pub mod form;
pub mod gpu;
pub mod limits;
pub mod listener;
pub mod openapi;
pub mod pace;
pub mod query;
pub mod reply;
pub mod result_links;
pub mod router;
pub mod seats;
pub mod shared_folders;
pub mod shown;
pub mod upload_sink;
