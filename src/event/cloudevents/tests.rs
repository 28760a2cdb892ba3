//! Events in both modes, whole: the specification's examples, each rule of an attribute, and that the modes agree.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{
        BodyBounds, Event, EventRules, Written,
        fuzz::{any_cloudevent, event_of, in_binary_mode, in_structured_mode, seen},
        rules::EventHead,
    },
    id::FunctionId,
    site::{
        diagnostic::{Diagnostic, Source},
        manifest::RawManifest,
    },
};

const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false,
    "properties": {"name": {"type": "string", "maxLength": 8, "x-sanitize": "trim"}, "list": {"type": "array"}, "n": {"type": "number"}}}"#;

fn compile(event: &str, schema: Option<&str>) -> (Option<EventRules>, Vec<Diagnostic>) {
    let schema_line = schema.map_or("", |_| "schema = \"event.schema.json\"\n");
    let toml = format!(
        "component = \"a.wasm\"\nmethods = [\"GET\", \"POST\"]\n[event]\nenvelope = \"cloudevents\"\n{schema_line}{event}\n"
    );
    let manifest: RawManifest = toml::from_str(&toml).unwrap();
    let schema = schema.map(|text| Source::new("event.schema.json", text));
    let written = Written {
        function: &FunctionId { tenant: "acme".parse().unwrap(), function: "f".parse().unwrap() },
        manifest: &manifest,
        manifest_source: &Source::new("function.toml", toml),
        event_schema: schema.as_ref(),
        query_schema: None,
        response_schema: None,
    };
    EventRules::compile(written, BodyBounds { max_bytes: 256 * 1024, ..BodyBounds::default() })
}

fn rules(event: &str) -> EventRules {
    compile(event, Some(SCHEMA)).0.unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn structured(rules: &EventRules, body: impl Into<Bytes>) -> Result<Event, EventError> {
    event_of(rules, &headers(&[("content-type", STRUCTURED)]), body.into())
}

/// The least that an event has, and the attributes in `more`; `null` takes one away.
fn with(more: Value) -> String {
    let mut event =
        json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"name": "Ada"}});
    for (name, value) in more.as_object().unwrap() {
        event.as_object_mut().unwrap().insert(name.clone(), value.clone());
    }
    event.to_string()
}

/// A refusal in one line.
fn told(refused: Result<Event, EventError>) -> String {
    match refused.map(|event| event.headers().len()) {
        Err(EventError::Invalid { errors }) => {
            let line =
                |v: &Violation| format!("{} {} {}", v.pointer, v.keyword, v.limit.as_deref().unwrap_or("-"));
            errors.iter().map(line).collect::<Vec<_>>().join("; ")
        }
        Err(EventError::Malformed(fault)) => format!("{} {}: {}", fault.part, fault.pointer, fault.reason),
        Err(other) => other.to_string(),
        Ok(attributes) => format!("taken, {attributes} headers"),
    }
}

