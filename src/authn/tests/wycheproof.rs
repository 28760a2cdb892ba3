//! Project Wycheproof's signatures, through the keys that we load and the verification that we call.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::json;
use wycheproof::{TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::authn::keys::{Fit, Key, KeySet};

fn key(jwk: serde_json::Value) -> Option<std::sync::Arc<Key>> {
    KeySet::parse(super::world::jwks(&[jwk]).as_bytes()).ok()?.keys().first().cloned()
}

fn verifies(key: &Key, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    assert_eq!(key.algorithm(&[algorithm]), Fit::One(algorithm));
    let signature = URL_SAFE_NO_PAD.encode(signature);
    jsonwebtoken::crypto::verify(&signature, message, &key.verifier, algorithm).unwrap_or(false)
}

/// Runs one vector; `Acceptable` may go either way.
fn run(seen: &mut [usize; 2], id: usize, result: &TestResult, verified: bool) {
    match result {
        TestResult::Valid => assert!(verified, "valid vector {id} was refused"),
        TestResult::Invalid => assert!(!verified, "invalid vector {id} was taken"),
        TestResult::Acceptable => {}
    }
    seen[usize::from(verified)] += 1;
}

#[test]
fn ecdsa_in_the_form_of_jws() {
    for (name, algorithm, curve, bytes) in [
        (ecdsa::TestName::EcdsaSecp256r1Sha256P1363, Algorithm::ES256, "P-256", 32),
        (ecdsa::TestName::EcdsaSecp384r1Sha384P1363, Algorithm::ES384, "P-384", 48),
    ] {
        let mut seen = [0; 2];
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let point = &group.key.key[..];
            let (x, y) = point[1..].split_at(bytes);
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let key = key(json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})).unwrap();
            for test in group.tests {
                run(&mut seen, test.tc_id, &test.result, verifies(&key, algorithm, &test.msg, &test.sig));
            }
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}

#[test]
fn ed25519() {
    let mut seen = [0; 2];
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key =
            key(json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&group.key.pk[..])}))
                .unwrap();
        for test in group.tests {
            run(&mut seen, test.tc_id, &test.result, verifies(&key, Algorithm::EdDSA, &test.msg, &test.sig));
        }
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName;
    for (name, algorithm) in [
        (TestName::Rsa2048Sha256, Algorithm::RS256),
        (TestName::Rsa2048Sha512, Algorithm::RS512),
        (TestName::Rsa3072Sha384, Algorithm::RS384),
        (TestName::Rsa4096Sha256, Algorithm::RS256),
    ] {
        let mut seen = [0; 2];
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let (n, e) = (URL_SAFE_NO_PAD.encode(&group.key.n[..]), URL_SAFE_NO_PAD.encode(&group.key.e[..]));
            let key = key(json!({"kty": "RSA", "n": n, "e": e})).unwrap();
            for test in group.tests {
                run(&mut seen, test.tc_id, &test.result, verifies(&key, algorithm, &test.msg, &test.sig));
            }
        }
        assert!(seen[0] > 50 && seen[1] > 0, "{seen:?}");
    }
}

#[test]
fn rsa_pss_with_the_salt_length_of_jws() {
    use rsa_pss_verify::TestName;
    for (name, algorithm) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::PS256),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, Algorithm::PS384),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::PS512),
    ] {
        let mut seen = [0; 2];
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let (n, e) = (URL_SAFE_NO_PAD.encode(&group.key.n[..]), URL_SAFE_NO_PAD.encode(&group.key.e[..]));
            let key = key(json!({"kty": "RSA", "n": n, "e": e})).unwrap();
            for test in group.tests {
                run(&mut seen, test.tc_id, &test.result, verifies(&key, algorithm, &test.msg, &test.sig));
            }
        }
        assert!(seen[0] > 10 && seen[1] > 0, "{seen:?}");
    }
}
