//! Calls from scripts of other origins, as a browser makes them.

use http::Method;

use crate::{
    client::Reply,
    guest,
    world::{Call, Live, World},
};

const APP: &str = "https://app.example";

async fn site() -> Live {
    let world =
        World::with("echo", &guest::echo()).tenant("globex").function("globex", "echo", &guest::echo());
    let tenant = std::fs::read_to_string(world.path().join("policies/acme/tenant.toml")).unwrap();
    world
        .file(
            "policies/acme/tenant.toml",
            &format!("{tenant}[cors]\norigins = [\"{APP}\", \"http://localhost:3000\"]\n"),
        )
        .start()
        .await
}

fn preflight<'a>(live: &'a Live, function: &str, origin: &str) -> Call<'a> {
    live.invoke(function)
        .anonymous()
        .method(Method::OPTIONS)
        .content_type(None)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
}

fn allowed(reply: &Reply) -> Option<&str> {
    reply.header("access-control-allow-origin")
}

#[tokio::test]
async fn c11_a_listed_origin_may_ask_without_a_token_and_call_with_one() {
    let live = site().await;
    let asked = preflight(&live, "acme/echo", APP).send().await;
    assert_eq!((asked.status, allowed(&asked), asked.body.len()), (204, Some(APP), 0));
    assert_eq!(asked.header("access-control-allow-headers"), Some("authorization,content-type"));
    assert_eq!(asked.header("access-control-allow-credentials"), None);
    assert_eq!(asked.header("vary"), Some("origin"));
    assert!(asked.header("sandgate-request-id").is_some());

    let reply = live.invoke("acme/echo").header("origin", APP).send().await;
    assert_eq!((reply.status, allowed(&reply)), (200, Some(APP)));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("sandgate-request-id"));
    // A script may read why it was refused as well.
    let refused = live.invoke("acme/echo").anonymous().header("origin", APP).send().await;
    assert_eq!((refused.summary(), allowed(&refused)), ("401 unauthenticated".to_owned(), Some(APP)));
}

#[tokio::test]
async fn c11_any_other_origin_is_told_nothing_by_which_it_could_read_a_reply() {
    let live = site().await;
    for origin in
        ["https://evil.example", "null", "*", "https://app.example.evil.example", "https://app.example:444"]
    {
        let asked = preflight(&live, "acme/echo", origin).send().await;
        assert_eq!((asked.summary(), allowed(&asked)), ("401 unauthenticated".to_owned(), None), "{origin}");
        let reply = live.invoke("acme/echo").header("origin", origin).send().await;
        assert_eq!((reply.status, allowed(&reply)), (200, None), "{origin}");
    }
    // Two origins are none.
    let twice = live.invoke("acme/echo").header("origin", APP).header("origin", APP).send().await;
    assert_eq!(allowed(&twice), None);
    // The list is one tenant's own.
    let other = live.invoke("globex/echo").header("origin", APP).send().await;
    assert_eq!((other.status, allowed(&other)), (200, None));
}

#[tokio::test]
async fn c13_a_preflight_does_not_tell_which_functions_and_tenants_exist() {
    let live = site().await;
    let mut known = Vec::new();
    for function in ["acme/echo", "acme/nothing"] {
        let mut reply = preflight(&live, function, APP).send().await;
        reply.headers.remove("sandgate-request-id");
        reply.headers.remove("date");
        known.push((reply.status, reply.headers, reply.body));
    }
    assert_eq!(known[0], known[1], "a function that exists and one that does not");
    let mut refused = Vec::new();
    for function in ["globex/echo", "nobody/echo"] {
        let reply = preflight(&live, function, APP).send().await;
        refused.push((reply.summary(), reply.headers.len()));
    }
    assert_eq!(refused[0], refused[1], "a tenant that lists nobody and one that does not exist");
}

#[tokio::test]
async fn c11_what_a_preflight_asks_for_is_sent_back_only_if_it_is_a_list_of_names() {
    let live = site().await;
    let asked = live
        .invoke("acme/echo")
        .anonymous()
        .method(Method::OPTIONS)
        .header("origin", APP)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-a, x b")
        .send()
        .await;
    assert_eq!((asked.status, asked.header("access-control-allow-headers")), (204, None));
    // Without the method that it asks for it is no preflight, and OPTIONS needs a token as any call does.
    let plain =
        live.invoke("acme/echo").anonymous().method(Method::OPTIONS).header("origin", APP).send().await;
    assert_eq!(plain.summary(), "401 unauthenticated");
}

#[tokio::test]
async fn c11_every_reply_bears_the_headers_of_discipline_and_no_banner() {
    let live = site().await;
    let served = live.invoke("acme/echo").send().await;
    let refused = live.invoke("acme/echo").anonymous().send().await;
    let nowhere = live.invoke("acme/..%2f").send().await;
    let asked = preflight(&live, "acme/echo", APP).send().await;
    assert_eq!([served.status, refused.status, nowhere.status, asked.status], [200, 401, 400, 204]);
    for reply in [served, refused, nowhere, asked] {
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{reply:?}");
        assert_eq!(reply.header("strict-transport-security"), Some("max-age=31536000"), "{reply:?}");
        // One framing, the gateway's own (RFC 9110 §8.6: none without a body that could be).
        let length = reply.header("content-length").map(|length| length.parse().unwrap());
        assert_eq!(length, (reply.status != 204).then_some(reply.body.len()), "{reply:?}");
        assert_eq!(reply.header("transfer-encoding"), None, "{reply:?}");
        for banner in ["server", "x-powered-by", "via"] {
            assert_eq!(reply.header(banner), None, "{reply:?}");
        }
    }
}

#[tokio::test]
async fn c11_d14_a_reply_may_be_kept_by_its_callers_own_cache_and_by_no_other() {
    let manifest =
        "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"text/plain\"]\n";
    let mut world = World::new().tenant("acme");
    for (name, said) in [("kept", "max-age=60"), ("shared", "public, max-age=60"), ("late", "s-maxage=60")] {
        let guest = guest::guest("answers-header")
            .replace("(i32.const 32) \"v\"", &format!("(i32.const 32) \"{said}\""))
            .replace("(i32.const 76) (i32.const 1)", &format!("(i32.const 76) (i32.const {})", said.len()));
        world = world
            .function("acme", name, &guest)
            .file(&format!("functions/acme/{name}/function.toml"), manifest);
    }
    let live = world.start().await;
    let call = |function: &str| {
        live.invoke(&format!("acme/{function}")).content_type(Some("text/plain")).text("cache-control")
    };
    let kept = call("kept").send().await;
    assert_eq!(kept.summary(), "200");
    assert_eq!(kept.header("cache-control"), Some("private, max-age=60"));
    assert_eq!(kept.header("vary"), Some("authorization, origin"));
    for function in ["shared", "late"] {
        let refused = call(function).send().await;
        assert_eq!(refused.summary(), "502 function_failed", "{function}");
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        let reason = live.record(&refused)["outcome"]["reason"].to_string();
        assert!(reason.contains("the value of header `cache-control` is not allowed"), "{reason}");
    }
}
