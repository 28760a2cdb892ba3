//! What goes when there is too much of it.

use super::*;

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
