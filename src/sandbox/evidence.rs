//! The last stage: evidence in, a function's checked reply out.

use super::{CallerInput, EventInput, Runner, SandboxError, SignalInput, Usage};
use crate::event::{CheckedReply, RawReply, ReplyRules, Validated};

/// What a function answered, checked against its contract.
///
/// INVARIANT (Evidence): made by [`Runner::run`] alone.
#[derive(Debug)]
pub struct Outcome {
    reply: CheckedReply,
}

impl Outcome {
    /// The reply.
    pub fn reply(&self) -> &CheckedReply {
        &self.reply
    }

    /// The reply, to be sent.
    pub fn into_reply(self) -> CheckedReply {
        self.reply
    }
}

impl Runner {
    /// Runs the function on its event and checks what it answers; `usage` tells what that cost, even if it fails.
    pub async fn run(
        &self,
        validated: Validated,
        replies: &ReplyRules,
        usage: &mut Usage,
    ) -> Result<Outcome, SandboxError> {
        if validated.function() != self.function() {
            return Err(SandboxError::internal("a request for another function"));
        }
        let reply = {
            let (event, caller) = (validated.event(), validated.caller());
            let request_id = validated.request_id().to_string();
            let roles: Vec<&str> = caller.roles().iter().map(AsRef::as_ref).collect();
            let scopes: Vec<&str> = caller.scopes().iter().map(AsRef::as_ref).collect();
            let headers: Vec<(&str, &str)> =
                event.headers().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let signals: Vec<SignalInput<'_>> = event
                .signals()
                .iter()
                .map(|signal| SignalInput { pointer: &signal.pointer, kind: signal.kind.as_str() })
                .collect();
            let input = EventInput {
                request_id: &request_id,
                caller: CallerInput { id: caller.id(), roles: &roles, scopes: &scopes },
                method: event.method().as_str(),
                rest: event.rest(),
                query: event.query(),
                headers: &headers,
                content_type: event.content_type(),
                body: event.body(),
                raw: event.raw().map(|raw| &raw[..]),
                signals: &signals,
            };
            self.run_event(input, validated.place(), usage).await?
        };
        let raw = RawReply {
            status: reply.status,
            content_type: reply.content_type,
            headers: reply.headers,
            body: reply.body.into(),
        };
        Ok(Outcome { reply: replies.check(raw)? })
    }
}
