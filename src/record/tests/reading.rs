//! Records as operators see them.

use super::*;

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
