//! Evidence is not copied.

use sandgate::{
    authn::Authenticated,
    authz::Authorized,
    event::{UnreadBody, Validated},
    sandbox::Outcome,
};

fn copy(
    authenticated: &Authenticated<UnreadBody>,
    authorized: &Authorized<UnreadBody>,
    validated: &Validated,
    outcome: &Outcome,
) {
    let _: Authenticated<UnreadBody> = Clone::clone(authenticated);
    let _: Authorized<UnreadBody> = Clone::clone(authorized);
    let _: Validated = Clone::clone(validated);
    let _: Outcome = Clone::clone(outcome);
}

fn main() {}
