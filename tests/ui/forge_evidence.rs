//! Only its stage makes a piece of evidence: its parts are private.

use std::sync::Arc;

use sandgate::{
    authn::{Authenticated, Caller, Received},
    authz::{Authorized, Decision},
    event::{CheckedReply, Event, Place, UnreadBody, Validated},
    id::{FunctionId, RequestId},
    sandbox::Outcome,
};

fn authenticated(received: Received<UnreadBody>, caller: Arc<Caller>) {
    let _ = Authenticated { received, caller, fresh_nonce: None };
}

fn authorized(received: Received<UnreadBody>, caller: Arc<Caller>, decision: Arc<Decision>) {
    let _ = Authorized { received, caller, decision };
}

fn validated(
    request_id: RequestId,
    function: FunctionId,
    caller: Arc<Caller>,
    decision: Arc<Decision>,
    event: Event,
    place: Place,
) {
    let _ = Validated { request_id, function, caller, decision, event, place };
}

fn outcome(reply: CheckedReply) {
    let _ = Outcome { reply };
}

fn main() {}
