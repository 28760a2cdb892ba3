//! What was refused, so that the same bytes are not compiled again only to be refused again.
//!
//! In memory, and no longer than the process: there the engine, its limits and what is served stay as they are, so the
//! component's digest alone is the key, and nothing that others could write needs a MAC. A restart asks once more, each tenant
//! in its turn ([`super::turns`]).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::Signal;

use super::{admission::AdmissionError, artefact::Digest, process::Stop};

/// Refusals that would be the same again.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_digest: HashMap<Digest, Arc<AdmissionError>>,
    /// Oldest first.
    order: VecDeque<Digest>,
}

impl Refusals {
    /// Why these bytes were refused, if they were.
    pub(super) fn of(&self, digest: &Digest) -> Option<Arc<AdmissionError>> {
        self.lock().by_digest.get(digest).cloned()
    }

    /// Remembers a refusal, unless another attempt might end otherwise; whether it does.
    pub(super) fn remember(&self, digest: Digest, error: &Arc<AdmissionError>) -> bool {
        if !is_lasting(error) {
            return false;
        }
        let mut known = self.lock();
        if known.by_digest.insert(digest, Arc::clone(error)).is_none() {
            known.order.push_back(digest);
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_digest.remove(&oldest);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic between two statements above would leave one entry too few or too many at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these bytes caused it and nothing else did: neither the machine's load nor anybody who ended a process.
fn is_lasting(error: &AdmissionError) -> bool {
    use AdmissionError as E;
    match error {
        E::Text { .. }
        | E::Layout(_)
        | E::Invalid { .. }
        | E::Import { .. }
        | E::Withheld(_)
        | E::Portable(_)
        | E::Asynchronous
        | E::NoHandler
        | E::HandlerType { .. } => true,
        E::Stopped(Stop::Memory(_) | Stop::Cpu(_)) => true,
        // A signal that a program earns itself.
        E::Stopped(Stop::Signal(signal)) => FAULTS.map(Signal::as_raw).contains(signal),
        // The wall says how busy the machine was, a compiler without an answer may have been ended for its memory by the
        // kernel, and what is too large is known without compiling.
        E::Stopped(Stop::Wall(_))
        | E::Process(_)
        | E::TooLarge { .. }
        | E::Changed
        | E::Gone { .. }
        | E::UnderWay
        | E::Known(_) => false,
    }
}

const FAULTS: [Signal; 6] = [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS];
/// Refusals that are kept, some 1 KiB each at most; the oldest go.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::units::{Bytes, Span};

    #[test]
    fn f08_what_would_be_refused_again_is_remembered_within_a_bound() {
        let refusals = Refusals::default();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        for n in 0..=MOST {
            refusals.remember(digest(n), &Arc::new(AdmissionError::NoHandler));
        }
        assert!(refusals.of(&digest(0)).is_none() && refusals.of(&digest(1)).is_some());
        let known = refusals.lock();
        assert_eq!((known.by_digest.len(), known.order.len()), (MOST, MOST));
    }

    #[test]
    fn f08_what_the_machine_or_somebody_else_caused_is_not_remembered() {
        let lasting = |stop: Stop| is_lasting(&AdmissionError::Stopped(stop));
        assert!(lasting(Stop::Cpu(Span::secs(1))) && lasting(Stop::Memory(Bytes::mib(1))));
        assert!(!lasting(Stop::Wall(Span::secs(1))));
        assert!(lasting(Stop::Signal(Signal::SEGV.as_raw())));
        assert!(!lasting(Stop::Signal(Signal::TERM.as_raw())));
        let lost = super::super::process::ProcessError::NoAnswer("signal: 9".into());
        assert!(!is_lasting(&AdmissionError::Process(lost)));
    }
}
