//! Addresses of this machine itself: a socket that leads to one has the same address at both ends.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::Extensions;
use hyper_util::client::legacy::connect::{Connection, HttpInfo};
use tower_layer::Layer;
use tower_service::Service;

use super::resolver::AddressRefused;

/// Any port: nothing is sent to it.
const PORT: u16 = 9;

/// Returns whether this machine has the address, on whatever interface. The kernel's own answer, by a socket that
/// sends nothing: it needs no list of interfaces, which would have to be asked for by AF_NETLINK.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let near = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect((address, PORT))?;
        socket.local_addr()
    };
    near().is_ok_and(|near| same(near.ip(), address))
}

/// An address of IPv4 may come in the clothes of IPv6.
fn same(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical() == b.to_canonical()
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Looks at each connection once it stands, before anything is asked over it: one that leads to this machine is closed.
/// Connections that are used again have been looked at.
#[derive(Clone, Debug)]
pub(super) struct NotOwn {
    /// Such connections are allowed.
    pub private: bool,
}

impl<S> Layer<S> for NotOwn {
    type Service = CheckedConnector<S>;

    fn layer(&self, inner: S) -> CheckedConnector<S> {
        CheckedConnector { inner, private: self.private }
    }
}

/// A connector whose connections are looked at.
#[derive(Clone, Debug)]
pub(super) struct CheckedConnector<S> {
    inner: S,
    private: bool,
}

impl<S, T> Service<T> for CheckedConnector<S>
where
    S: Service<T, Error = BoxError>,
    S::Response: Connection,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: T) -> Self::Future {
        let (connecting, private) = (self.inner.call(to), self.private);
        Box::pin(async move {
            let connection = connecting.await?;
            let mut facts = Extensions::new();
            connection.connected().get_extras(&mut facts);
            match facts.get::<HttpInfo>() {
                Some(info) if !private && same(info.local_addr().ip(), info.remote_addr().ip()) => {
                    Err(AddressRefused(info.remote_addr().ip().to_string()).into())
                }
                _ => Ok(connection),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_known_without_a_list() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        for far in ["8.8.8.8", "192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(far.parse().unwrap()), "{far}");
        }
        let [v4, mapped]: [IpAddr; 2] = ["8.8.8.8", "::ffff:8.8.8.8"].map(|text| text.parse().unwrap());
        assert!(same(v4, mapped) && same(mapped, v4) && !same(v4, "8.8.4.4".parse().unwrap()));
    }
}
