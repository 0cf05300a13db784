//! Names to addresses for downloads: what is connected to is what was looked at.

use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_public;
use super::own::is_own;

/// A name whose addresses are all refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} is an address of this machine or of a private network")]
pub(super) struct AddressRefused(pub String);

/// Returns whether an address may be connected to.
fn may_lead_to(address: IpAddr, private: bool) -> bool {
    private || is_public(address) && !is_own(address)
}

/// Asks the system, and passes on public addresses of others alone.
pub(super) struct PublicResolver {
    /// Others too.
    pub private: bool,
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let fit: Vec<SocketAddr> = found.into_iter().filter(|a| may_lead_to(a.ip(), private)).collect();
            if fit.is_empty() {
                return Err(AddressRefused(name.as_str().to_owned()).into());
            }
            Ok(Box::new(fit.into_iter()) as Addrs)
        })
    }
}

/// Whether a URL's host may be asked for, as far as it is an address: the resolver sees only names.
pub(super) fn check_literal(host: url::Host<&str>, private: bool) -> Result<(), AddressRefused> {
    let address = match host {
        url::Host::Domain(_) => return Ok(()),
        url::Host::Ipv4(address) => IpAddr::V4(address),
        url::Host::Ipv6(address) => IpAddr::V6(address),
    };
    if may_lead_to(address, private) { Ok(()) } else { Err(AddressRefused(address.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn addresses_in_every_spelling() {
        let refused = |text: &str| check_literal(Url::parse(text).unwrap().host().unwrap(), false).is_err();
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
        ] {
            assert!(refused(text), "{text}");
        }
        assert!(!refused("http://8.8.8.8/") && !refused("http://example.com/"));
        assert!(check_literal(Url::parse("http://[::1]/").unwrap().host().unwrap(), true).is_ok());
    }
}
