//! CloudEvents 1.0 on the wire: both content modes, one event, and what is refused with which code.

use serde_json::{Value, json};

use crate::{
    client::Reply,
    guest::{echo, guest},
    world::{Live, MANIFEST, World},
};

const STRUCTURED: &str = "application/cloudevents+json";

async fn world() -> Live {
    World::with("tells", &guest("tells"))
        .file(
            "functions/acme/tells/function.toml",
            &format!("{MANIFEST}envelope = \"cloudevents\"\nheaders = [\"x-correlation-id\"]\n"),
        )
        .function("acme", "plain", &echo())
        .start()
        .await
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

#[tokio::test]
async fn d13_a_function_is_given_the_same_event_in_both_modes_and_over_both_protocols() {
    let world = world().await;
    let mut told = Vec::new();
    for http2 in [false, true] {
        // HTTP protocol binding §3.1.3.2 has this id.
        let mut binary = world.invoke("acme/tells").text("{ \"name\" : \"e\u{301} ' OR 1=1 --\" }");
        for (name, value) in [
            ("x-correlation-id", "one"),
            ("ce-zone", "3"),
            ("ce-id", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("ce-type", "com.example.someevent"),
            ("ce-source", "/mycontext/subcontext"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-allowed", "true"),
            ("ce-specversion", "1.0"),
        ] {
            binary = binary.header(name, value);
        }
        let structured = json!({
            "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext/subcontext",
            "id": "Euro \u{20ac} \u{1f600}", "time": "2018-04-05T03:56:24Z", "subject": null,
            "zone": 3, "allowed": true, "data": {"name": "\u{e9} ' OR 1=1 --"},
        });
        let structured = world
            .invoke("acme/tells")
            .header("x-correlation-id", "one")
            .content_type(Some("application/cloudevents+json; charset=utf-8"))
            .json(structured);
        for call in [binary, structured] {
            let reply = if http2 { call.http2() } else { call }.send().await;
            assert_eq!(reply.summary(), "200");
            told.push(text(&reply).to_owned());
            // Records say of it what they say of any event.
            let record = world.record(&reply).to_string();
            assert!(!record.contains("mycontext") && !record.contains("someevent"), "{record}");
        }
    }
    assert!(told.iter().all(|t| *t == told[0]), "{told:#?}");
    insta::assert_snapshot!(told[0], @r#"
    caller: acme/alice
    role:   acme/invoker
    scope:  call
    method: POST
    rest:   
    query:  {}
    header: x-correlation-id=one
    header: ce-specversion=1.0
    header: ce-id=Euro € 😀
    header: ce-source=/mycontext/subcontext
    header: ce-type=com.example.someevent
    header: ce-time=2018-04-05T03:56:24Z
    header: ce-allowed=true
    header: ce-zone=3
    type:   application/json
    body:   {"name":"é ' OR 1=1 --"}
    signal: /name=sql
    "#);
}

#[tokio::test]
async fn d13_what_is_no_cloudevent_is_refused_by_the_contracts_table() {
    let world = world().await;
    let event = |more: Value| {
        let mut event =
            json!({"specversion": "1.0", "id": "s3cret", "source": "/s", "type": "t", "data": {}});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event.to_string()
    };
    for (media_type, body, expected, errors) in [
        ("application/json", "{}".to_owned(), "400 malformed", Value::Null),
        (STRUCTURED, "[]".to_owned(), "400 malformed", Value::Null),
        (STRUCTURED, event(json!({"data_base64": "e30="})), "400 malformed", Value::Null),
        ("application/cloudevents-batch+json", "[]".to_owned(), "415 unsupported_media_type", Value::Null),
        ("application/cloudevents+avro", "x".to_owned(), "415 unsupported_media_type", Value::Null),
        (
            STRUCTURED,
            event(json!({"datacontenttype": "text/plain"})),
            "415 unsupported_media_type",
            Value::Null,
        ),
        (
            STRUCTURED,
            event(json!({"specversion": "0.3-s3cret"})),
            "422 invalid_event",
            json!([{"pointer": "/specversion", "keyword": "const", "limit": "1.0"}]),
        ),
        (
            STRUCTURED,
            event(json!({"source": null, "time": "s3cret"})),
            "422 invalid_event",
            json!([
                {"pointer": "", "keyword": "required", "limit": "source"},
                {"pointer": "/time", "keyword": "format", "limit": "date-time"}
            ]),
        ),
        (
            STRUCTURED,
            event(json!({"data": {"name": "s3cret".repeat(10)}})),
            "422 invalid_event",
            json!([{"pointer": "/data/name", "keyword": "maxLength", "limit": "40"}]),
        ),
        (STRUCTURED, event(json!({"subject": "s".repeat(66_000)})), "413 too_large", Value::Null),
    ] {
        let reply = world.invoke("acme/tells").content_type(Some(media_type)).text(body.clone()).send().await;
        assert_eq!(reply.summary(), expected, "{body:.100}");
        assert_eq!(reply.json()["errors"], errors, "{body:.100}");
        assert!(!text(&reply).contains("s3cret"));
        assert!(!world.record(&reply).to_string().contains("s3cret"));
    }
    let binary = |name: &'static str, value: &'static str| {
        let mut call = world.invoke("acme/tells");
        for (own, usual) in [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")]
        {
            call = call.header(own, if own == name { value } else { usual });
        }
        if name.starts_with("x-") || name.starts_with("ce-ext") { call.header(name, value) } else { call }
    };
    for (name, value, expected, errors) in [
        ("ce-ext", "ok", "200", Value::Null),
        ("ce-id", "%C0%A0", "400 malformed", Value::Null),
        ("ce-id", "100%", "400 malformed", Value::Null),
        ("ce-ext-s3cret", "x", "422 invalid_event", json!("propertyNames")),
        ("ce-source", "s3 cret", "422 invalid_event", json!("format")),
        ("ce-specversion", "2.0", "422 invalid_event", json!("const")),
    ] {
        let reply = binary(name, value).send().await;
        assert_eq!(reply.summary(), expected, "{name}: {value}");
        if expected.starts_with('4') {
            assert_eq!(reply.json()["errors"][0]["keyword"], errors, "{name}: {value}");
        }
    }
    // A function that takes none is not given any.
    let reply = world.invoke("acme/plain").content_type(Some(STRUCTURED)).text(event(json!({}))).send().await;
    assert_eq!(reply.summary(), "415 unsupported_media_type");
}

#[tokio::test]
async fn d13_check_tells_an_unknown_envelope_and_attributes_that_are_listed_by_hand() {
    let world = World::with("tells", &guest("tells"))
        .file(
            "functions/acme/tells/function.toml",
            &format!("{MANIFEST}envelope = \"cloudevent\"\nheaders = [\"ce-id\"]\n"),
        )
        .start_with(|_| ())
        .await;
    let told: Vec<String> = world.running.diagnostics.iter().map(|d| d.render(false)).collect();
    for part in
        ["`envelope` cannot be `cloudevent`", "did you mean `cloudevents`?", "`ce-id` is an attribute"]
    {
        assert!(told.iter().any(|t| t.contains(part)), "{part}: {told:#?}");
    }
}

#[test]
fn openapi_shows_a_cloudevent_in_both_modes() {
    let world = World::with("tells", &guest("tells"))
        .file("functions/acme/tells/function.toml", &format!("{MANIFEST}envelope = \"cloudevents\"\n"));
    let (code, out, err) =
        crate::cli::sandgate(&["openapi", "--tenant", "acme", "--site", world.path().to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let document: Value = serde_json::from_str(&out).unwrap();
    let post = &document["paths"]["/acme/tells"]["post"];
    let names: Vec<&str> =
        post["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-dataschema"]
    );
    let content = &post["requestBody"]["content"];
    assert_eq!(content["application/json"]["schema"]["$ref"], "#/components/schemas/tells.event");
    let structured = &content[STRUCTURED]["schema"];
    assert_eq!(structured["required"], json!(["specversion", "id", "source", "type"]));
    assert_eq!(structured["properties"]["data"]["$ref"], "#/components/schemas/tells.event");
}
