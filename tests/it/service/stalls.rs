//! Crowds of clients that stall at both listeners of the video service.

use crate::common::crowds::Target;
use crate::common::{Root, ready};
use crate::service::kit::{SETTINGS, Service};

const TOKEN: &str = "a-token-of-25-characters-";

#[test]
fn crowds_keep_nobody_out() {
    if !ready("crowds_keep_nobody_out") {
        return;
    }
    let service = Service::start_with(Root::new(SETTINGS), &["--token", TOKEN], &[]);
    let address = |of: &str| of.trim_start_matches("http://").parse().unwrap();
    let (json, original, current) = ("application/json", br#"{"payload_url": "http://x/"}"#, br#"{"scale": 2}"#);
    let post = ("/upscale-video", json, &original[..], 422);
    Target { address: address(&service.original), token: TOKEN, post }.stands_crowds();
    let target = Target { address: address(&service.current), token: TOKEN, post: ("/upscale", json, current, 422) };
    target.stands_crowds();
    target.stands_floods();
}
