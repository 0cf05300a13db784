//! What all routers have in common: the guard, errors in one shape, no panic that reaches a client.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use crate::server::kit::auth::{self, Guard};
use crate::server::kit::bodies::{self, Bodies};
use crate::server::kit::error::ApiError;
use crate::server::kit::limits::Limits;

/// Bytes of a form that are not its files: names, boundaries, other fields.
const FORM_EXTRA: u64 = 4 << 20;

/// A listener's resources behind its guard.
pub fn guarded(resources: Router, guard: Guard, limits: &Limits) -> Router {
    // Forms are counted as they are read; this is for what is read without counting.
    let body = limits.form_bytes + limits.drain_bytes + FORM_EXTRA;
    resources
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async { ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed") })
        .layer(DefaultBodyLimit::max(usize::try_from(body).unwrap_or(usize::MAX)))
        .layer(middleware::from_fn_with_state(Bodies::new(limits.bodies, limits.body), bodies::pass))
        .layer(middleware::from_fn_with_state(Arc::new(guard), auth::pass))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(sealed))
}

/// No browser guesses at what an answer is.
async fn sealed(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!("a request ended in a panic: {}", words.unwrap_or("no words"));
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The server failed; its log says why").into_response()
}
