//! Compilations that somebody waits for only so long.
//!
//! A reload must not wait for one tenant's compilation while other tenants' changes could be in force. So it waits for a
//! time; then the tenant's part stays as it was, the compilation goes on, and whoever asked to be told is told when it has
//! ended. A tenant has one compilation under way, and asks for the next when that has ended: it cannot fill the queue.

use std::{
    collections::{BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Instant,
};

use super::{admission::AdmissionError, artefact::Digest, compile::Component, process::ProcessError};
use crate::id::TenantName;

/// How a compilation ended.
pub(super) type Ended = Result<Arc<Component>, Arc<AdmissionError>>;

type Tell = Box<dyn Fn(BTreeSet<TenantName>) + Send + Sync>;

/// What is under way, and what ended when nobody waited any more.
#[derive(Default)]
pub(super) struct Compilations {
    state: Mutex<State>,
    ended: Condvar,
    tell: OnceLock<Tell>,
}

#[derive(Default)]
struct State {
    under_way: HashMap<Digest, UnderWay>,
    /// Kept for each tenant until its part is whole: what ended late, and what failed, which would else be compiled again each
    /// time that its part is built for the next of its components.
    kept: HashMap<TenantName, HashMap<Digest, Ended>>,
    /// Who was sent away, and is to ask again.
    deferred: BTreeSet<TenantName>,
}

struct UnderWay {
    tenant: TenantName,
    waiting: usize,
    ended: Option<Ended>,
}

impl Compilations {
    /// Whom to tell of tenants that may ask again. The first holds.
    pub(super) fn when_ended(&self, tell: Tell) {
        self.tell.set(tell).ok();
    }

    /// What comes of `compile`, on a thread of its own, if it ends by `until`; [`AdmissionError::UnderWay`] if not.
    pub(super) fn wait(
        self: &Arc<Self>,
        tenant: &TenantName,
        digest: Digest,
        until: Instant,
        compile: impl FnOnce() -> Ended + Send + 'static,
    ) -> Ended {
        let mut state = self.lock();
        if let Some(ended) = state.kept.get(tenant).and_then(|kept| kept.get(&digest)) {
            return ended.clone();
        }
        let later = || Err(Arc::new(AdmissionError::UnderWay));
        let State { under_way, deferred, .. } = &mut *state;
        match under_way.get_mut(&digest) {
            // Another tenant's, in this same reload: they wait together.
            Some(same) if same.waiting > 0 => same.waiting += 1,
            // It was waited for before, and whoever waited is told when it ends: once is enough.
            Some(_) => {
                deferred.insert(tenant.clone());
                return later();
            }
            None => {
                let is_own = |other: &UnderWay| other.tenant == *tenant && other.ended.is_none();
                if under_way.values().any(is_own) || under_way.len() >= MOST {
                    deferred.insert(tenant.clone());
                    return later();
                }
                let these = Arc::clone(self);
                let started = thread::Builder::new().name("compilation".to_owned()).spawn(move || {
                    let panicked =
                        || ProcessError::NoAnswer("the gateway's own part of it panicked".to_owned());
                    let ended = catch_unwind(AssertUnwindSafe(compile));
                    these.end(&digest, ended.unwrap_or_else(|_| Err(Arc::new(panicked().into()))));
                });
                if let Err(error) = started {
                    return Err(Arc::new(ProcessError::Start(error).into()));
                }
                // The thread ends in `end`, which needs the lock that is held here.
                under_way.insert(digest, UnderWay { tenant: tenant.clone(), waiting: 1, ended: None });
            }
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let State { under_way, kept, deferred } = &mut *state;
            let Some(this) = under_way.get_mut(&digest) else { return later() };
            if this.ended.is_some() || left.is_zero() {
                this.waiting -= 1;
                let ended = this.ended.clone();
                if ended.is_some() && this.waiting == 0 {
                    under_way.remove(&digest);
                } else if ended.is_none() {
                    deferred.insert(tenant.clone());
                }
                if let Some(failed @ Err(_)) = &ended {
                    keep(kept, tenant, digest, failed);
                }
                return ended.unwrap_or_else(later);
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The tenant's part is whole, or faulty for good: what was kept for it is of no more use, and what failed may be tried again.
    pub(super) fn settled(&self, tenant: &TenantName) {
        self.lock().kept.remove(tenant);
    }

    fn end(&self, digest: &Digest, ended: Ended) {
        let mut state = self.lock();
        let State { under_way, kept, deferred } = &mut *state;
        match under_way.get_mut(digest) {
            Some(this) if this.waiting > 0 => this.ended = Some(ended),
            _ => {
                if let Some(this) = under_way.remove(digest) {
                    keep(kept, &this.tenant, *digest, &ended);
                }
            }
        }
        let deferred = std::mem::take(deferred);
        drop(state);
        self.ended.notify_all();
        if !deferred.is_empty()
            && let Some(tell) = self.tell.get()
        {
            tell(deferred);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two statements above would leave one tenant deferred at worst, until its files change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Within bounds; what finds no room is compiled again.
fn keep(
    kept: &mut HashMap<TenantName, HashMap<Digest, Ended>>,
    tenant: &TenantName,
    digest: Digest,
    ended: &Ended,
) {
    if kept.len() < MOST_TENANTS || kept.contains_key(tenant) {
        let kept = kept.entry(tenant.clone()).or_default();
        if kept.len() < MOST_OF_ONE {
            kept.insert(digest, ended.clone());
        }
    }
}

/// Compilations under way, each a thread and a component's bytes (half a gigabyte if all are as large as they may be): those of
/// more tenants wait for their turn.
const MOST: usize = 16;
/// Tenants for whom something is kept, and how much for each: as many as one has functions.
const MOST_TENANTS: usize = 256;
const MOST_OF_ONE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::{super::process::Stop, *};
    use crate::site::units::Span;

    #[test]
    fn f08_what_failed_is_not_compiled_again_while_a_tenants_other_components_are() {
        let compilations = Arc::new(Compilations::default());
        let (tell, told) = mpsc::channel();
        compilations.when_ended(Box::new(move |tenants| tell.send(tenants).unwrap()));
        let acme: TenantName = "acme".parse().unwrap();
        let digest = |n: u8| Digest::of(&[n]);
        let far = Instant::now() + Duration::from_secs(60);
        let busy = || Err(Arc::new(AdmissionError::Stopped(Stop::Wall(Span::secs(1)))));
        let never = || -> Ended { panic!("it was compiled again") };
        let text = |ended: Ended| ended.unwrap_err().to_string();
        let stopped = text(busy());

        assert_eq!(text(compilations.wait(&acme, digest(1), far, busy)), stopped);
        let (go, gone) = mpsc::channel::<()>();
        let slow = move || {
            gone.recv().ok();
            busy()
        };
        let under_way = AdmissionError::UnderWay.to_string();
        assert_eq!(text(compilations.wait(&acme, digest(2), Instant::now(), slow)), under_way);
        // The next round: what has failed is known, and nothing is begun beside what is under way.
        assert_eq!(text(compilations.wait(&acme, digest(1), far, never)), stopped);
        for other in [2, 3] {
            assert_eq!(text(compilations.wait(&acme, digest(other), far, never)), under_way);
        }
        drop(go);
        assert_eq!(told.recv().unwrap(), BTreeSet::from([acme.clone()]));
        for failed in [1, 2] {
            assert_eq!(text(compilations.wait(&acme, digest(failed), far, never)), stopped);
        }
        // Once the part is built whole, a change of it tries again.
        compilations.settled(&acme);
        let again = || Err(Arc::new(AdmissionError::NoHandler));
        let told = text(compilations.wait(&acme, digest(1), far, again));
        assert_eq!(told, AdmissionError::NoHandler.to_string());
    }
}