#[test]
fn d13_the_specifications_examples_are_one_event_in_either_mode() {
    let rules = any_cloudevent().unwrap();
    // JSON format §3.2, each with what it says is the same in HTTP's binary mode; media types are of this function.
    let common = [
        ("ce-specversion", "1.0"),
        ("ce-type", "com.example.someevent"),
        ("ce-source", "/mycontext"),
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-comexampleextension1", "value"),
        ("ce-comexampleothervalue", "5"),
    ];
    let context = r#""specversion" : "1.0", "type" : "com.example.someevent", "source" : "/mycontext",
        "time" : "2018-04-05T17:31:00Z", "comexampleextension1" : "value", "comexampleothervalue" : 5,"#;
    for (id, structured_rest, content_type, data) in [
        (
            "A234-1234-1234",
            r#""datacontenttype" : "application/octet-stream", "data_base64" : "AP9C""#,
            "application/octet-stream",
            b"\x00\xffB".as_slice(),
        ),
        (
            "B234-1234-1234",
            r#""unsetextension": null, "datacontenttype" : "text/plain", "data" : "<much wow=\"xml\"/>""#,
            "text/plain",
            b"<much wow=\"xml\"/>",
        ),
        (
            "C234-1234-1234",
            r#""subject": null, "datacontenttype" : "application/json",
                "data" : { "appinfoA" : "abc", "appinfoB" : 123, "appinfoC" : true }"#,
            "application/json",
            b"{\n  \"appinfoA\" : \"abc\",\n  \"appinfoB\" : 123,\n  \"appinfoC\" : true\n}",
        ),
        (
            "C234-1234-1234",
            r#""subject": null, "datacontenttype" : "application/json", "data" : 1.5"#,
            "application/json",
            b"1.5",
        ),
        (
            "D234-1234-1234",
            r#""subject": null, "data" : "I'm just a string""#,
            "application/json",
            b"\"I'm just a string\"",
        ),
    ] {
        let body = format!("{{{context} \"id\" : \"{id}\", {structured_rest}}}");
        let from_body = structured(&rules, body).unwrap();
        let mut pairs = common.to_vec();
        pairs.extend([("ce-id", id), ("content-type", content_type)]);
        let from_headers = event_of(&rules, &headers(&pairs), Bytes::copy_from_slice(data)).unwrap();
        assert_eq!(seen(&from_body), seen(&from_headers), "{id}");
        let names: Vec<&str> = from_body.headers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "ce-specversion",
                "ce-id",
                "ce-source",
                "ce-type",
                "ce-time",
                "ce-comexampleextension1",
                "ce-comexampleothervalue"
            ]
        );
    }
    // The last one: bytes of which nothing is said are no JSON, in neither mode.
    let bytes = r#"{"specversion":"1.0","type":"t","source":"/mycontext","id":"1","data_base64":"eyAieHl6IjogMTIzIH0="}"#;
    assert!(matches!(structured(&rules, bytes), Err(EventError::UnsupportedMediaType)));
    let same =
        headers(&[("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/mycontext"), ("ce-id", "1")]);
    let same = event_of(&rules, &same, Bytes::from_static(b"{ \"xyz\": 123 }"));
    assert!(matches!(same, Err(EventError::UnsupportedMediaType)));
}

#[test]
fn d13_each_rule_of_an_attribute_is_told_by_place_and_keyword_in_both_modes() {
    let rules = rules("");
    let long = "a".repeat(21);
    for (name, value, in_body, in_header) in [
        ("specversion", Some("0.3"), "/specversion const 1.0", "ce-specversion const 1.0"),
        ("id", None, " required id", "ce-id required -"),
        ("source", None, " required source", "ce-source required -"),
        ("type", None, " required type", "ce-type required -"),
        ("id", Some(""), "/id minLength 1", "ce-id minLength 1"),
        ("type", Some(""), "/type minLength 1", "ce-type minLength 1"),
        ("source", Some(""), "/source minLength 1", "ce-source minLength 1"),
        ("subject", Some(""), "/subject minLength 1", "ce-subject minLength 1"),
        ("source", Some("a b"), "/source format uri-reference", "ce-source format uri-reference"),
        ("source", Some("http://[::1"), "/source format uri-reference", "ce-source format uri-reference"),
        ("source", Some("/%zz"), "/source format uri-reference", "ce-source format uri-reference"),
        ("source", Some("/é"), "/source format uri-reference", "ce-source format uri-reference"),
        ("dataschema", Some("/relative"), "/dataschema format uri", "ce-dataschema format uri"),
        ("dataschema", Some("http://a.example/#x"), "/dataschema format uri", "ce-dataschema format uri"),
        ("dataschema", Some(""), "/dataschema format uri", "ce-dataschema format uri"),
        ("time", Some("2018-04-05"), "/time format date-time", "ce-time format date-time"),
        ("time", Some("2018-02-30T00:00:00Z"), "/time format date-time", "ce-time format date-time"),
        ("Name", Some("x"), "/Name propertyNames [a-z0-9]{1,20}", "taken, 5 headers"),
        ("a-b", Some("x"), "/a-b propertyNames [a-z0-9]{1,20}", "ce-a-b propertyNames [a-z0-9]{1,20}"),
        ("a_b", Some("x"), "/a_b propertyNames [a-z0-9]{1,20}", "ce-a_b propertyNames [a-z0-9]{1,20}"),
        ("", Some("x"), "/ propertyNames [a-z0-9]{1,20}", "ce- propertyNames [a-z0-9]{1,20}"),
        (
            long.as_str(),
            Some("x"),
            format!("/{long} propertyNames [a-z0-9]{{1,20}}").as_str(),
            format!("ce-{long} propertyNames [a-z0-9]{{1,20}}").as_str(),
        ),
        (
            "id",
            Some("a\tb"),
            "body /id: a control character is not allowed",
            "header ce-id: a control character is not allowed",
        ),
        (
            "id",
            Some("a\u{fffe}"),
            "body /id: a control character is not allowed",
            "header ce-id: a control character is not allowed",
        ),
        ("empty", Some(""), "taken, 5 headers", "taken, 5 headers"),
    ] {
        let body = with(json!({name: value}));
        assert_eq!(told(structured(&rules, body)), in_body, "{name}: {value:?}");
        let mut pairs = vec![("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")];
        pairs.retain(|(known, _)| *known != name);
        let mut map = headers(&[("content-type", "application/json")]);
        for (name, value) in pairs.into_iter().chain(value.map(|value| (name, value))) {
            let encoded =
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
            map.insert(format!("ce-{name}").parse::<HeaderName>().unwrap(), encoded.parse().unwrap());
        }
        let from_headers = event_of(&rules, &map, Bytes::from_static(b"{\"name\":\"Ada\"}"));
        assert_eq!(told(from_headers), in_header, "{name}: {value:?}");
    }
}

