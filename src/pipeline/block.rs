//! What the operator has blocked, asked of every call once its caller is known, and told to those in flight.
//!
//! A blocked call is refused like one that policy forbids: who may not know that a tenant exists learns nothing from it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Refusal;
use crate::{
    authn::Caller,
    id::FunctionId,
    site::blocked::{Blocked, Target},
};

/// The list in force, shared by all requests without a lock.
#[derive(Debug, Default)]
pub struct Blocks {
    now: ArcSwap<Blocked>,
    changed: Notify,
}

impl Blocks {
    /// Nothing but what `blocked` says, from now on.
    pub fn new(blocked: Blocked) -> Self {
        Self { now: ArcSwap::from_pointee(blocked), changed: Notify::new() }
    }

    /// Puts another list in force and tells the calls in flight. Gives the one before.
    pub fn replace(&self, blocked: Blocked) -> Arc<Blocked> {
        let before = self.now.swap(Arc::new(blocked));
        self.changed.notify_waiters();
        before
    }

    /// What is blocked.
    pub fn now(&self) -> Arc<Blocked> {
        self.now.load_full()
    }

    /// Refuses a call that the list stops.
    pub(super) fn refuse(&self, function: &FunctionId, caller: &Caller) -> Result<(), Refusal> {
        let blocked = self.now.load();
        if blocked.is_empty() {
            return Ok(());
        }
        match blocked.stops(function, caller.id(), caller.key_id()) {
            Some((target, note)) => Err(Refusal::Blocked { target, why: note.why.clone() }),
            None => Ok(()),
        }
    }

    /// Does `work` unless the call is stopped, before it or under way: then the work is dropped where it stands.
    pub(super) async fn unless_stopped<T>(
        &self,
        function: &FunctionId,
        caller: &Caller,
        work: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let mut work = std::pin::pin!(work);
        loop {
            // Before the list is looked at, so that no change falls between.
            let changed = self.changed.notified();
            self.refuse(function, caller)?;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = changed => {}
            }
        }
    }
}

/// What came to a list, and what left it.
pub fn difference(before: &Blocked, after: &Blocked) -> (Vec<String>, Vec<String>) {
    let targets = |list: &Blocked| list.entries().map(|(target, _)| target).collect::<Vec<Target>>();
    let (before, after) = (targets(before), targets(after));
    let only = |these: &[Target], others: &[Target]| -> Vec<String> {
        these.iter().filter(|target| !others.contains(target)).map(Target::to_string).collect()
    };
    (only(&after, &before), only(&before, &after))
}
