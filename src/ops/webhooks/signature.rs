//! The signature of a delivery, by the Standard Webhooks scheme: HMAC-SHA256 over `id.timestamp.body`.
//!
//! A receiver computes the same and compares; the timestamp keeps an old delivery from being replayed. The
//! key is all that the secret is used for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::Secret;

/// The value of `webhook-signature`.
pub fn sign(secret: &Secret, id: &str, seconds: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.key()).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the scheme's own documentation.
    #[test]
    fn the_published_example_comes_out() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").ok().unwrap();
        let signed = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_part_is_signed_and_the_key_matters() {
        let secret = |text| Secret::new(text).ok().unwrap();
        let signed = sign(&secret("raw key"), "h1", 5, b"body");
        assert_eq!(sign(&secret("raw key"), "h1", 5, b"body"), signed);
        for other in [
            sign(&secret("raw kez"), "h1", 5, b"body"),
            sign(&secret("raw key"), "h2", 5, b"body"),
            sign(&secret("raw key"), "h1", 6, b"body"),
            sign(&secret("raw key"), "h1", 5, b"bodz"),
        ] {
            assert_ne!(other, signed);
        }
    }
}