#[test]
fn d13_a_timestamp_has_the_form_of_rfc_3339_and_no_other() {
    // RFC 3339 §5.8, and what its §5.6 leaves open.
    for time in [
        "1985-04-12T23:20:50.52Z",
        "1996-12-19T16:39:57-08:00",
        "1990-12-31T23:59:60Z",
        "1990-12-31T15:59:60-08:00",
        "1937-01-01T12:00:27.87+00:20",
        "2018-04-05t17:31:00z",
    ] {
        assert!(is_timestamp(time).is_ok(), "{time}");
    }
    for time in [
        "2018-04-05 17:31:00Z",
        "2018-04-05T17:31Z",
        "2018-04-05T17:31:00",
        "2018-04-05T17:31:00.Z",
        "2018-04-05T17:31:00,5Z",
        "20180405T173100Z",
        "2018-04-05T17:31:00+0100",
        "2018-04-05T17:31:00+01",
        "2018-04-05T17:31:00+25:00",
        "2018-04-05T17:31:00Z[UTC]",
        "2018-04-05T24:00:00Z",
        "2018-13-05T17:31:00Z",
        "+002018-04-05T17:31:00Z",
        "",
    ] {
        assert!(is_timestamp(time).is_err(), "{time}");
    }
}

#[test]
fn d13_values_of_extensions_have_one_canonical_text() {
    let rules = rules("");
    let event =
        structured(&rules, with(json!({"b": true, "c": false, "i": -2_147_483_648_i64, "s": "e\u{301}"})))
            .unwrap();
    let extensions: Vec<(&str, &str)> =
        event.headers().iter().skip(4).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(extensions, [("ce-b", "true"), ("ce-c", "false"), ("ce-i", "-2147483648"), ("ce-s", "é")]);
    for value in [json!(2_147_483_648_i64), json!(1.5), json!([1]), json!({"a": 1})] {
        let refused = structured(&rules, with(json!({"ext": value})));
        assert_eq!(told(refused), "/ext type boolean, integer, string");
    }
    for value in ["1e3", "5.0", "-0"] {
        let body = with(json!({})).replacen('{', &format!("{{\"ext\":{value},"), 1);
        assert_eq!(told(structured(&rules, body)), "/ext type boolean, integer, string", "{value}");
    }
    for name in ["id", "time", "datacontenttype", "specversion"] {
        let refused = structured(&rules, with(json!({name: 5})));
        assert_eq!(told(refused), format!("/{name} type string"));
    }
}

