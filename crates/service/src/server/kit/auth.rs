//! Who may ask: the token, the Host of a loopback listener, and the Origin of browsers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use upscaled_core::fault::Fault;

use crate::server::kit::error::ApiError;

/// Fewest bytes of a token.
const TOKEN_MIN: usize = 16;
/// What asks for no token: this path, and links, whose names are secrets themselves.
pub const HEALTH: &str = "/health";
const LINKS: &str = "/files/";

/// The cookie of a browser that has told the token once.
const COOKIE_NAME: &str = "upscaled_session";
/// Keeps the cookie's value apart from everything else that is made of a token.
const COOKIE_CONTEXT: &str = "upscaled 2026-11 session of the daemon's page";

/// The rules of one listener.
#[derive(Clone, Debug)]
pub struct Guard {
    /// BLAKE3 of the token: equal lengths, whatever a client sends.
    token: Option<[u8; 32]>,
    /// What a logged-in browser's cookie holds, where there are browsers. It follows from the
    /// token: another token ends all sessions.
    session: Option<String>,
    /// Paths besides [`HEALTH`] and [`LINKS`] that ask for no token.
    open: &'static [&'static str],
    /// Bound to this machine alone.
    loopback: bool,
}

impl Guard {
    /// The rules of a listener bound to `address`.
    ///
    /// # Errors
    /// [`Fault::Config`] for a token that is too short, and for an address that other machines
    /// reach without a token, unless that is asked for (`insecure`).
    pub fn new(address: SocketAddr, token: Option<&str>, insecure: bool) -> Result<Guard> {
        let loopback = address.ip().is_loopback();
        if let Some(token) = token
            && token.len() < TOKEN_MIN
        {
            let message = format!("the token has {} characters; take at least {TOKEN_MIN}", token.len());
            return Err(Fault::Config.because(message));
        }
        if token.is_none() && !loopback && !insecure {
            return Err(Fault::Config.because(format!(
                "{} can be reached from other machines; give a token with --token-file, or the variable \
                 UPSCALED_TOKEN, or add --insecure to let everybody in",
                address.ip()
            )));
        }
        let token = token.map(|token| *blake3::hash(token.as_bytes()).as_bytes());
        Ok(Guard { token, session: None, open: &[], loopback })
    }

    /// The same for browsers too: they log in once and are known by a cookie; what they need for
    /// that is `open` to all.
    pub fn with_login(mut self, open: &'static [&'static str]) -> Guard {
        let hex = |key: [u8; 32]| blake3::Hash::from_bytes(key).to_hex().to_string();
        self.session = self.token.map(|token| hex(blake3::derive_key(COOKIE_CONTEXT, &token)));
        self.open = open;
        self
    }

    /// The `Set-Cookie` for a browser that tells the token; `None` when it is another.
    pub fn log_in(&self, token: &str) -> Option<String> {
        let (wanted, session) = (self.token.as_ref()?, self.session.as_ref()?);
        let same: bool = blake3::hash(token.as_bytes()).as_bytes().ct_eq(wanted).into();
        same.then(|| format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"))
    }

    /// Whether a request bears the cookie of a session.
    fn is_logged_in(&self, headers: &HeaderMap) -> bool {
        let Some(session) = &self.session else { return false };
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == COOKIE_NAME && value.as_bytes().ct_eq(session.as_bytes()).into())
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = text(HOST);
        // A second one could be the one that a proxy has looked at.
        if headers.get_all(HOST).iter().nth(1).is_some() {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "A request has one Host header"));
        }
        // A page from elsewhere whose name was made to mean this machine still sends that name.
        if self.loopback && !host.is_some_and(is_this_machine) {
            return Err(elsewhere());
        }
        if let Some(origin) = text(ORIGIN) {
            let own = origin.split_once("://").is_some_and(|(_, origin)| Some(origin) == host);
            if !own {
                return Err(ApiError::new(StatusCode::FORBIDDEN, "Pages of other origins are not served"));
            }
        }
        let Some(wanted) = &self.token else { return Ok(()) };
        let open = path == HEALTH || path.starts_with(LINKS) || self.open.contains(&path);
        if open || self.is_logged_in(headers) {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).unwrap_or_default();
        let same: bool = blake3::hash(given).as_bytes().ct_eq(wanted).into();
        if same {
            Ok(())
        } else {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "A token is needed: Authorization: Bearer"))
        }
    }
}

fn elsewhere() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "This address answers only as localhost, 127.0.0.1 or [::1]")
}

/// The token of `Bearer <token>`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Returns whether a Host header names this machine: `localhost`, or a loopback address, with any port. Nothing else
/// may stand in it (RFC 3986, section 3.2.2: an IPv6 address is in brackets, behind which only a port may follow).
fn is_this_machine(host: &str) -> bool {
    let is_port = |text: &str| text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
            && address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    is_port(port)
        && (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()))
}

