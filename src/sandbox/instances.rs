//! Places in the instance pool, and which tenant holds them.
//!
//! A guest of the portable world keeps its place while it waits, and a tenant may have as many such functions as it likes. So no
//! tenant holds more places than it leaves free (F14): alone it gets half of them, a second one beside it half of what is left,
//! and whoever comes next finds some.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use super::outcome::Overload;
use crate::id::TenantName;

/// All places.
#[derive(Debug)]
pub(super) struct Instances {
    limit: u32,
    taken: AtomicU32,
    tenants: Mutex<HashMap<TenantName, Weak<Share>>>,
}

/// What one tenant holds, in whichever revision.
#[derive(Debug, Default)]
pub(super) struct Share {
    places: AtomicU32,
    /// Of the memory of all guests.
    pub(super) bytes: AtomicUsize,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    instances: &'a Instances,
    share: &'a Share,
}

impl Instances {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, taken: AtomicU32::new(0), tenants: Mutex::default() }
    }

    /// The tenant's.
    pub(super) fn share_of(&self, tenant: &TenantName) -> Arc<Share> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = tenants.get(tenant).and_then(Weak::upgrade) {
            return share;
        }
        if tenants.len() == tenants.capacity() {
            tenants.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::default();
        tenants.insert(tenant.clone(), Arc::downgrade(&share));
        share
    }

    /// Takes a place for a guest of this tenant.
    pub(super) fn enter<'a>(&'a self, share: &'a Share) -> Result<Place<'a>, Overload> {
        // Counted first and judged after, without a lock that all calls would share: those who come together may be turned
        // away for each other's sake, and nobody gets a place that is not there.
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let own = share.places.fetch_add(1, Ordering::Relaxed);
        let place = Place { instances: self, share };
        match self.limit.saturating_sub(taken) {
            0 => Err(Overload::Instances),
            free if own >= free => Err(Overload::Tenant),
            _ => Ok(place),
        }
    }

    /// How many are taken, of how many. Who is being turned away is counted for a moment, hence the minimum.
    pub(super) fn occupancy(&self) -> (u32, u32) {
        (self.taken.load(Ordering::Relaxed).min(self.limit), self.limit)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.instances.taken.fetch_sub(1, Ordering::Relaxed);
        self.share.places.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f14_no_tenant_holds_more_places_than_it_leaves() {
        let instances = Instances::new(8);
        let share = |tenant: &str| instances.share_of(&tenant.parse().unwrap());
        let shares: Vec<_> = ["acme", "globex", "initech", "umbrella"].into_iter().map(share).collect();
        let mut held = Vec::new();
        let mut counts = Vec::new();
        for share in &shares {
            let before = held.len();
            let refused = loop {
                match instances.enter(share) {
                    Ok(place) => held.push(place),
                    Err(overload) => break overload,
                }
            };
            assert_eq!(refused, if held.len() == 8 { Overload::Instances } else { Overload::Tenant });
            counts.push(held.len() - before);
        }
        assert_eq!(counts, [4, 2, 1, 1], "each finds some");
        assert_eq!(instances.occupancy(), (8, 8));
        held.clear();
        assert_eq!(instances.occupancy(), (0, 8), "nobody who was turned away is still counted");
        assert!(Arc::ptr_eq(&shares[0], &share("acme")), "a reload gives nobody a second share");
        assert!(Instances::new(1).enter(&Share::default()).is_ok());
    }
}
