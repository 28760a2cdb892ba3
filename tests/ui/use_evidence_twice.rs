//! Evidence is consumed by the stage that it opens.

use sandgate::{authn::Authenticated, authz::Authorizer, event::UnreadBody};

fn twice(authorizer: &Authorizer, authenticated: Authenticated<UnreadBody>) {
    let _ = authorizer.authorize(authenticated);
    let _ = authorizer.authorize(authenticated);
}

fn main() {}
