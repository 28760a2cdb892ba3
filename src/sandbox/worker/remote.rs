//! A function that runs in its tenant's worker: what takes the place of an instance in the gateway's process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::timeout_at;

use super::{
    super::{Component, EventInput, LimitName, Limits, Reply, SandboxError, Usage},
    House,
    death::Death,
    link::{Link, Pending, Unsent},
    message::{self, Terms},
};

/// One function of a revision, by a number that no other has.
#[derive(Debug)]
pub(in super::super) struct Remote {
    house: Arc<House>,
    number: u32,
    component: Arc<Component>,
}

impl Remote {
    pub(in super::super) fn new(house: Arc<House>, component: Arc<Component>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self { house, number: NEXT.fetch_add(1, Ordering::Relaxed), component }
    }

    /// Runs the function on an event, in time that began at `started` and ends with the limit on the wall.
    pub(in super::super) async fn call(
        &self,
        event: EventInput<'_>,
        authority: &str,
        started: Instant,
        limits: &Limits,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        let deadline = started + limits.wall.value.0;
        let sent = timeout_at(deadline.into(), self.send(&event, authority, started, limits, usage)).await;
        let Ok(sent) = sent else { return Err(out_of_wall(limits, usage)) };
        let (link, mut pending) = sent?;
        usage.worker = Some(link.pid());
        let mut bill = Bill { usage, most: limits.cpu.value.0, since: Instant::now(), settled: false };
        // The worker holds the guest to its limit and tells what it used; this timer is for a worker that does not.
        let answer = match timeout_at((deadline + GRACE).into(), pending.answer()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(death)) => return Err(SandboxError::WorkerDied(death)),
            Err(_) => return Err(out_of_wall(limits, bill.usage)),
        };
        match message::read_answer(&answer, limits, started.elapsed(), bill.usage) {
            Ok(result) => {
                bill.settled = true;
                result
            }
            Err(garbled) => {
                let death = Death::Protocol(garbled.to_string());
                link.condemn(death.clone());
                Err(SandboxError::WorkerDied(death))
            }
        }
    }

    /// Sends the call, after whatever has to be done first.
    async fn send(
        &self,
        event: &EventInput<'_>,
        authority: &str,
        started: Instant,
        limits: &Limits,
        usage: &mut Usage,
    ) -> Result<(Arc<Link>, Pending), SandboxError> {
        let mut frame = None;
        let mut artefact = None;
        for _ in 0..MAX_TRIES {
            let link = match self.house.open() {
                Some(link) => link,
                None => {
                    usage.cold = true;
                    self.house.open_or_start().await?
                }
            };
            let call = frame
                .take()
                .unwrap_or_else(|| message::call(self.number, started.elapsed(), authority, event));
            match link.call(self.number, call, message::longest_answer(limits), artefact.clone()) {
                Ok(pending) => return Ok((link, pending)),
                Err(Unsent::Full) => return Err(SandboxError::Overloaded(super::Overload::Queue)),
                Err(Unsent::Closed(unsent)) => frame = Some(unsent),
                Err(Unsent::NotLoaded(unsent)) => {
                    frame = Some(unsent);
                    usage.cold = true;
                    artefact = Some(self.artefact(limits).await?);
                }
            }
        }
        // Each time the worker went just as it was called.
        Err(SandboxError::Overloaded(super::Overload::Restarting))
    }

    async fn artefact(
        &self,
        limits: &Limits,
    ) -> Result<(Vec<u8>, Arc<super::super::artefact::Artefact>), SandboxError> {
        let component = Arc::clone(&self.component);
        let reading = tokio::task::spawn_blocking(move || component.artefact());
        let read =
            reading.await.map_err(|e| SandboxError::internal(format!("an artefact was not read: {e}")))?;
        let terms = Terms::new(self.component.digest(), limits).frame(self.number);
        let terms = terms.ok_or_else(|| SandboxError::internal("a function cannot be told to a worker"))?;
        Ok((terms, read?))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(link) = self.house.open() {
            link.unload(self.number);
        }
    }
}

/// What a call is charged with of which the worker does not tell, since nobody waits for it any more or the worker is gone: the time
/// that there was, up to its limit. That is never too little, so nobody computes for nothing by leaving early.
struct Bill<'a> {
    usage: &'a mut Usage,
    most: Duration,
    since: Instant,
    settled: bool,
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.usage.cpu += self.since.elapsed().min(self.most);
        }
    }
}

fn out_of_wall(limits: &Limits, usage: &mut Usage) -> SandboxError {
    let hit = limits.hit(LimitName::Wall);
    usage.hits.push(hit);
    SandboxError::WallExhausted(hit)
}

/// A worker that goes just as it is called is replaced; more than that is a worker that does not stay.
const MAX_TRIES: usize = 5;

/// Beyond the limit on the wall, for the worker to say so itself.
const GRACE: Duration = Duration::from_millis(250);
