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

#[tokio::test]
async fn e07_every_record_is_chained_and_verifies_after_a_restart() {
    let world = World::filled(100).await;
    fill(&world.open(), 50).await;
    let report = world.report();
    assert!(report.faults.is_empty(), "{report}");
    assert!(world.segments().len() > 3);
    assert_eq!(report.records, 150 + world.segments().len() as u64);
    assert_eq!(world.request_ids().len(), 100, "the second fifty have the ids of the first");
}

#[tokio::test]
async fn e07_an_edit_an_insertion_a_move_and_a_removal_are_each_found() {
    let world = World::filled(60).await;
    world.bend(1, |lines| lines[3] = lines[3].replace("alice", "mallo"));
    assert!(matches!(world.faults()[..], [FaultKind::Edited { .. }]), "{}", world.report());

    let world = World::filled(60).await;
    world.bend(1, |lines| {
        lines[3] = forged(&lines[3], |content| content.replace("alice", "mallory"));
    });
    assert!(matches!(world.faults()[..], [FaultKind::DoesNotFollow { .. }]), "{}", world.report());

    let world = World::filled(60).await;
    world.bend(1, |lines| lines.insert(4, lines[3].clone()));
    assert!(matches!(world.faults()[..], [FaultKind::OutOfPlace { .. }]), "{}", world.report());

    let world = World::filled(60).await;
    world.bend(1, |lines| lines.insert(4, "{}".to_owned()));
    assert!(world.faults().contains(&FaultKind::Unreadable), "{}", world.report());

    let world = World::filled(60).await;
    world.bend(1, |lines| lines.swap(4, 5));
    assert!(
        matches!(world.faults()[..], [FaultKind::Missing { .. }, FaultKind::OutOfPlace { .. }]),
        "{}",
        world.report()
    );

    let world = World::filled(60).await;
    world.bend(1, |lines| drop(lines.remove(4)));
    assert!(
        matches!(world.faults()[..], [FaultKind::Missing { from, to }] if from == to),
        "{}",
        world.report()
    );

    let world = World::filled(60).await;
    fs::remove_file(&world.segments()[1]).unwrap();
    assert!(matches!(world.faults()[..], [FaultKind::Missing { .. }]), "{}", world.report());

    let world = World::filled(60).await;
    fs::remove_file(&world.segments()[0]).unwrap();
    assert!(matches!(world.faults()[..], [FaultKind::StartRemoved { .. }]), "{}", world.report());

    let world = World::filled(60).await;
    let mut misnamed = world.segments()[1].clone();
    misnamed.set_file_name("00000000000000000003.jsonl");
    fs::rename(&world.segments()[1], misnamed).unwrap();
    assert!(world.faults().contains(&FaultKind::Misnamed), "{}", world.report());
}

#[tokio::test]
async fn e07_an_insertion_with_hashes_that_fit_is_found_where_the_chain_goes_on() {
    let world = World::filled(60).await;
    world.bend(1, |lines| {
        let after = Line::parse(lines[3].as_bytes()).unwrap();
        let inserted = forged(&lines[4], |content| content.replace("alice", "mallory"));
        assert_eq!(Line::parse(inserted.as_bytes()).unwrap().prev, after.hash);
        lines.insert(4, inserted);
    });
    assert!(
        matches!(world.faults()[..], [FaultKind::OutOfPlace { .. }, FaultKind::DoesNotFollow { .. }]),
        "{}",
        world.report()
    );
}

