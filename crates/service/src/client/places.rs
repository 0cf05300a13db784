//! Where workers are, from what a person wrote: a host, and ports in a list or range.

use anyhow::Result;

use upscaled_core::fault::Fault;

/// Most workers together.
const WORKERS_MAX: usize = 256;

/// `host:port` for each port of `8090`, `8090-8094` or `8090,8092`.
///
/// # Errors
/// [`Fault::Config`] for anything else.
pub fn places(host: &str, ports: &str) -> Result<Vec<String>> {
    let wrong = || {
        let words = format!("--port {ports}: write a port, a range or a list of them, as 8090, 8090-8094 or 8090,8092");
        Fault::Config.because(words)
    };
    if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
        return Err(Fault::Config.because(format!("--host {host}: write a name or an address, without http://")));
    }
    // An IPv6 address needs brackets before a port.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let mut places = Vec::new();
    for item in ports.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = port(first).zip(port(last)).filter(|(first, last)| first <= last).ok_or_else(wrong)?;
        for port in first..=last {
            let place = format!("{host}:{port}");
            if !places.contains(&place) {
                places.push(place);
            }
            if places.len() > WORKERS_MAX {
                return Err(Fault::Config.because(format!("--port {ports}: at most {WORKERS_MAX} workers together")));
            }
        }
    }
    Ok(places)
}

/// `host:port` of a worker's address, with or without `http://` before it.
///
/// # Errors
/// [`Fault::Config`] for anything else.
pub fn place(address: &str) -> Result<String> {
    let plain = address.trim().trim_start_matches("http://").trim_end_matches('/');
    let wrong = || Fault::Config.because(format!("--workers {address}: write http://HOST:PORT, or HOST:PORT"));
    let (host, port) = plain.rsplit_once(':').ok_or_else(wrong)?;
    places(host, port).ok().filter(|found| found.len() == 1).map(|mut found| found.remove(0)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_line() {
        assert_eq!(places("127.0.0.1", "8090").unwrap(), ["127.0.0.1:8090"]);
        assert_eq!(places("a", "8090-8092").unwrap(), ["a:8090", "a:8091", "a:8092"]);
        assert_eq!(places("::1", "1,3, 2-3").unwrap(), ["[::1]:1", "[::1]:3", "[::1]:2"]);
        for ports in ["", "0", "80-", "-80", "90-80", "x", "70000", "1-1000", "1,,2"] {
            assert_eq!(Fault::of(&places("a", ports).unwrap_err()), Fault::Config, "{ports}");
        }
        assert_eq!(place("http://127.0.0.1:8090/").unwrap(), "127.0.0.1:8090");
        assert_eq!(place("[::1]:8090").unwrap(), "[::1]:8090");
        for address in ["", "a", "https://a:1", "a:1-2", "a:b", "a:1/x"] {
            assert_eq!(Fault::of(&place(address).unwrap_err()), Fault::Config, "{address}");
        }
        for host in ["", "http://a", "a b", "user@a"] {
            assert!(places(host, "1").is_err(), "{host}");
        }
    }
}
