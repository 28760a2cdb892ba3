//! Evidence is not copied.

use sandgate::{authz::Authorized, event::{UnreadBody, Validated}};

fn copy(authorized: &Authorized<UnreadBody>, validated: &Validated) {
    let _: Authorized<UnreadBody> = Clone::clone(authorized);
    let _: Validated = Clone::clone(validated);
}

fn main() {}
