//! Any bytes at all: no panic, and nobody is let in.

use proptest::prelude::*;

use super::world::*;
use crate::authn::{dpop::Proof, fuzz};

fn world() -> (tokio::runtime::Runtime, World) {
    (tokio::runtime::Builder::new_current_thread().build().unwrap(), World::new())
}

/// Header values may hold tab, visible ASCII and anything above 127.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'\t'), 32..=126_u8, 128..=255_u8], 0..200)
}

proptest! {
    #[test]
    fn any_authorization_header_is_refused(bytes in header_bytes()) {
        let (runtime, world) = world();
        prop_assert!(runtime.block_on(world.authenticator.authenticate(received(&[&bytes], later(0)))).is_err());
        fuzz::bearer(&bytes);
    }

    #[test]
    fn any_header_and_claims_without_the_key_are_refused(header in ".{0,80}", claims in ".{0,80}", signature in proptest::collection::vec(any::<u8>(), 1..80)) {
        let (runtime, world) = world();
        let token = format!("{}.{}.{}", encode(&header), encode(&claims), encode(&String::from_utf8_lossy(&signature)));
        prop_assert!(runtime.block_on(ask(&world.authenticator, &token)).is_err());
    }

    #[test]
    fn one_changed_byte_is_refused(place in any::<prop::sample::Index>(), byte in 33..=126_u8) {
        let (runtime, world) = world();
        let mut token = Token::new().sign(&world.signer).into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        let token = String::from_utf8(token).unwrap();
        prop_assert!(runtime.block_on(ask(&world.authenticator, &token)).is_err());
    }

    #[test]
    fn a16_any_bytes_are_no_proof_and_one_changed_byte_is_another(
        bytes in header_bytes(),
        header in ".{0,80}",
        htu in "(https://localhost:8443|HTTPS://localhost|https://[a-z@:%/.]{0,12})(/acme/echo|/acme/%65cho|[?#/.]{0,4})[?#a]{0,3}",
        place in any::<prop::sample::Index>(),
        byte in 33..=126_u8,
    ) {
        fuzz::dpop(&bytes);
        fuzz::dpop(format!("{}.{}.{}", encode(&header), encode("{}"), encode("s")).as_bytes());
        let signer = Signer::ed25519();
        let header = serde_json::json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": signer.jwk()}).to_string();
        let claims = serde_json::json!({"jti": "a", "htm": "POST", "htu": htu, "iat": 0, "ath": "x"}).to_string();
        let proof = signer.seal("EdDSA", &header, &claims);
        // Whatever url it names, it is taken only for what another parser finds it to be.
        fuzz::dpop(proof.as_bytes());
        let verified = |text: &str| Proof::open(text).and_then(|proof| proof.verify(text));
        prop_assert!(verified(&proof).is_ok());
        let mut bent = proof.clone().into_bytes();
        let place = place.index(bent.len());
        prop_assume!(bent[place] != byte);
        bent[place] = byte;
        prop_assert!(verified(&String::from_utf8(bent).unwrap()).is_err());
    }

    #[test]
    fn any_key_set_and_any_revocations_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz::jwks(&bytes);
        fuzz::revocations(&bytes);
    }

    #[test]
    fn a_signed_token_of_any_claims_is_its_own_callers_or_nobodys(subject in ".{0,300}", roles in proptest::collection::vec(".{0,20}", 0..5)) {
        let (runtime, world) = world();
        let token = Token::new().claim("sub", subject.clone()).claim("roles", roles);
        if let Ok(caller) = runtime.block_on(world.ask(token)) {
            prop_assert_eq!(caller.subject(), &subject);
            prop_assert_eq!(caller.id().matches('/').count(), 1);
            prop_assert!(caller.roles().iter().all(|role| role.matches('/').count() == 1 && role.starts_with("acme/")));
        }
    }
}
