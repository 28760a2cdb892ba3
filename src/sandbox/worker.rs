//! Worker processes: functions that the operator does not want in the gateway's own process.
//!
//! What unwinding cannot hold (a stack that overflows in the host, memory that runs out, an abort, a flaw of the engine) ends a
//! process, and whoever takes a process over has what it has. The gateway's has keys, tokens and every tenant's events. So a tenant
//! whose isolation is `process` has a worker: this program again, with one socket and nothing else ([`inside`]), behind the walls of
//! [`walls`]. It runs the same code ([`Runner`](super::Runner)) over the same artefacts; what it says is read by [`message`],
//! which believes nothing.
//!
//! A worker starts with the first call, serves one tenant, and ends when it has nothing to do. If it dies, its calls in flight fail,
//! the next call starts another, and nobody else notices.

mod death;
mod frames;
pub(super) mod fuzz;
pub(super) mod inside;
mod keeper;
mod link;
mod message;
mod outbox;
mod remote;
mod walls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

pub use self::death::{Death, DeathKind};
pub(super) use self::{
    inside::Job,
    keeper::{COMMAND, Program},
    remote::Remote,
};
use self::{keeper::Keeper, link::Link};
use super::{Overload, SandboxError};
use crate::id::TenantName;

/// How many workers there may be, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLimits {
    /// Workers at once: one for each tenant that is isolated and called.
    pub most: u32,
    /// Instances at once in one of them.
    pub instances: u32,
    /// Time without a call after which a worker ends.
    pub idle: Duration,
}

impl Default for WorkerLimits {
    /// Each takes some 20 MiB and a few threads that sleep.
    fn default() -> Self {
        Self { most: 32, instances: 32, idle: Duration::from_secs(300) }
    }
}

/// What is counted of workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Those that live.
    pub alive: u32,
    /// Those that may.
    pub most: u32,
    /// Deaths since the start, by [`DeathKind`].
    pub deaths: [u64; DeathKind::ALL.len()],
}

/// All workers of this process.
pub(super) struct Workers {
    limits: WorkerLimits,
    program: Program,
    /// Started with the first worker.
    keeper: OnceLock<Keeper>,
    alive: Mutex<Vec<Arc<Link>>>,
    houses: Mutex<HashMap<TenantName, Weak<House>>>,
    deaths: [AtomicU64; DeathKind::ALL.len()],
}

impl Workers {
    pub(super) fn new(limits: WorkerLimits, program: Program) -> Arc<Self> {
        Arc::new(Self {
            limits,
            program,
            keeper: OnceLock::new(),
            alive: Mutex::default(),
            houses: Mutex::default(),
            deaths: Default::default(),
        })
    }

    /// Where the tenant's functions run: the same for all of them.
    pub(super) fn house(self: &Arc<Self>, tenant: &TenantName) -> Arc<House> {
        let mut houses = lock(&self.houses);
        if let Some(house) = houses.get(tenant).and_then(Weak::upgrade) {
            return house;
        }
        // Of tenants that are gone; there are as many as the site ever had since the last new one.
        houses.retain(|_, house| house.strong_count() > 0);
        let house = Arc::new(House {
            tenant: tenant.clone(),
            workers: Arc::clone(self),
            current: ArcSwapOption::empty(),
            starting: tokio::sync::Mutex::default(),
            deaths: Mutex::default(),
        });
        houses.insert(tenant.clone(), Arc::downgrade(&house));
        house
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let mut alive = lock(&self.alive);
        alive.retain(|link| link.is_open());
        let mut deaths = [0; DeathKind::ALL.len()];
        for (told, counted) in deaths.iter_mut().zip(&self.deaths) {
            *told = counted.load(Ordering::Relaxed);
        }
        WorkerStats { alive: u32::try_from(alive.len()).unwrap_or(u32::MAX), most: self.limits.most, deaths }
    }

    /// Ends all of them, whatever they do.
    pub(super) fn end(&self) {
        lock(&self.alive).drain(..).for_each(|link| link.end());
    }

    /// Takes a place for another worker; if there is none, of one that has nothing to do.
    fn make_room(&self) -> Result<(), SandboxError> {
        let mut alive = lock(&self.alive);
        alive.retain(|link| link.is_open());
        while alive.len() >= usize::try_from(self.limits.most).unwrap_or(usize::MAX) {
            let idle = alive.iter().filter_map(|link| Some((link.idle_since()?, link.pid())));
            let Some((_, longest)) = idle.min() else {
                return Err(SandboxError::Overloaded(Overload::Workers));
            };
            // One that was called meanwhile stays, and the search goes on.
            alive.retain(|link| link.pid() != longest || !link.end_if_idle());
        }
        Ok(())
    }

