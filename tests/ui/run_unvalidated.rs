//! A function runs on a validated event and on nothing else.

use sandgate::{authz::Authorized, event::{ReplyRules, UnreadBody}, sandbox::{Runner, Usage}};

async fn run(runner: &Runner, authorized: Authorized<UnreadBody>, replies: &ReplyRules, usage: &mut Usage) {
    let _ = runner.run(authorized, replies, usage).await;
}

fn main() {}
