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

use super::{
    artefact::Digest,
    compile::{AdmissionError, Component},
    process::ProcessError,
};
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
    /// Kept for the tenant's next question: one each.
    late: HashMap<TenantName, (Digest, Ended)>,
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
        if let Some((_, ended)) = state.late.remove(tenant).filter(|(late, _)| *late == digest) {
            return ended;
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
            let State { under_way, deferred, .. } = &mut *state;
            let Some(this) = under_way.get_mut(&digest) else { return later() };
            if this.ended.is_some() || left.is_zero() {
                this.waiting -= 1;
                let ended = this.ended.clone();
                if ended.is_some() && this.waiting == 0 {
                    under_way.remove(&digest);
                } else if ended.is_none() {
                    deferred.insert(tenant.clone());
                }
                return ended.unwrap_or_else(later);
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What was kept for the tenant is of no more use: it has the component.
    pub(super) fn forget(&self, tenant: &TenantName, digest: &Digest) {
        let mut state = self.lock();
        if state.late.get(tenant).is_some_and(|(late, _)| late == digest) {
            state.late.remove(tenant);
        }
    }

    fn end(&self, digest: &Digest, ended: Ended) {
        let mut state = self.lock();
        let State { under_way, late, deferred } = &mut *state;
        match under_way.get_mut(digest) {
            Some(this) if this.waiting > 0 => this.ended = Some(ended),
            _ => {
                if let Some(this) = under_way.remove(digest)
                    && late.len() < MOST
                {
                    late.insert(this.tenant, (*digest, ended));
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

/// Compilations under way, each a thread and a component's bytes (half a gigabyte if all are as large as they may be), and
/// results that are kept: those of more tenants wait for their turn.
const MOST: usize = 16;
