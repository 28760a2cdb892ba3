//! An event is read only of a request that was authorized.

use sandgate::{authn::Authenticated, event::{EventRules, UnreadBody}};

async fn skip(rules: &EventRules, authenticated: Authenticated<UnreadBody>) {
    let _ = rules.validate(authenticated).await;
}

fn main() {}
