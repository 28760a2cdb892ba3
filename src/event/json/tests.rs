use super::*;
use crate::event::fuzz;
use proptest::prelude::*;
use serde_json::json;

fn read(text: &str) -> Result<Value, Reason> {
    parse(text, &JsonLimits::MAX).map(|p| p.value).map_err(|f| f.reason)
}

/// `\x{..}` as bytes.
fn unescape(text: &str) -> Vec<u8> {
    let mut pieces = text.split("\\x{");
    let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        let (hex, literal) = piece.split_once('}').unwrap();
        bytes.extend((0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()));
        bytes.extend(literal.as_bytes());
    }
    bytes
}

#[test]
fn d03_d05_d06_every_hostile_fixture_is_refused_for_its_reason() {
    let lines = include_str!("../../../tests/fixtures/event/refused.txt").lines();
    let mut refused = 0;
    for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (reason, text) = line.split_once('|').unwrap();
        let told = parse_bytes(&unescape(text), &JsonLimits::MAX).map_err(|f| format!("{:?}", f.reason));
        assert_eq!(told.map(|p| p.value), Err(reason.to_owned()), "{line}");
        refused += 1;
    }
    assert!(refused > 90, "{refused}");
}

#[test]
fn what_is_json_is_read() {
    let text =
        r#" { "a" : [ 1 , -2.5e3, true,false , null , "\"\\\/\t\n\r\u00e9\ud83d\ude00" ] ,"": {}, "b":[]}  "#;
    assert_eq!(
        read(text).unwrap(),
        json!({"a": [1, -2500.0, true, false, null, "\"\\/\t\n\ré😀"], "": {}, "b": []})
    );
    assert_eq!(read("\"e\u{301}\"").unwrap(), json!("é"));
    assert_eq!(read("0").unwrap(), json!(0));
}

#[test]
fn d04_json_nested_100_000_deep_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = open.repeat(100_000) + "1" + &close.repeat(100_000);
        assert_eq!(read(&deep), Err(Reason::Depth(32)));
        assert_eq!(read(&open.repeat(100_000)), Err(Reason::Depth(32)));
        assert!(read(&(open.repeat(32) + "1" + &close.repeat(32))).is_ok());
        assert_eq!(read(&(open.repeat(33) + "1" + &close.repeat(33))), Err(Reason::Depth(32)));
    }
}

#[test]
fn d04_each_bound_holds_and_not_one_less() {
    let list = |n: usize| format!("[{}]", vec!["0"; n].join(","));
    assert!(read(&list(1_000)).is_ok());
    assert_eq!(read(&list(1_001)), Err(Reason::Items(1_000)));
    let object =
        |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":0")).collect::<Vec<_>>().join(","));
    assert!(read(&object(256)).is_ok());
    assert_eq!(read(&object(257)), Err(Reason::Members(256)));
    let nodes = |n: usize| format!("[{}]", vec![list(999); n].join(","));
    assert_eq!(read(&format!("[{},{}]", nodes(9), list(997))).map(|_| ()), Ok(()));
    assert_eq!(read(&nodes(10)), Err(Reason::Nodes(10_000)));
    let string = |n: usize| format!("\"{}\"", "a".repeat(n));
    assert!(read(&string(65_536)).is_ok());
    assert_eq!(read(&string(65_537)), Err(Reason::String(65_536)));
    assert_eq!(read(&format!("{{{}:1}}", string(65_537))), Err(Reason::String(65_536)));
    assert_eq!(read(&format!("\"{}\"", "\\n".repeat(65_537))), Err(Reason::String(65_536)));
    // U+0344 is two characters in normal form C, of two bytes each.
    assert_eq!(read(&format!("\"{}\"", "\u{344}".repeat(20_000))), Err(Reason::String(65_536)));
    let low = JsonLimits { depth: 1, nodes: 3, string_bytes: 2, items: 2, members: 1 };
    for (text, reason) in [
        ("[[]]", Reason::Depth(1)),
        ("[1,2,3]", Reason::Items(2)),
        ("\"abc\"", Reason::String(2)),
        ("{\"a\":1,\"b\":2}", Reason::Members(1)),
    ] {
        assert_eq!(parse(text, &low).map_err(|f| f.reason), Err(reason), "{text}");
    }
}

#[test]
fn d11_a_fault_tells_its_place_and_never_a_value() {
    let fault = parse(r#"{"a":[0,{"b/c~":["hunter2","\u0000"]}]}"#, &JsonLimits::MAX).unwrap_err();
    assert_eq!((fault.pointer.as_str(), fault.offset), ("/a/1/b~1c~0/1", Some(28)));
    assert!(!format!("{fault} {fault:?}").contains("hunter2"));
    let long = format!("{{\"{}\":{{\"b\":!}}}}", "k".repeat(10_000));
    assert_eq!(parse(&long, &JsonLimits::MAX).unwrap_err().pointer, "/…");
}

#[test]
fn the_plain_run_ends_at_the_first_byte_that_needs_thought() {
    for special in [0_u8, 0x1f, b'"', b'\\', 0x7f, 0x80, 0xff] {
        for at in 0..40 {
            let mut bytes = vec![b' '; 40];
            bytes[at] = special;
            assert_eq!(plain_run(&bytes), at, "{special} at {at}");
        }
    }
    assert_eq!(plain_run(&[b'!'; 19]), 19);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number)),
        "\\PC*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("\\PC{0,4}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn d15_what_is_accepted_serde_json_reads_alike(value in any_json()) {
        let text = value.to_string();
        fuzz::strict_json(text.as_bytes());
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(read(&pretty), read(&text));
    }

    #[test]
    fn d15_damaged_json_is_read_alike_or_refused(value in any_json(), at: prop::sample::Index, byte: u8) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        fuzz::strict_json(&text);
    }

    #[test]
    fn d15_any_text_is_read_alike_or_refused(text in "[\\[\\]{}\",:0-9eE.+\\-\\\\utrfalsn ]{0,40}") {
        fuzz::strict_json(text.as_bytes());
    }
}