#[test]
fn e07_any_single_byte_that_changes_is_found() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::filled(40));
    let files: Vec<_> = world.segments().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let total: usize = files.iter().map(|(bytes, _)| bytes.len()).sum();
    proptest!(ProptestConfig::with_cases(400), |(at in 0..total, change in 1..=255_u8)| {
        let mut at = at;
        let (bytes, path) = files.iter().find(|(bytes, _)| {
            let here = at < bytes.len();
            if !here {
                at -= bytes.len();
            }
            here
        }).unwrap();
        let mut bent = bytes.clone();
        bent[at] ^= change;
        fs::write(path, &bent).unwrap();
        let sound = verify(&world.path(), None).unwrap().sound;
        fs::write(path, bytes).unwrap();
        prop_assert!(!sound, "byte {at} of {} ^ {change}", path.display());
    });
    // Each byte of the last line as well: nothing follows that would show it.
    let (bytes, path) = files.last().unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for at in last..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 1;
        fs::write(path, &bent).unwrap();
        assert!(!verify(&world.path(), None).unwrap().sound, "byte {at}");
    }
}

#[tokio::test]
async fn a_crash_at_any_byte_of_the_last_line_loses_nothing_that_was_acknowledged() {
    let world = World::new();
    let log = world.open();
    fill(&log, 5).await;
    drop(log);
    let path = world.segments().pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let acknowledged = world.request_ids();
    let log = world.open();
    log.append(record("acme", 99)).await.unwrap();
    drop(log);
    let more = fs::read(&path).unwrap();
    for cut in whole.len()..=more.len() {
        let _ = fs::remove_dir_all(world.path().join(INVOCATIONS));
        fs::create_dir(world.path().join(INVOCATIONS)).unwrap();
        fs::write(&path, &more[..cut]).unwrap();
        let log = world.open();
        log.append(record("globex", 100)).await.unwrap();
        drop(log);
        let report = world.report();
        assert!(report.faults.is_empty(), "cut at {cut}: {report}");
        let torn = cut > whole.len() && cut < more.len();
        assert_eq!(report.recovered, u64::from(torn), "cut at {cut}");
        assert!(world.request_ids().is_superset(&acknowledged), "cut at {cut}");
        if torn {
            let aside = path.with_extension(format!("{}.torn", whole.len()));
            assert_eq!(fs::read(aside).unwrap(), more[whole.len()..cut]);
        }
    }
}

#[tokio::test]
async fn a_crash_while_a_segment_begins_loses_nothing() {
    for left in [&b""[..], b"{\"seq\":", b"\0\0\0\0\0\0"] {
        let world = World::filled(40).await;
        let next = world.report().last_seq.unwrap() + 1;
        let path = Segment::named(&world.path().join(INVOCATIONS), next).path;
        fs::write(&path, left).unwrap();
        let log = world.open();
        log.append(record("acme", 100)).await.unwrap();
        drop(log);
        let report = world.report();
        assert!(report.faults.is_empty(), "{report}");
        assert_eq!(report.recovered, u64::from(!left.is_empty()));
        assert_eq!(world.request_ids().len(), 41);
    }
}

#[tokio::test]
async fn a_line_that_is_being_written_is_no_fault_while_the_gateway_runs() {
    let world = World::new();
    let log = world.open();
    fill(&log, 3).await;
    let path = world.segments().pop().unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"{\"seq\":5,\"prev\":\"").unwrap();
    assert!(world.faults().is_empty(), "{}", world.report());
    drop(log);
    assert_eq!(world.faults(), [FaultKind::Torn]);
    drop(world.open());
    let report = world.report();
    assert!(report.faults.is_empty() && report.recovered == 1, "{report}");
}

#[tokio::test]
async fn a_full_disk_is_freed_by_what_need_not_be_kept() {
    let world = World::new();
    let disk = Arc::new(FullDisk::default());
    let medium = Arc::new(On(disk.clone())) as Arc<dyn Medium>;
    let retain = Retain { bytes: Some(20 << 10), age: None };
    let log = AuditLog::open_on(&world.path(), Options { retain, ..small_segments() }, &medium).unwrap();
    disk.room.store(1 << 20, SeqCst);
    log.tick(at(0)).await.unwrap();
    fill(&log, 60).await;
    let before = world.segments().len();
    disk.room.store(0, SeqCst);
    log.refused_unauthenticated(refusal("192.0.2.9".parse().unwrap(), 0)).await;
    // Room for the tombstone, even in a new segment; not for the count as well.
    disk.room.store(900, SeqCst);
    assert!(log.tick(at(20)).await.is_err());
    assert!(world.segments().len() < before);
    assert!(world.faults().is_empty(), "{}", world.report());
}