    async fn start(self: &Arc<Self>, house: &Arc<House>) -> Result<Arc<Link>, SandboxError> {
        self.make_room()?;
        let failed = |error| SandboxError::internal(format!("a worker could not be started: {error}"));
        let keeper = match self.keeper.get() {
            Some(keeper) => keeper,
            None => {
                let made = Keeper::new(self.program.clone()).map_err(failed)?;
                self.keeper.get_or_init(|| made)
            }
        };
        let started = keeper.start().await.map_err(failed)?;
        let link = match Link::new(started.socket, started.pid) {
            Ok(link) => link,
            Err(error) => {
                // Its end is nobody's to wait for.
                drop(keeper.end(started.pid));
                return Err(failed(error));
            }
        };
        tracing::debug!(tenant.id = %house.tenant, worker.pid = started.pid, "a worker was started");
        lock(&self.alive).push(Arc::clone(&link));
        tokio::spawn(Arc::clone(self).tend(Arc::clone(&link), Arc::downgrade(house), house.tenant.clone()));
        Ok(link)
    }

    /// To the end of a worker.
    async fn tend(self: Arc<Self>, link: Arc<Link>, house: Weak<House>, tenant: TenantName) {
        let (pid, since) = (link.pid(), Instant::now());
        let end = || match self.keeper.get() {
            Some(keeper) => keeper.end(pid),
            None => tokio::sync::oneshot::channel().1,
        };
        let note = |death: &Death| {
            if let Some(house) = house.upgrade() {
                house.note_death(since);
            }
            if let Some(counter) = self.deaths.get(death.kind() as usize) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tracing::error!(tenant.id = %tenant, worker.pid = pid, "a worker died: it ended {death}");
        };
        Arc::clone(&link).tend(self.limits.idle, end, note).await;
        lock(&self.alive).retain(|other| !Arc::ptr_eq(other, &link));
        if let Some(house) = house.upgrade() {
            // Unless it has another by now.
            house.current.compare_and_swap(&Some(link), None);
        }
    }
}

/// Where one tenant's functions run.
pub(super) struct House {
    tenant: TenantName,
    workers: Arc<Workers>,
    current: ArcSwapOption<Link>,
    /// One call starts a worker; others wait for it.
    starting: tokio::sync::Mutex<()>,
    deaths: Mutex<Deaths>,
}

/// Deaths without a worker between them that lived for long.
#[derive(Debug, Default)]
struct Deaths {
    in_a_row: u32,
    not_before: Option<Instant>,
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("House").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl House {
    /// The tenant's worker, if it has one.
    fn open(&self) -> Option<Arc<Link>> {
        self.current.load_full().filter(|link| link.is_open())
    }

    /// The tenant's worker; starts one if it has none.
    async fn open_or_start(self: &Arc<Self>) -> Result<Arc<Link>, SandboxError> {
        let _one = self.starting.lock().await;
        if let Some(link) = self.open() {
            return Ok(link);
        }
        if lock(&self.deaths).not_before.is_some_and(|moment| Instant::now() < moment) {
            return Err(SandboxError::Overloaded(Overload::Restarting));
        }
        let link = self.workers.start(self).await?;
        self.current.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    /// The next worker starts at once, unless several died young.
    fn note_death(&self, since: Instant) {
        let mut deaths = lock(&self.deaths);
        deaths.in_a_row = if since.elapsed() >= LONG { 1 } else { deaths.in_a_row.saturating_add(1) };
        deaths.not_before = deaths.in_a_row.checked_sub(AT_ONCE).map(|beyond| {
            let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(beyond));
            Instant::now() + delay.min(LONGEST_DELAY)
        });
    }
}

impl Drop for House {
    /// No function of the tenant is left that could be called.
    fn drop(&mut self) {
        if let Some(link) = self.current.load_full() {
            link.end_if_idle();
        }
    }
}

// What is under these locks is whole whenever they are free.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker that lived for so long did not die of its start.
const LONG: Duration = Duration::from_secs(30);

/// So many deaths in a row are followed by a start at once, less one.
const AT_ONCE: u32 = 4;

/// After the next, and twice as long after each one more.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
