//! Whoever can write the directory: edits, insertions, moves, removals, and a chain written anew.

use super::*;

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