#[tokio::test]
async fn e07_a_start_appends_nothing_to_a_chain_that_was_edited() {
    let world = World::new();
    fill(&world.open(), 5).await;
    world.bend(0, |lines| lines[3] = lines[3].replace("alice", "mallo"));
    let error = AuditLog::open(&world.path(), Options::default()).unwrap_err();
    assert!(matches!(error, AuditError::Broken { after: 3, .. }), "{error}");
}

#[tokio::test]
async fn one_process_has_the_log() {
    let world = World::new();
    let log = world.open();
    let error = AuditLog::open(&world.path(), Options::default()).unwrap_err();
    assert!(matches!(error, AuditError::Locked { .. }), "{error}");
    drop(log);
    world.open();
}

#[tokio::test]
async fn only_the_owner_may_enter() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    fill(&world.open(), 1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.path()), 0o700);
    assert_eq!(mode(&world.path().join(INVOCATIONS)), 0o700);
    assert_eq!(mode(&world.segments()[0]), 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_of_many_tasks_have_one_order() {
    for (durability, inline_batches) in [
        (Durability::Process, 4),
        (Durability::Process, 1),
        (Durability::Process, 0),
        (Durability::Machine, 4),
    ] {
        let world = World::new();
        let options = Options { durability, inline_batches, segment_bytes: 64 << 10, ..Options::default() };
        let log = Arc::new(world.open_with(options));
        let tasks: Vec<_> = (0..32)
            .map(|task| {
                let log = log.clone();
                tokio::spawn(async move {
                    let mut seqs = Vec::new();
                    for n in 0..20 {
                        let tenant = format!("tenant-{}", task % 7);
                        seqs.push(log.append(record(&tenant, task * 1000 + n)).await.unwrap().seq);
                    }
                    assert!(seqs.is_sorted());
                    seqs
                })
            })
            .collect();
        let mut seqs = BTreeSet::new();
        for task in tasks {
            seqs.extend(task.await.unwrap());
        }
        assert_eq!(seqs.len(), 640);
        assert_eq!(log.stats().queue_depth, 0);
        drop(log);
        let report = world.report();
        assert!(report.faults.is_empty(), "{report}");
        assert_eq!(world.request_ids().len(), 640);
    }
}

#[tokio::test]
async fn a_request_that_goes_away_has_its_record() {
    let world = World::new();
    let log = world.open_with(Options { inline_batches: 0, ..Options::default() });
    {
        let mut append = std::pin::pin!(log.append(record("acme", 1)));
        let _ =
            std::future::poll_fn(|context| std::task::Poll::Ready(append.as_mut().poll(context).is_ready()))
                .await;
    }
    drop(log);
    assert_eq!(world.request_ids().len(), 1);
}

/// A disk with so many bytes left, which may refuse to truncate as well.
#[derive(Debug, Default)]
struct FullDisk {
    room: AtomicU64,
    read_only: AtomicBool,
}

#[derive(Debug)]
struct FullTape {
    disk: Arc<FullDisk>,
    file: Arc<dyn Tape>,
}

#[derive(Debug)]
struct On(Arc<FullDisk>);

impl Medium for On {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        if self.0.read_only.load(SeqCst) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(Arc::new(FullTape { disk: self.0.clone(), file: Disk.create(path)? }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        Ok(Arc::new(FullTape { disk: self.0.clone(), file: Disk.open(path)? }))
    }
}

impl Tape for FullTape {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = self.disk.room.load(SeqCst);
        let fits = bytes.len().min(room as usize);
        self.disk.room.fetch_sub(fits as u64, SeqCst);
        self.file.write_at(&bytes[..fits], offset)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.disk.read_only.load(SeqCst) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.file.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

#[tokio::test]
async fn e07_a_disk_that_is_full_refuses_and_the_chain_goes_on_when_it_is_not() {
    let world = World::new();
    let disk = Arc::new(FullDisk::default());
    let medium = Arc::new(On(disk.clone())) as Arc<dyn Medium>;
    let options = Options { segment_bytes: 16 << 10, ..Options::default() };
    let log = AuditLog::open_on(&world.path(), options, &medium).unwrap();
    let mut written = BTreeSet::new();
    let mut refused = 0;
    for n in 0..300 {
        // Room ends in the middle of lines and of opening lines; at times what is left cannot even be taken back.
        disk.room.store(if n % 3 == 0 { n * 7 % 900 } else { 1 << 20 }, SeqCst);
        disk.read_only.store(n % 4 == 0, SeqCst);
        let record = record("acme", n);
        let id = record.request_id.to_string();
        match log.append(record).await {
            Ok(_) => drop(written.insert(id)),
            Err(AuditError::Write { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 50 && written.len() > 150, "{refused} refused, {} written", written.len());
    assert_eq!(log.stats().failures, refused);
    disk.room.store(1 << 20, SeqCst);
    disk.read_only.store(false, SeqCst);
    log.append(record("acme", 0)).await.unwrap();
    written.insert(record("acme", 0).request_id.to_string());
    drop(log);
    let report = world.report();
    assert!(report.faults.is_empty(), "{report}");
    assert_eq!(world.request_ids(), written, "what was acknowledged, and nothing else");
}

#[tokio::test]
async fn refusals_are_counted_while_the_disk_is_full_and_recorded_when_it_is_not() {
    let world = World::new();
    let disk = Arc::new(FullDisk::default());
    let medium = Arc::new(On(disk.clone())) as Arc<dyn Medium>;
    let log = AuditLog::open_on(&world.path(), Options::default(), &medium).unwrap();
    let client = "192.0.2.9".parse().unwrap();
    log.tick(at(0)).await.unwrap();
    for _ in 0..5 {
        assert_eq!(log.refused_unauthenticated(refusal(client, 0)).await, Told::Counted);
    }
    assert!(log.tick(at(20)).await.is_err());
    disk.room.store(1 << 20, SeqCst);
    log.tick(at(40)).await.unwrap();
    let shown: Vec<_> = show(&world.path(), Filter::default()).unwrap().map(Result::unwrap).collect();
    assert_eq!(shown.iter().filter_map(|shown| shown.value["count"].as_u64()).sum::<u64>(), 5);
}

/// A disk whose writes wait until the test lets them go.
#[derive(Debug)]
struct SlowDisk {
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

#[derive(Debug)]
struct SlowTape {
    file: Arc<dyn Tape>,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Medium for SlowDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        Ok(Arc::new(SlowTape { file: Disk.create(path)?, go: self.go.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        Disk.open(path)
    }
}

impl Tape for SlowTape {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // An error means that the test let go for good.
        let _ = self.go.lock().unwrap_or_else(PoisonError::into_inner).recv();
        self.file.write_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

#[tokio::test]
async fn a_queue_that_is_full_refuses() {
    let world = World::new();
    let (let_go, go) = mpsc::channel();
    let medium = Arc::new(SlowDisk { go: Arc::new(Mutex::new(go)) }) as Arc<dyn Medium>;
    let options = Options { inline_batches: 0, ..Options::default() };
    let log = Arc::new(AuditLog::open_on(&world.path(), options, &medium).unwrap());
    let mut waiting = tokio::task::JoinSet::new();
    // The thread holds one batch; the queue takes its bound; all beyond is refused.
    for n in 0..20_000 {
        let log = log.clone();
        waiting.spawn(async move { log.append(record("acme", n)).await });
    }
    let mut refused = 0;
    while refused < 20_000 - 2 * 8192 {
        let answer = waiting.join_next().await.unwrap().unwrap();
        assert!(matches!(answer, Err(AuditError::QueueFull)));
        refused += 1;
    }
    drop(let_go);
    let mut written = 0;
    while let Some(answer) = waiting.join_next().await {
        match answer.unwrap() {
            Ok(_) => written += 1,
            Err(AuditError::QueueFull) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(written + refused, 20_000);
    assert_eq!(log.stats().failures, refused);
    drop(log);
    let report = world.report();
    assert!(report.faults.is_empty(), "{report}");
    assert_eq!(world.request_ids().len(), written as usize);
}

#[tokio::test]
async fn what_need_not_be_kept_goes_behind_a_tombstone() {
    let world = World::new();
    let retain = Retain { bytes: Some(64 << 10), age: None };
    let log = world.open_with(Options { retain, ..small_segments() });
    for round in 0..5 {
        fill(&log, 60).await;
        log.tick(at(round)).await.unwrap();
        let report = world.report();
        assert!(report.faults.is_empty(), "{report}");
    }
    let kept: u64 = world.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(kept <= 96 << 10, "{kept}");
    let report = world.report();
    assert!(report.earlier_removed && report.first_seq > Some(100), "{report}");
    drop(log);
    // A start goes on from there, and one more segment without a tombstone is missed.
    fill(&world.open_with(small_segments()), 10).await;
    assert!(world.faults().is_empty(), "{}", world.report());
    fs::remove_file(&world.segments()[0]).unwrap();
    assert!(matches!(world.faults()[..], [FaultKind::StartRemoved { .. }]), "{}", world.report());
}

#[tokio::test]
async fn what_is_too_old_goes() {
    let world = World::new();
    let retain = Retain { bytes: None, age: Some(Duration::from_secs(7 * 86_400)) };
    let log = world.open_with(Options { retain, ..small_segments() });
    fill(&log, 100).await;
    let (before, now) = (world.segments().len(), SystemTime::now());
    log.tick(now).await.unwrap();
    assert_eq!(world.segments().len(), before);
    log.tick(now + Duration::from_secs(8 * 86_400)).await.unwrap();
    assert_eq!(world.segments().len(), 1);
    assert!(world.faults().is_empty(), "{}", world.report());
}

#[tokio::test]
async fn a_crash_between_tombstone_and_removal_leaves_a_sound_log() {
    let world = World::new();
    let log = world.open_with(small_segments());
    fill(&log, 100).await;
    drop(log);
    let copies: Vec<_> = world.segments().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let retain = Retain { bytes: Some(20 << 10), age: None };
    let log = world.open_with(Options { retain, ..small_segments() });
    log.tick(at(0)).await.unwrap();
    drop(log);
    let removed: Vec<_> = copies.iter().filter(|(_, path)| !path.exists()).collect();
    assert!(removed.len() > 2);
    for (bytes, path) in removed.into_iter().rev() {
        fs::write(path, bytes).unwrap();
        assert!(world.faults().is_empty(), "{}", world.report());
    }
}

#[tokio::test]
async fn e07_a_tenants_extract_verifies_alone() {
    let world = World::filled(90).await;
    let (acme, globex): (TenantName, TenantName) = ("acme".parse().unwrap(), "globex".parse().unwrap());
    let mut lines = Vec::new();
    assert_eq!(extract(&world.path(), &acme, &mut lines).unwrap(), 60);
    let lines: Vec<_> = String::from_utf8(lines).unwrap().lines().map(|line| format!("{line}\n")).collect();
    let verified = |lines: &[String]| verify_extract(lines.concat().as_bytes(), &acme).unwrap();
    let report = verified(&lines);
    assert!(report.faults.is_empty() && report.records == 60 && !report.earlier_removed, "{report}");
    assert!(!lines.concat().contains("globex"));

    let mut bent = lines.clone();
    bent.remove(7);
    assert!(matches!(verified(&bent).faults[0].kind, FaultKind::TenantBroken { .. }));
    let mut bent = lines.clone();
    bent.swap(7, 8);
    assert!(verified(&bent).fault_count > 0);
    let mut bent = lines.clone();
    bent[7] = bent[7].replace("alice", "mallo");
    assert!(matches!(verified(&bent).faults[0].kind, FaultKind::Edited { .. }));
    let mut bent = lines.clone();
    let mut others = Vec::new();
    extract(&world.path(), &globex, &mut others).unwrap();
    bent.insert(7, String::from_utf8(others).unwrap().lines().next().unwrap().to_owned() + "\n");
    assert!(matches!(verified(&bent).faults[0].kind, FaultKind::Foreign { .. }));
    let report = verified(&lines[20..]);
    assert!(report.faults.is_empty() && report.earlier_removed);
}

#[tokio::test]
async fn e07_with_a_checkpoint_a_cut_tail_and_a_rewritten_chain_are_found() {
    let key = checkpoint::tests::key();
    let public = key.verifying_key();
    let world = World::new();
    let log = world.open_with(Options { checkpoint_key: Some(key), ..small_segments() });
    log.tick(at(0)).await.unwrap();
    fill(&log, 50).await;
    log.tick(at(59)).await.unwrap();
    let checkpoints = world.path().join(log::CHECKPOINT_FILE);
    assert!(!checkpoints.exists());
    log.tick(at(60)).await.unwrap();
    log.refused_unauthenticated(refusal("192.0.2.9".parse().unwrap(), 60)).await;
    fill(&log, 30).await;
    log.close(at(90)).await.unwrap();
    drop(log);
    // Whoever can write the log keeps no hand on this copy.
    let kept = world.dir.path().join("kept.jsonl");
    fs::copy(&checkpoints, &kept).unwrap();
    let report = |world: &World, anchor: bool| {
        let anchor = anchor.then_some(Anchor { checkpoints: &kept, key: &public });
        verify(&world.path(), anchor).unwrap()
    };
    let first = |report: &Report| report.chains[0].faults.first().map(|fault| fault.kind.clone());
    let sound = report(&world, true);
    assert!(sound.sound, "{sound}");
    assert_eq!(sound.chains[0].anchored_seq, sound.chains[0].last_seq);
    assert_eq!(sound.chains[1].anchored_seq, sound.chains[1].last_seq);
    assert!(report(&world, false).to_string().contains("tail not anchored"));

    let segment = world.segments().pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    let cut = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    fs::write(&segment, &whole[..cut]).unwrap();
    assert!(report(&world, false).sound, "the chain alone cannot know");
    assert!(matches!(first(&report(&world, true)), Some(FaultKind::TailRemoved { .. })));
    fs::write(&segment, &whole).unwrap();

    // Everything written anew, with hashes that fit.
    let rewritten = World::new();
    let log = rewritten.open_with(small_segments());
    for n in 0..85 {
        log.append(record("mallory", n)).await.unwrap();
    }
    drop(log);
    assert!(report(&rewritten, false).sound);
    assert!(matches!(first(&report(&rewritten, true)), Some(FaultKind::Rewritten { .. })));

    // No log at all.
    assert!(matches!(
        first(&report(
            &{
                let w = World::new();
                drop(w.open());
                w
            },
            true
        )),
        Some(FaultKind::TailRemoved { .. })
    ));

    // A checkpoint that was bent, and one of another key.
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replacen("\"seq\":5", "\"seq\":4", 1)).unwrap();
    assert_eq!(first(&report(&world, true)), Some(FaultKind::BadCheckpoint));
    fs::write(&kept, text).unwrap();
    let other = checkpoint::tests::key().verifying_key();
    let strange = verify(&world.path(), Some(Anchor { checkpoints: &kept, key: &other })).unwrap();
    assert!(
        strange.sound && strange.chains[0].anchored_seq.is_none() && strange.chains[0].other_checkpoints > 0
    );
}

#[tokio::test]
async fn a_million_refusals_stay_within_their_budget_and_push_nobody_out() {
    let world = World::new();
    let refused = RefusedLimits { budget_bytes: 512 << 10, ..RefusedLimits::default() };
    let log = world.open_with(Options { refused, ..Options::default() });
    fill(&log, 5).await;
    let (mut recorded, mut counted) = (0, 0);
    for n in 0..1_000_000_u32 {
        // 250 000 networks, 5 000 refusals a second.
        let client = IpAddr::V4(Ipv4Addr::from_bits((n % 250_000) << 8));
        match log.refused_unauthenticated(refusal(client, u64::from(n / 5000))).await {
            Told::Recorded(_) => recorded += 1,
            Told::Counted => counted += 1,
        }
        if n % 5000 == 0 {
            log.tick(at(u64::from(n / 5000))).await.unwrap();
        }
    }
    log.close(at(200)).await.unwrap();
    drop(log);
    assert_eq!(recorded + counted, 1_000_000);
    assert!(recorded < 50_000, "{recorded}");
    let segments = Segment::list(&world.path().join(REFUSED)).unwrap();
    let bytes: u64 = segments.iter().map(|segment| fs::metadata(&segment.path).unwrap().len()).sum();
    // The last flush comes after the last tick, so one flush more than the budget may be there.
    assert!(bytes < (512 << 10) + (3 << 20), "{bytes}");
    let report = verify(&world.path(), None).unwrap();
    assert!(report.sound, "{report}");
    assert_eq!(report.chains[0].records, 6, "records of callers with a token are all there");
}

#[tokio::test]
async fn aggregates_count_all_that_was_not_recorded_alone() {
    let world = World::new();
    let log = world.open();
    log.tick(at(0)).await.unwrap();
    for n in 0..1000 {
        log.refused_unauthenticated(refusal("192.0.2.9".parse().unwrap(), n / 100)).await;
    }
    log.tick(at(10)).await.unwrap();
    let shown: Vec<_> = show(&world.path(), Filter::default()).unwrap().map(Result::unwrap).collect();
    let alone = shown.iter().filter(|shown| shown.value["kind"] == "refused").count() as u64;
    let counted: Vec<_> =
        shown.iter().filter(|shown| shown.value["kind"] == "refused_before_authentication").collect();
    assert_eq!(alone, 20 + 9);
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].value["count"], 1000 - alone);
    insta::assert_snapshot!(
        counted[0].text().split_once(" times ").unwrap().1,
        @"unauthenticated (expired) at authenticate from 192.0.2.0/24, 2025-10-09T08:53:20.000Z to 2025-10-09T08:53:29.000Z"
    );
}

#[tokio::test]
async fn f35_what_is_shown_cannot_act_on_a_terminal() {
    let world = World::new();
    let log = world.open();
    let mut bad = record("acme", 1);
    bad.outcome = Outcome::refused(502, "function_failed", "\u{1b}[2J\u{9b}31m\u{202e}evil\u{7f}\r\n");
    bad.caller.id = "acme/\u{2066}bob".into();
    log.append(bad).await.unwrap();
    let shown = show(&world.path(), Filter { tenant: Some("acme".parse().unwrap()), ..Filter::default() });
    let shown = shown.unwrap().next().unwrap().unwrap();
    for text in [shown.text(), shown.json()] {
        assert!(!text.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{2069}').contains(&c)), "{text:?}");
    }
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown.json()).unwrap(), shown.value);
    insta::assert_snapshot!(
        shown.text(),
        @r"2025-10-09T08:53:20.001Z       2 502 function_failed acme/invoice acme/\u2066bob 0199c82c-c001-7000-8000-000000000001 at reply cpu=120us wall=340us acme/billing-may-invoice: \u001b[2J\u009b31m\u202eevil\u007f\u000d\u000a"
    );
}

#[tokio::test]
async fn records_are_found_by_what_the_operator_knows() {
    let world = World::filled(90).await;
    let ids = |filter| {
        let shown = show(&world.path(), filter).unwrap().map(Result::unwrap);
        shown.map(|shown| shown.value["request_id"].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    let all = Filter::default();
    assert_eq!(ids(Filter { tenant: Some("globex".parse().unwrap()), ..all.clone() }).len(), 30);
    assert_eq!(ids(Filter { function: Some("other".parse().unwrap()), ..all.clone() }).len(), 0);
    let one = record("acme", 40).request_id;
    assert_eq!(ids(Filter { request_id: Some(one), ..all.clone() }), [one.to_string()]);
    let acme = Some("acme".parse().unwrap());
    let since = Some(record("acme", 80).time);
    assert_eq!(ids(Filter { since, tenant: acme.clone(), ..all.clone() }).len(), 7);
    let newest = ids(Filter { limit: Some(3), tenant: acme, ..all.clone() });
    assert_eq!(newest.last(), Some(&record("acme", 89).request_id.to_string()));
    assert_eq!((newest.len(), ids(Filter { limit: Some(0), ..all }).len()), (3, 0));
}

#[test]
fn a_report_reads_well() {
    let tenant: TenantName = "acme".parse().unwrap();
    let mut chain = Chain::new(Head::NONE, std::collections::HashMap::new());
    let mut lines = Vec::new();
    for _ in 0..3 {
        chain.link(Some(&tenant), b"\"kind\":\"invocation\"", &mut lines);
    }
    lines.write_all(b"\x1b[2J\n").unwrap();
    let report = verify_extract(lines.as_slice(), &tenant).unwrap();
    insta::assert_snapshot!(report, @"
    acme: 3 records (1 to 3), tail not anchored
      extract:4: the line cannot be read: it was edited or inserted
    ");
}

#[tokio::test]
async fn what_follows_is_whole_lines_of_both_chains_and_none_is_lost_where_segments_end_or_go() {
    let world = World::new();
    let log =
        world.open_with(Options { retain: Retain { bytes: Some(40 << 10), age: None }, ..small_segments() });
    let numbers = |shown: Vec<Shown>| {
        let of = |shown: &Shown| shown.value["request_id"].as_str().map(str::to_owned);
        shown.iter().filter_map(of).collect::<Vec<_>>()
    };
    let id = |n| record("acme", n).request_id.to_string();
    fill(&log, 3).await;
    let (newest, mut follow) =
        Follow::open(&world.path(), Filter { limit: Some(2), ..Filter::default() }).unwrap();
    assert_eq!(numbers(newest), [id(1), id(2)]);
    assert_eq!(follow.turn().unwrap(), []);

    // Long before its record follows: refusals of another chain come where their time says.
    log.refused_unauthenticated(refusal("192.0.2.9".parse().unwrap(), 0)).await;
    log.append(record("acme", 3)).await.unwrap();
    let told = follow.turn().unwrap();
    assert_eq!(told.iter().map(Shown::kind).collect::<Vec<_>>(), ["refused", "invocation"]);

    // Segments end, and the oldest go before they were read; what is open is read to its end all the same.
    for n in 4..60 {
        log.append(record("acme", n)).await.unwrap();
    }
    let open = world.segments()[0].clone();
    let held = Segment::list(&world.path().join(INVOCATIONS)).unwrap()[0].first_seq;
    log.tick(at(120)).await.unwrap();
    assert!(!open.exists(), "retention removed the segment that is followed");
    let first = Segment::list(&world.path().join(INVOCATIONS)).unwrap()[0].first_seq;
    let told = numbers(follow.turn().unwrap());
    let lost = told.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert_eq!((held, lost), (1, 0), "in order");
    assert!(first > held && told.first() == Some(&id(4)) && told.last() == Some(&id(59)), "{told:?}");

    // A line is told once it is whole.
    drop(log);
    let path = world.segments().last().unwrap().clone();
    let whole = fs::read(&path).unwrap();
    let mut lines = whole.split_inclusive(|byte| *byte == b'\n');
    let line = lines.rfind(|line| line.windows(10).any(|part| part == b"invocation")).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let (head, tail) = line.split_at(50);
    file.write_all(head).unwrap();
    assert_eq!(follow.turn().unwrap(), []);
    file.write_all(tail).unwrap();
    assert_eq!(numbers(follow.turn().unwrap()), [id(59)]);
}
