//! Evidence is consumed by the stage that it opens.

use sandgate::{
    authn::Authenticated,
    authz::{Authorized, Authorizer},
    event::{EventRules, ReplyRules, UnreadBody, Validated},
    sandbox::{Runner, Usage},
};

fn authorize_twice(authorizer: &Authorizer, authenticated: Authenticated<UnreadBody>) {
    let _ = authorizer.authorize(authenticated);
    let _ = authorizer.authorize(authenticated);
}

async fn validate_twice(rules: &EventRules, authorized: Authorized<UnreadBody>) {
    let _ = rules.validate(authorized).await;
    let _ = rules.validate(authorized).await;
}

async fn run_twice(runner: &Runner, validated: Validated, replies: &ReplyRules, usage: &mut Usage) {
    let _ = runner.run(validated, replies, usage).await;
    let _ = runner.run(validated, replies, usage).await;
}

fn main() {}
