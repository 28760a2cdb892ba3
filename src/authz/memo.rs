//! The last decision about a caller and a function, good for as long as nothing that its policies read has changed.
//!
//! Cedar is a function of policies, entities and request, and nothing else. Policies and entities are those of the
//! memo's place: it lies with the caller's entities, united with one function's, and goes with them. Of the request
//! only the fields that the slice reads ([`Reads`]) can change the answer. So an equal reading has an equal answer,
//! denies and errors included, and the same caller's next call costs a comparison.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use super::{decide::Decision, reads::Reads, request::RequestFacts};

/// The fields that a slice reads, one bit each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadFields(u16);

/// A decision and the reading that it was made on.
#[derive(Debug)]
pub(super) struct Memo {
    reading: Reading,
    decision: Arc<Decision>,
}

/// What the slice's policies could see of a request; a field that none of them reads is `None`.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    method: Option<Box<str>>,
    path: Option<Box<str>>,
    tls: Option<Box<str>>,
    client: Option<IpAddr>,
    now: Option<u64>,
    authenticated_at: Option<Option<u64>>,
    binding: Option<Box<str>>,
    bytes: Option<Option<u64>>,
}

const FIELDS: [&str; 8] = ["method", "path", "tls", "client", "now", "authenticatedAt", "binding", "bytes"];

impl ReadFields {
    /// The fields of `reads`. `via` is always empty at the door in.
    pub(super) fn of(reads: &Reads) -> Self {
        let bit = |(at, name): (usize, &&str)| u16::from(reads.context.contains(*name)) << at;
        Self(FIELDS.iter().enumerate().map(bit).fold(0, |all, bit| all | bit))
    }

    fn has(self, field: usize) -> bool {
        self.0 & (1 << field) != 0
    }
}

impl Memo {
    pub(super) fn new(fields: ReadFields, facts: &RequestFacts<'_>, decision: Arc<Decision>) -> Self {
        let text = |field: usize, text: &str| fields.has(field).then(|| text.into());
        let reading = Reading {
            method: text(0, facts.method),
            path: text(1, facts.path),
            tls: text(2, facts.tls),
            client: fields.has(3).then_some(facts.client),
            now: fields.has(4).then(|| second(facts.now)),
            authenticated_at: fields.has(5).then(|| facts.authenticated_at.map(second)),
            binding: text(6, facts.binding),
            bytes: fields.has(7).then_some(facts.bytes),
        };
        Self { reading, decision }
    }

    /// The decision, if these facts read the same.
    pub(super) fn recall(&self, facts: &RequestFacts<'_>) -> Option<Arc<Decision>> {
        let Reading { method, path, tls, client, now, authenticated_at, binding, bytes } = &self.reading;
        let text = |noted: &Option<Box<str>>, text: &str| noted.as_deref().is_none_or(|noted| noted == text);
        let same = text(method, facts.method)
            && text(path, facts.path)
            && text(tls, facts.tls)
            && client.is_none_or(|client| client == facts.client)
            && now.is_none_or(|now| now == second(facts.now))
            && authenticated_at.is_none_or(|at| at == facts.authenticated_at.map(second))
            && text(binding, facts.binding)
            && bytes.is_none_or(|bytes| bytes == facts.bytes);
        same.then(|| Arc::clone(&self.decision))
    }
}

/// Policies see time to the second.
fn second(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    fn reads(fields: &[&str]) -> Reads {
        Reads { context: fields.iter().map(|field| (*field).to_owned()).collect(), ..Reads::default() }
    }

    fn decision(reads: &Reads) -> Arc<Decision> {
        Arc::new(Decision {
            allowed: true,
            policies: vec!["acme/p".into()],
            errors: vec![],
            codes: vec![],
            hints: vec![],
            reads: Arc::new(reads.clone()),
        })
    }

    /// Requests that each differ from the first in one field.
    fn variants() -> [(&'static str, RequestFacts<'static>); 8] {
        let first = RequestFacts::FULLEST;
        [
            ("method", RequestFacts { method: "PUT", ..first }),
            ("path", RequestFacts { path: "/probe/probe/x", ..first }),
            ("tls", RequestFacts { tls: "1.2", ..first }),
            ("client", RequestFacts { client: IpAddr::from([192, 0, 2, 9]), ..first }),
            ("now", RequestFacts { now: first.now + Duration::from_secs(1), ..first }),
            ("authenticatedAt", RequestFacts { authenticated_at: None, ..first }),
            ("binding", RequestFacts { binding: "dpop", ..first }),
            ("bytes", RequestFacts { bytes: None, ..first }),
        ]
    }

    #[test]
    fn a_decision_is_recalled_unless_a_field_that_is_read_differs() {
        for (read, _) in variants() {
            let reads = reads(&[read]);
            let memo = Memo::new(ReadFields::of(&reads), &RequestFacts::FULLEST, decision(&reads));
            assert!(memo.recall(&RequestFacts::FULLEST).is_some());
            for (field, facts) in variants() {
                assert_eq!(memo.recall(&facts).is_none(), field == read, "reads {read}, {field} differs");
            }
        }
    }

    #[test]
    fn a_slice_that_reads_nothing_answers_every_request_alike() {
        let reads = reads(&[]);
        let memo = Memo::new(ReadFields::of(&reads), &RequestFacts::FULLEST, decision(&reads));
        assert!(variants().iter().all(|(_, facts)| memo.recall(facts).is_some()));
    }
}