#[test]
fn d13_what_is_no_event_or_is_two_is_malformed() {
    let rules = rules("");
    for (body, told_as) in [
        ("[]", "body : it is no CloudEvent"),
        ("\"x\"", "body : it is no CloudEvent"),
        ("", "body : it is empty"),
        ("{", "body : it is not JSON"),
        ("{\"id\":\"1\",\"id\":\"1\"}", "body : a name occurs twice"),
        ("{\"data\":1,\"d\\u0061ta\":1}", "body : a name occurs twice"),
        ("{\"data\":{\"a\":1,\"a\":1}}", "body /data: a name occurs twice"),
        ("{\"data\":1,\"data_base64\":\"\"}", "body : `data` and `data_base64` exclude each other"),
        ("{\"data_base64\":\"\",\"data\":null}", "body : `data` and `data_base64` exclude each other"),
        ("{\"data\":{\"n\":0.1000000000000000055}}", "body /data/n: a number would be rounded"),
        ("{\"id\":\"\\u0000\"}", "body /id: a control character is not allowed"),
        ("{\"data\":\"\\u0000\"}", "body /data: a control character is not allowed"),
        ("{\"data\":\"\\ud800\"}", "body /data: a surrogate stands alone"),
        ("{} {}", "body : something follows the value"),
    ] {
        assert_eq!(told(structured(&rules, body)), told_as, "{body}");
    }
    let json = Bytes::from_static(b"{}");
    let plain =
        event_of(&rules, &headers(&[("content-type", "application/json"), ("ce-id", "1")]), json.clone());
    assert_eq!(told(plain), "header : it is no CloudEvent");
    for media_type in [
        "application/cloudevents-batch+json",
        "application/cloudevents+avro",
        "application/cloudevents",
        "Application/CloudEvents+JSON; charset=latin1",
        "application/cloudevents+json; charset=utf-8; x=y",
        "text/plain",
    ] {
        let refused = event_of(&rules, &headers(&[("content-type", media_type)]), json.clone());
        assert!(matches!(refused, Err(EventError::UnsupportedMediaType)), "{media_type}: {refused:?}");
    }
    let both = headers(&[
        ("content-type", STRUCTURED),
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
    ]);
    assert!(matches!(event_of(&rules, &both, json), Err(EventError::UnsupportedMediaType)));
    let charset = headers(&[("content-type", "Application/CloudEvents+JSON; Charset=\"UTF-8\"")]);
    assert!(event_of(&rules, &charset, with(json!({})).into()).is_ok());
}

#[test]
fn d13_headers_may_repeat_a_structured_event_and_not_contradict_it() {
    let rules = rules("");
    let call = |name: &str, value: &str| {
        event_of(&rules, &headers(&[("content-type", STRUCTURED), (name, value)]), with(json!({})).into())
    };
    assert!(call("ce-type", "%74").is_ok());
    for (name, value) in [("ce-type", "other"), ("ce-other", "x")] {
        assert_eq!(
            told(call(name, value)),
            format!("header {name}: header and body of the CloudEvent contradict each other")
        );
    }
    assert_eq!(told(call("ce-type", "%")), "header ce-type: the percent-encoding is wrong");
}

