//! What a crash leaves, and what the next start makes of it.

use super::*;

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
