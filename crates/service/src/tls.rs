//! TLS for clients: which implementation of its arithmetic is used.

/// Names the arithmetic of TLS, once for the program: clients of HTTPS ask for it by no other way.
pub(crate) fn init() {
    // Refused when it is named already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
