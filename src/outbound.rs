//! The HTTP clients of this process, and its one TLS stack.
//!
//! Whoever calls out takes a builder here: webhooks, providers and whoever is told of an https address
//! [`anywhere`], the command line otherwise [`local`]. Invariants: a certificate is always checked, against the roots that the system trusts
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others); no proxy of the environment is used; no TLS
//! provider is taken from a global that somebody may have forgotten to set. What is called, how long it
//! may take and what an answer means are the caller's.

use std::sync::Arc;

use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};

/// For calls to other machines. Redirects are answers, not ways. The system's roots are read once, here:
/// blocking, a few milliseconds.
pub fn anywhere() -> ClientBuilder {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, ignored) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(why, "this system trusts no certificate: calls over https will fail; install ca-certificates");
    } else if ignored > 0 {
        tracing::debug!(taken, ignored, "some of the system's root certificates cannot be read");
    }
    with_roots(roots).redirect(Policy::none())
}

/// For calls that stay on this machine: over plain http, or a unix socket. Https finds nothing to trust.
pub fn local() -> ClientBuilder {
    with_roots(RootCertStore::empty())
}

#[expect(clippy::disallowed_methods, reason = "the one place that gives a client its TLS stack")]
fn with_roots(roots: RootCertStore) -> ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy()
}

#[cfg(test)]
mod tests {
    use super::{anywhere, local};

    #[test]
    fn clients_can_be_made_without_any_set_up() {
        anywhere().build().unwrap();
        local().build().unwrap();
    }
}