/// The middleware.
pub async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Result<Response, ApiError> {
    // A target in its whole form (`GET http://host/path`) goes before the Host header (RFC 9112, section 3.2.2).
    if let Some(authority) = request.uri().authority()
        && guard.loopback
        && !is_this_machine(authority.as_str())
    {
        return Err(elsewhere());
    }
    guard.check(request.uri().path(), request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(address: &str, token: Option<&str>, insecure: bool) -> Result<Guard> {
        Guard::new(address.parse().unwrap(), token, insecure)
    }

    fn status(guard: &Guard, path: &str, headers: &[(HeaderName, &str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        guard.check(path, &headers.collect()).map_or_else(|e| e.status().as_u16(), |()| 200)
    }

    #[test]
    fn other_machines_need_a_token() {
        assert_eq!(Fault::of(&guard("0.0.0.0:80", None, false).unwrap_err()), Fault::Config);
        assert_eq!(Fault::of(&guard("[::]:80", None, false).unwrap_err()), Fault::Config);
        assert_eq!(Fault::of(&guard("127.0.0.1:80", Some("short"), false).unwrap_err()), Fault::Config);
        assert!(guard("0.0.0.0:80", None, true).is_ok() && guard("127.0.0.2:80", None, false).is_ok());
        let guard = guard("10.0.0.1:80", Some(TOKEN), false).unwrap();
        let with = |value: &str| status(&guard, "/upscale", &[(AUTHORIZATION, value)]);
        assert_eq!(with(&format!("Bearer {TOKEN}")), 200);
        assert_eq!(with(&format!("bearer  {TOKEN}")), 200);
        for value in ["", TOKEN, "Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef"] {
            assert_eq!(with(value), 401, "{value:?}");
        }
        assert_eq!(status(&guard, "/upscale", &[]), 401);
        for (path, want) in [("/health", 200), ("/files/x/y", 200), ("/healthy", 401), ("/info", 401), ("/files", 401)]
        {
            assert_eq!(status(&guard, path, &[]), want, "{path}");
        }
    }

    #[test]
    fn names_of_others_are_refused_on_loopback() {
        let here = guard("127.0.0.1:8090", None, false).unwrap();
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8090", "127.3.2.1", "[::1]:8090", "[::1]"] {
            assert_eq!(status(&here, "/info", &[(HOST, host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8090",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "",
            "10.0.0.1",
            "[::1].evil.example",
            "[::1].evil.example:8090",
            "[::1]evil.example",
            "[::1]:80:90",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "localhost:evil.example",
            "localhost:80:evil.example",
            "localhost:123456",
            "user@localhost",
            "localhost@evil.example",
            "localhost/.evil.example",
            "localhost, evil.example",
            "127.1",
        ] {
            assert_eq!(status(&here, "/health", &[(HOST, host)]), 403, "{host}");
        }
        let mut two = HeaderMap::new();
        two.append(HOST, HeaderValue::from_static("localhost"));
        two.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(here.check("/info", &two).unwrap_err().status().as_u16(), 400);
        assert_eq!(status(&here, "/info", &[]), 403);
        let origin = |value: &str| status(&here, "/upscale", &[(HOST, "localhost:8090"), (ORIGIN, value)]);
        assert_eq!((origin("http://localhost:8090"), origin("http://evil.example"), origin("null")), (200, 403, 403));
        let open = guard("0.0.0.0:80", None, true).unwrap();
        assert_eq!(status(&open, "/info", &[(HOST, "upscaler.example")]), 200);
    }

    #[test]
    fn browsers_log_in_once() {
        let plain = guard("10.0.0.1:80", Some(TOKEN), false).unwrap();
        assert_eq!(plain.log_in(TOKEN), None);
        let guard = plain.with_login(&["/", "/app.js"]);
        for (path, want) in [("/", 200), ("/app.js", 200), ("/app.jsx", 401), ("/api/jobs", 401), ("/health", 200)] {
            assert_eq!(status(&guard, path, &[]), want, "{path}");
        }
        assert_eq!(guard.log_in("0123456789abcdeF"), None);
        let cookie = guard.log_in(TOKEN).unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(TOKEN));
        let pair = cookie.split(';').next().unwrap();
        let with = |value: &str| status(&guard, "/api/jobs", &[(COOKIE, value)]);
        assert_eq!((with(pair), with(&format!("a=b; {pair}; c=d"))), (200, 200));
        for value in ["", "upscaled_session=", "upscaled_session", &pair[..pair.len() - 1], &format!("x{pair}")] {
            assert_eq!(with(value), 401, "{value}");
        }
        let other = super::Guard::new("10.0.0.1:80".parse().unwrap(), Some("another token, as long"), false).unwrap();
        let other = other.with_login(&[]);
        assert_eq!(status(&other, "/api/jobs", &[(COOKIE, pair)]), 401);
    }
}
