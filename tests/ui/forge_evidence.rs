//! Only its stage makes a piece of evidence: its parts are private.

use std::sync::Arc;

use sandgate::{authn::{Authenticated, Caller, Received}, event::{CheckedReply, UnreadBody}, sandbox::Outcome};

fn forge(received: Received<UnreadBody>, caller: Arc<Caller>, reply: CheckedReply) {
    let _ = Authenticated { received, caller };
    let _ = Outcome { reply };
}

fn main() {}
