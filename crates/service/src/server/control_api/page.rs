//! The page: static files that are part of the program.

use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};

/// Nothing from elsewhere, nothing inline, and in nobody's frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

type Page = ([(HeaderName, &'static str); 5], &'static str);

fn file(kind: &'static str, text: &'static str) -> Page {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

pub(super) async fn index() -> Page {
    file("text/html; charset=utf-8", include_str!("../page/index.html"))
}

pub(super) async fn script() -> Page {
    file("text/javascript; charset=utf-8", include_str!("../page/app.js"))
}

pub(super) async fn style() -> Page {
    file("text/css; charset=utf-8", include_str!("../page/style.css"))
}

pub(super) async fn icon() -> Page {
    file("image/svg+xml", include_str!("../page/icon.svg"))
}
