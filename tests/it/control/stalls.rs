//! Crowds of clients that stall at the page's listener.

use crate::common::crowds::Target;
use crate::common::ready;
use crate::control::kit::{Daemon, TOKEN};

#[test]
fn crowds_keep_nobody_out() {
    if !ready("crowds_keep_nobody_out") {
        return;
    }
    let daemon = Daemon::start("0.0.0.0", &["--token", TOKEN]);
    let address = daemon.at.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let body = br#"{"path": "no-such-film.mkv"}"#;
    let target = Target { address, token: TOKEN, post: ("/api/jobs", "application/json", body, 404) };
    target.stands_crowds();
    target.stands_floods();
}
