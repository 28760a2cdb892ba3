//! Evidence: programs that must not compile, since each leaves out a step or makes evidence by hand (INVARIANT Evidence);
//! and stages that are handed evidence of another function.

use http::{HeaderMap, HeaderValue, Method, header};
use sandgate::{
    authn::{Head, Received},
    authz::AuthzError,
    event::{EventError, UnreadBody},
    id::RequestId,
    sandbox::{SandboxError, Usage},
};

use crate::{guest::echo, world::World};

#[test]
fn leaving_out_a_step_is_a_type_error() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

/// The stages of one function next to those of another: what the types cannot tell apart is compared.
#[tokio::test]
async fn a_stage_refuses_evidence_that_is_not_for_its_function() {
    let world = World::with("one", &echo()).function("acme", "two", &echo()).tenant("globex");
    let world = world.function("globex", "one", &echo()).start().await;
    let revision = world.running.gateway.revision();
    let acme = revision.tenant(&"acme".parse().unwrap()).unwrap();
    let globex = revision.tenant(&"globex".parse().unwrap()).unwrap();
    let [one, two] = ["one", "two"].map(|name| acme.function(&name.parse().unwrap()).unwrap());
    let foreign = globex.function(&"one".parse().unwrap()).unwrap();
    let token = world.token("acme").sign();
    let ask = async || acme.authenticator.authenticate(received("one", &token)).await.unwrap();

    let refused = foreign.authorizer.authorize(ask().await);
    assert!(matches!(refused, Err(AuthzError::TenantMismatch { .. })), "{refused:?}");
    for other in [two, foreign] {
        let authorized = one.authorizer.authorize(ask().await).unwrap();
        let refused = other.events.validate(authorized).await;
        assert!(matches!(refused, Err(EventError::Mismatch)), "{refused:?}");

        let authorized = one.authorizer.authorize(ask().await).unwrap();
        let validated = one.events.validate(authorized).await.unwrap();
        let mut usage = Usage::default();
        let refused = other.runner.run(validated, &other.replies, &mut usage).await;
        assert!(matches!(refused, Err(SandboxError::Internal { .. })), "{refused:?}");
        assert_eq!(usage, Usage::default(), "nothing ran");
    }
    let authorized = one.authorizer.authorize(ask().await).unwrap();
    let validated = one.events.validate(authorized).await.unwrap();
    assert!(one.runner.run(validated, &one.replies, &mut Usage::default()).await.is_ok());
    world.running.stop().await;
}

fn received(function: &str, token: &str) -> Received<UnreadBody> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Received {
        request_id: RequestId::new(0, 0),
        tenant: "acme".parse().unwrap(),
        function: function.parse().unwrap(),
        head: Head { headers, ..Head::new(Method::POST, format!("/acme/{function}")) },
        body: UnreadBody::of("{}"),
    }
}
