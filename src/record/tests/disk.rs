//! Many writers, a client that goes away, and disks that are full or slow.

use super::*;

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
