//! Threads for guests that compute for longer than an I/O thread can spare.
//!
//! The queue is bounded and fair: tenants take turns, and none may have more jobs in it than it leaves room for, so one tenant's
//! endless loops cost another a wait of one CPU budget, not of a whole queue, and two that act together leave a third its room.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::StartError;

/// One invocation, to be run on some thread.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads and their queue.
#[derive(Debug)]
pub(super) struct CpuPool {
    shared: Arc<Shared>,
    capacity: usize,
}

/// The queue, or the tenant's share of it, is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    /// One line for each tenant that waits; the front line is served next. No line is empty.
    lines: VecDeque<(Arc<str>, VecDeque<Job>)>,
    waiting: usize,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).field("closed", &self.closed).finish()
    }
}

impl CpuPool {
    /// Starts the threads; at most `capacity` jobs wait for them.
    pub(super) fn start(threads: NonZeroUsize, capacity: usize) -> Result<Self, StartError> {
        let pool = Self { shared: Arc::default(), capacity };
        for number in 0..threads.get() {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new()
                .name(format!("sandbox-cpu-{number}"))
                .spawn(move || {
                    while let Some(job) = shared.next() {
                        // A job catches its guest's panics; should it panic itself, whoever waits for it is told by its
                        // closed channel, and the thread serves the next.
                        catch_unwind(AssertUnwindSafe(job)).ok();
                    }
                })
                .map_err(StartError::Thread)?;
        }
        Ok(pool)
    }

    /// Queues a job, or says at once that there is no room.
    pub(super) fn submit(&self, tenant: &Arc<str>, job: Job) -> Result<(), Full> {
        let mut queue = self.shared.lock();
        let free = self.capacity.saturating_sub(queue.waiting);
        if free == 0 {
            return Err(Full);
        }
        match queue.lines.iter_mut().find(|(owner, _)| owner == tenant) {
            Some((_, line)) if line.len() >= free => return Err(Full),
            Some((_, line)) => line.push_back(job),
            None => queue.lines.push_back((Arc::clone(tenant), VecDeque::from([job]))),
        }
        queue.waiting += 1;
        drop(queue);
        self.shared.ready.notify_one();
        Ok(())
    }
}

impl Drop for CpuPool {
    /// Jobs that still wait are dropped, and whoever waits for them is told by their closed channels.
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.lines);
        drop(queue);
        drop(dropped);
        self.shared.ready.notify_all();
    }
}

impl Shared {
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some((tenant, mut line)) = queue.lines.pop_front() {
                let job = line.pop_front();
                if !line.is_empty() {
                    queue.lines.push_back((tenant, line));
                }
                queue.waiting = queue.waiting.saturating_sub(1);
                if job.is_some() {
                    return job;
                }
                continue;
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // No job runs under the lock, so a poisoned queue is still a whole one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pool whose only thread waits until it is let go.
    fn held(capacity: usize) -> (CpuPool, mpsc::Sender<()>) {
        let pool = CpuPool::start(NonZeroUsize::MIN, capacity).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        pool.submit(
            &"holder".into(),
            Box::new(move || {
                started.send(()).unwrap();
                wait.recv().ok();
            }),
        )
        .unwrap();
        running.recv().unwrap();
        (pool, go)
    }

    #[test]
    fn tenants_take_turns() {
        let (pool, go) = held(8);
        let (done, order) = mpsc::channel();
        let submit = |tenant: &str, name: &'static str| {
            let done = done.clone();
            pool.submit(&tenant.into(), Box::new(move || done.send(name).unwrap()))
        };
        for name in ["a1", "a2", "a3", "a4"] {
            submit("a", name).unwrap();
        }
        assert_eq!(submit("a", "a5"), Err(Full));
        for name in ["b1", "b2"] {
            submit("b", name).unwrap();
        }
        drop(go);
        drop(done);
        let order: Vec<_> = (0..6).map(|_| order.recv().unwrap()).collect();
        assert_eq!(order, ["a1", "b1", "a2", "b2", "a3", "a4"]);
    }

    #[test]
    fn f29_a_job_that_panics_costs_no_thread() {
        let pool = CpuPool::start(NonZeroUsize::MIN, 4).unwrap();
        let (done, told) = mpsc::channel();
        pool.submit(&"a".into(), Box::new(|| panic!("on purpose"))).unwrap();
        pool.submit(&"a".into(), Box::new(move || done.send(1).unwrap())).unwrap();
        assert_eq!(told.recv(), Ok(1));
    }

    #[test]
    fn f14_tenants_that_act_together_leave_room_in_the_queue() {
        let (pool, _go) = held(16);
        let taken =
            |tenant: &str| (0..32).filter(|_| pool.submit(&tenant.into(), Box::new(|| ())).is_ok()).count();
        assert_eq!(["a", "b", "c", "d"].map(taken), [8, 4, 2, 1]);
    }

    #[test]
    fn f14_a_full_queue_sheds() {
        let (pool, _go) = held(2);
        pool.submit(&"a".into(), Box::new(|| ())).unwrap();
        pool.submit(&"b".into(), Box::new(|| ())).unwrap();
        assert_eq!(pool.submit(&"c".into(), Box::new(|| ())), Err(Full));
    }
}
