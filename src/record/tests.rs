//! The log as a whole: what a crash, a full disk and a forger do to it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    chain::{Chain, Line},
    entry::tests::record,
    segment::{Disk, Medium, Segment, Tape},
    *,
};
use crate::id::{RequestId, TenantName};

mod budget;
mod crash;
mod disk;
mod forger;
mod reading;

/// A log in a directory of its own.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        // Memory where there is some: hundreds of starts would wait for a disk.
        Self { dir: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn open(&self) -> AuditLog {
        self.open_with(Options::default())
    }

    fn open_with(&self, options: Options) -> AuditLog {
        AuditLog::open(&self.path(), options).unwrap()
    }

    /// `n` records of two tenants, in segments of 16 KiB.
    async fn filled(n: u64) -> Self {
        let world = Self::new();
        let log = world.open_with(small_segments());
        fill(&log, n).await;
        world
    }

    fn segments(&self) -> Vec<PathBuf> {
        let segments = Segment::list(&self.path().join(INVOCATIONS)).unwrap();
        segments.into_iter().map(|segment| segment.path).collect()
    }

    fn report(&self) -> ChainReport {
        verify(&self.path(), None).unwrap().chains.remove(0)
    }

    fn faults(&self) -> Vec<FaultKind> {
        self.report().faults.into_iter().map(|fault| fault.kind).collect()
    }

    /// Rewrites the lines of the segment with number `at`.
    fn bend(&self, at: usize, bend: impl FnOnce(&mut Vec<String>)) {
        let path = &self.segments()[at];
        let mut lines: Vec<_> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        bend(&mut lines);
        fs::write(path, lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
    }

    fn request_ids(&self) -> BTreeSet<String> {
        let shown = show(&self.path(), Filter::default()).unwrap();
        shown.filter_map(|shown| Some(shown.unwrap().value["request_id"].as_str()?.to_owned())).collect()
    }
}

fn small_segments() -> Options {
    Options { segment_bytes: 16 << 10, ..Options::default() }
}

async fn fill(log: &AuditLog, n: u64) {
    for n in 0..n {
        log.append(record(if n % 3 == 0 { "globex" } else { "acme" }, n)).await.unwrap();
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 + seconds)
}

fn refusal(client: IpAddr, seconds: u64) -> Refusal {
    Refusal {
        request_id: RequestId::new(seconds * 1000, 7),
        trace_id: None,
        time: at(seconds),
        client,
        status: 401,
        code: "unauthenticated",
        reason: "expired",
        detail: None,
        tenant: None,
        stage: Stage::Authenticate,
    }
}

/// A chain of two lines' worth of forgery: what somebody who knows the format can write.
fn forged(like: &str, change: impl FnOnce(String) -> String) -> String {
    let content = like.rsplit_once(",\"hash\":").unwrap().0;
    let content = change(content.to_owned());
    format!("{content},\"hash\":\"{}\"}}", Hash::of(content.as_bytes()))
}