#[test]
fn d13_data_is_validated_as_if_it_had_come_alone_and_told_by_its_place() {
    let rules = rules("max-depth = 2\nmax-nodes = 8\nmax-string = \"16B\"\nmax-items = 3\nmax-members = 2");
    for (data, told_as) in [
        (json!({"name": "123456789"}), "/data/name maxLength 8"),
        (json!({"x": 1}), "/data additionalProperties -"),
        (json!("text"), "/data type object"),
        (json!(null), "/data type object"),
        (json!({"list": [[1]]}), "body /data/list/0: it is nested deeper than 2"),
        (json!({"list": [1, 2, 3, 4]}), "body /data/list: an array has more than 3 items"),
        (json!({"name": "12345678901234567"}), "body /data/name: a string is longer than 16 bytes"),
        (json!("12345678901234567"), "body /data: a string is longer than 16 bytes"),
        (json!({"a": 1, "b": 2, "c": 3}), "body /data: there are more than 2 members"),
    ] {
        assert_eq!(told(structured(&rules, with(json!({"data": data})))), told_as, "{data}");
    }
    // The envelope has bounds of its own, and takes nothing from the data's.
    let more = json!({"subject": "s".repeat(1_000), "a": 1, "b": 2, "c": 3, "d": 4, "data": {"list": [1, "x", 3], "name": " Ada "}});
    let event = structured(&rules, with(more)).unwrap();
    assert_eq!(event.body(), "{\"list\":[1,\"x\",3],\"name\":\"Ada\"}");
    assert_eq!(event.content_type(), "application/json");
    let encoded = with(json!({"data": null, "data_base64": "e30=", "datacontenttype": "application/json"}));
    let encoded = encoded.replace("\"data\":null,", "");
    assert_eq!(structured(&rules, encoded.clone()).unwrap().body(), "{}");
    for (base64, told_as) in [
        ("e30", "/data_base64 contentEncoding base64"),
        ("e30=\\n", "/data_base64 contentEncoding base64"),
        ("e3", "/data_base64 contentEncoding base64"),
        ("e31=", "/data_base64 contentEncoding base64"),
        ("eyJ4IjoxfQ==", "/data_base64 additionalProperties -"),
        ("ew==", "body /data_base64: it is not JSON"),
    ] {
        assert_eq!(told(structured(&rules, encoded.replace("e30=", base64))), told_as, "{base64}");
    }
    let none = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}"#;
    assert_eq!(told(structured(&rules, none)), "body /data: it is empty");
    let without_schema = compile("", None).0.unwrap();
    let event = structured(&without_schema, none).unwrap();
    assert_eq!((event.content_type(), event.body().len()), ("", 0));
    let unlisted = structured(&rules, with(json!({"datacontenttype": "text/plain", "data": "x"})));
    assert!(matches!(unlisted, Err(EventError::UnsupportedMediaType)));
    let texts = compile("media-types = [\"text/plain\"]", None).0.unwrap();
    let number = structured(&texts, with(json!({"datacontenttype": "Text/Plain; charset=utf-8", "data": 1})));
    assert_eq!(told(number), "/data type string");
}

#[test]
fn d12_signals_of_a_cloudevent_are_those_of_its_data() {
    let attack = json!({"subject": "1' OR '1'='1", "data": {"list": ["1' OR '1'='1"]}});
    let event = structured(&rules(""), with(attack.clone())).unwrap();
    let told: Vec<_> = event.signals().iter().map(|s| s.pointer.as_str()).collect();
    assert_eq!(told, ["/list/0"]);
    let block = rules("injection = \"block\"");
    assert!(matches!(structured(&block, with(attack)), Err(EventError::Injection { .. })));
}

#[test]
fn d13_the_context_is_bounded_in_size_and_number() {
    let rules = rules("");
    let about = |bytes: usize| with(json!({"subject": "x".repeat(bytes), "other": "x".repeat(30 * 1024)}));
    assert!(structured(&rules, about(33 * 1024)).is_ok());
    assert!(matches!(structured(&rules, about(35 * 1024)), Err(EventError::TooLarge { limit: 65_536 })));
    let extensions = |count: usize| {
        let all: serde_json::Map<String, Value> = (0..count).map(|n| (format!("x{n}"), json!("v"))).collect();
        with(Value::Object(all))
    };
    assert_eq!(structured(&rules, extensions(32)).unwrap().headers().len(), 36);
    assert_eq!(told(structured(&rules, extensions(33))), " maxProperties 32");
    assert_eq!(told(structured(&rules, extensions(256))), "body : there are more than 256 members");
}

#[test]
fn d13_raw_is_what_was_received() {
    let rules = rules("raw = true");
    let body = format!(" {} ", with(json!({})));
    let event = structured(&rules, body.clone()).unwrap();
    assert_eq!(event.raw().unwrap(), &body);
    assert_eq!(event.bytes_in(), body.len() as u64);
}

