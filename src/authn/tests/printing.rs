//! A22, and what `token inspect` says.

use super::world::*;
use crate::authn::inspect;

#[tokio::test]
async fn a22_nothing_that_is_printed_holds_the_token() {
    let world = World::new();
    let token = Token::new().claim("department", "S3CRET").sign(&world.signer);
    let header = format!("Bearer {token}");
    let request = received(&[header.as_bytes()], later(0));
    let mut printed = format!("{request:?}");
    let authenticated = world.authenticator.authenticate(request).await.unwrap();
    printed += &format!("{authenticated:?} {:?}", world.authenticator);
    for bent in [format!("{token}x"), token.replacen('.', "", 1), format!("{token}.{token}")] {
        let error = ask(&world.authenticator, &bent).await.unwrap_err();
        printed += &format!("{error} {error:?}");
        let inspection = inspect(&bent, &world.authenticator, later(0)).await;
        printed += &format!("{inspection} {}", serde_json::to_string(&inspection).unwrap());
    }
    let inspection = inspect(&token, &world.authenticator, later(0)).await;
    printed += &format!("{inspection} {}", serde_json::to_string(&inspection).unwrap());
    for part in token.split('.').chain(["S3CRET"]) {
        assert!(!printed.contains(part), "{part}");
    }
}

#[tokio::test]
async fn an_inspection_says_which_check_failed_and_which_were_not_reached() {
    let world = World::new();
    let show = async |token: Token| {
        let token = token.sign(&world.signer);
        let text = inspect(&token, &world.authenticator, later(0)).await.to_string();
        text.replace(&format!("{} bytes", token.len()), "N bytes")
    };
    insta::assert_snapshot!(show(Token::new().header("typ", "JWT\u{1b}[31m")).await, @r#"
    ✔ form        N bytes in three segments
    ✔ header      alg "ES256", typ "JWT\u{1b}[31m", kid "k1"
    ✔ issuer
    ✘ type        the token's type is not one that issuer `https://idp.acme.example` may use here (its `typ` is "JWT\u{1b}[31m"; `token-types` of the issuer lists what is taken)
    · key set
    · key
    · algorithm
    · signature
    · claims
    · expiry
    · not before
    · audience
    · issued at
    · lifetime
    · subject
    · tenant
    · attributes
    · revocation
    · binding
    not valid
    "#);
    let good = show(Token::new()).await;
    assert!(good.ends_with("valid: the caller is `acme/alice`") && !good.contains('✘'), "{good}");
    let expired = show(Token::new().at("iat", -700).at("exp", -60)).await;
    assert!(
        expired.contains("✔ signature\n") && expired.contains("✘ expiry      the token has expired"),
        "{expired}"
    );
}
