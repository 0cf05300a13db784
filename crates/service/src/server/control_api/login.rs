//! `/api/login`: a browser tells the token once and is known by a cookie from then on.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderName, StatusCode};
use serde::Deserialize;

use crate::server::control_api::ControlApi;
use crate::server::control_api::jobs::{ActionSummary, unreadable};
use crate::server::kit::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: String,
}

type Cookie = [(HeaderName, String); 1];

pub(super) async fn log_in(
    State(control): State<ControlApi>,
    body: Result<Json<Login>, JsonRejection>,
) -> Result<(Cookie, Json<ActionSummary>), ApiError> {
    let Json(Login { token }) = body.map_err(unreadable)?;
    let cookie = control.guard.log_in(&token);
    let cookie = cookie.ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "This is not the token"))?;
    Ok(([(SET_COOKIE, cookie)], Json(ActionSummary { message: "logged in".into() })))
}