#[test]
fn a_cloudevent_without_data_needs_no_body_where_one_may_be_absent() {
    let rules = rules("");
    let map = headers(&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")]);
    let head = EventHead { method: &Method::GET, rest: None, query: None, headers: &map };
    let event = rules.finish(rules.begin(head, Some(0), true).unwrap(), Bytes::new()).unwrap();
    assert_eq!((event.headers().len(), event.body().len()), (4, 0));
}

#[test]
fn what_a_manifest_says_wrongly_of_an_envelope_is_told() {
    let (none, diagnostics) = compile(
        "media-types = [\"application/json\", \"application/cloudevents+json\"]\nheaders = [\"ce-id\"]",
        Some(SCHEMA),
    );
    assert!(none.is_none());
    let lines: Vec<String> = diagnostics.iter().map(Diagnostic::one_line).collect();
    assert!(lines.iter().any(|l| l.contains("`application/cloudevents+json` is the envelope")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("`ce-id` is an attribute of a CloudEvent")), "{lines:#?}");
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

/// An event as any sender might have one.
fn any_event() -> impl Strategy<Value = (HeaderMap, Bytes)> {
    let value = "[ -~]{0,12}|\\PC{0,8}";
    let data = prop_oneof![
        "\\PC{0,16}".prop_map(|text| ("text/plain", Bytes::from(text))),
        proptest::collection::vec(any::<u8>(), 0..24)
            .prop_map(|b| ("application/octet-stream", Bytes::from(b))),
        "\\PC{0,16}".prop_map(|text| ("application/json", Bytes::from(Value::from(text).to_string()))),
        (any::<f64>(), any::<i32>(), "\\PC{0,8}").prop_map(|(x, n, name)| {
            (
                "application/json",
                Bytes::from(json!({"x": x, "n": [n, null, true], name: {"a": 1}}).to_string()),
            )
        }),
    ];
    let extensions = proptest::collection::btree_map("[a-z0-9]{1,20}", value, 0..5);
    ("\\PC{1,12}", "[a-z]{1,5}:?[a-z/]{0,9}", "[ -~]{1,12}", proptest::option::of(value), extensions, data)
        .prop_map(|(id, source, kind, subject, extensions, (content_type, data))| {
            let mut attributes: BTreeMap<String, String> = extensions;
            attributes.extend(subject.map(|s| ("subject".to_owned(), s)));
            for (name, value) in
                [("specversion", "1.0".to_owned()), ("id", id), ("source", source), ("type", kind)]
            {
                attributes.insert(name.to_owned(), value);
            }
            let mut map = headers(&[("content-type", content_type)]);
            for (name, value) in attributes {
                let encoded =
                    percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC)
                        .to_string();
                map.insert(format!("ce-{name}").parse::<HeaderName>().unwrap(), encoded.parse().unwrap());
            }
            (map, data)
        })
}

proptest! {
    #[test]
    fn d13_both_modes_give_the_same_event((map, data) in any_event()) {
        let rules = any_cloudevent().unwrap();
        // What is sent in structured mode is made from what was sent, not from what was read.
        let mut members = serde_json::Map::new();
        for (name, value) in &map {
            let value = percent_encoding::percent_decode(value.as_bytes()).decode_utf8().unwrap().into_owned();
            let name = name.as_str().strip_prefix("ce-").unwrap_or("datacontenttype");
            members.insert(name.to_owned(), value.into());
        }
        let (name, value) = match map.get("content-type").unwrap().to_str().unwrap() {
            "application/json" => ("data", serde_json::from_slice(&data).unwrap()),
            "text/plain" => ("data", Value::from(std::str::from_utf8(&data).unwrap())),
            _ => ("data_base64", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &data).into()),
        };
        members.insert(name.to_owned(), value);
        let from_body = structured(&rules, Value::Object(members).to_string());
        match (event_of(&rules, &map, data), from_body) {
            (Ok(from_headers), Ok(from_body)) => {
                prop_assert_eq!(seen(&from_headers), seen(&from_body));
                for (headers, body) in [in_binary_mode(&from_body), in_structured_mode(&from_headers)] {
                    let again = event_of(&rules, &headers, body).unwrap();
                    prop_assert_eq!(seen(&again), seen(&from_body));
                }
            }
            (Err(_), Err(_)) => {}
            (from_headers, from_body) => {
                prop_assert!(false, "{} in headers, {} in the body", told(from_headers), told(from_body));
            }
        }
    }
    #[test]
    fn d13_damaged_events_are_refused_or_the_same_in_both_modes(
        seed in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4),
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/cloudevents");
        let mut seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        let mut bytes = std::fs::read(&seeds[seed.index(seeds.len())]).unwrap();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => _ = bytes.remove(at),
            }
        }
        crate::event::fuzz::cloudevents(&bytes);
    }
}
