//! A site of a test's own, served by the real gateway on a real socket.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Method, Request, Version};
use sandgate::{
    http::health::Mode,
    server::{Options, Running, start},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    client::{Body, Client, Reply, full, held},
    token::{IssuerKey, Token, audience, issuer},
};

/// What every test function gets unless the test says otherwise.
pub(crate) const MANIFEST: &str =
    "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nschema = \"event.schema.json\"\n";
pub(crate) const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,
    "properties":{"name":{"type":"string","maxLength":40},"n":{"type":"number"},"list":{"type":"array"}}}"#;
pub(crate) const PERMIT_ALL: &str =
    "@id(\"all\")\npermit(principal, action == Action::\"invoke\", resource);\n";

/// A site in the making.
pub(crate) struct World {
    dir: TempDir,
    keys: BTreeMap<String, IssuerKey>,
}

/// A site that is served.
pub(crate) struct Live {
    pub(crate) dir: TempDir,
    pub(crate) running: Running,
    pub(crate) client: Client,
    pub(crate) keys: BTreeMap<String, IssuerKey>,
}

impl World {
    /// The platform's own schema and guardrails, and no tenant.
    pub(crate) fn new() -> Self {
        crate::guest::compiled_by_sandgate();
        let dir = tempfile::tempdir().unwrap();
        let world = Self { dir, keys: BTreeMap::new() };
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        for file in ["schema.cedarschema", "guardrails.cedar"] {
            world.write(&format!("policies/{file}"), fs::read_to_string(own.join(file)).unwrap());
        }
        world
    }

    /// `acme` with one function.
    pub(crate) fn with(function: &str, wat: &str) -> Self {
        Self::new().tenant("acme").function("acme", function, wat)
    }

    pub(crate) fn tenant(mut self, name: &str) -> Self {
        let key = IssuerKey::generate(&format!("{name}-1"));
        self.write(&format!("policies/{name}/jwks.json"), json!({"keys": [key.jwk()]}).to_string());
        self.write(
            &format!("policies/{name}/tenant.toml"),
            format!(
                "[[issuers]]\nissuer = \"{}\"\naudiences = [\"{}\"]\nalgorithms = [\"ES256\"]\nkeys = \"jwks.json\"\n\
                 roles = \"/roles\"\nscopes = \"/scope\"\n",
                issuer(name),
                audience(name)
            ),
        );
        self.write(&format!("policies/{name}/policies.cedar"), PERMIT_ALL);
        self.keys.insert(name.to_owned(), key);
        self
    }

    pub(crate) fn function(self, tenant: &str, name: &str, wat: &str) -> Self {
        let at = format!("functions/{tenant}/{name}");
        self.write(&format!("{at}/function.toml"), MANIFEST);
        self.write(&format!("{at}/event.schema.json"), SCHEMA);
        self.write(&format!("{at}/component.wat"), wat);
        self
    }

    /// A function whose component is binary.
    #[cfg(feature = "portable")]
    pub(crate) fn component(self, tenant: &str, name: &str, binary: &[u8]) -> Self {
        let world = self.function(tenant, name, "");
        world.write(&format!("functions/{tenant}/{name}/component.wat"), binary);
        world
    }

    /// Puts a file in place of what the builder wrote.
    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        write(self.dir.path(), path, text);
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Serves it, and insists that nothing is wrong with it.
    pub(crate) async fn start(self) -> Live {
        let live = self.start_with(|_| ()).await;
        let faults: String = live
            .running
            .diagnostics
            .iter()
            .filter(|d| d.is_fault())
            .map(|d| d.render(false) + "\n")
            .collect();
        assert!(faults.is_empty(), "the site of this test is faulty:\n{faults}");
        live
    }

    pub(crate) async fn start_with(self, change: impl FnOnce(&mut Options)) -> Live {
        let mut options = Options { mode: Mode::Development, ..Options::local(self.dir.path()) };
        change(&mut options);
        let running =
            start(options).await.unwrap_or_else(|error| panic!("the site does not start: {error:?}"));
        let ca = fs::read_to_string(self.dir.path().join("certs/dev/ca.pem")).unwrap();
        let client = Client::new(running.address, &ca);
        Live { dir: self.dir, running, client, keys: self.keys }
    }
}

impl Live {
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        write(self.dir.path(), path, text);
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A token of the tenant's issuer, valid until the test bends it.
    pub(crate) fn token(&self, tenant: &str) -> Token {
        Token::new(tenant, &self.keys[tenant])
    }

    /// A call of `tenant/function` with a valid token and an empty JSON object.
    pub(crate) fn invoke(&self, function: &str) -> Call<'_> {
        let tenant = function.split('/').next().unwrap_or_default().to_owned();
        let token = self.keys.get(&tenant).map(|key| Token::new(&tenant, key).sign());
        Call {
            live: self,
            version: Version::HTTP_11,
            request: Request::builder().method(Method::POST).uri(format!("https://localhost/{function}")),
            token,
            body: None,
            content_type: Some("application/json".to_owned()),
            from: None,
        }
    }

    /// What names the tenant's part in records.
    pub(crate) fn revision_of(&self, tenant: &str) -> String {
        let revision = self.running.gateway.revision();
        let part = revision.serving().find(|part| part.name.as_str() == tenant).unwrap();
        part.revision.to_string()
    }

    /// Lines of the audit log, parsed, oldest first.
    pub(crate) fn records(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = Vec::new();
        collect(&self.dir.path().join(".sandgate/audit"), &mut files);
        files.sort();
        files
            .iter()
            .flat_map(|f| fs::read_to_string(f).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect()
    }

    /// Whether the metrics have such a line.
    pub(crate) fn metric(&self, line: &str) -> bool {
        self.running.gateway.metrics_text().lines().any(|told| told == line)
    }

    /// The record of one reply.
    pub(crate) fn record(&self, reply: &Reply) -> Value {
        let id = reply.header("sandgate-request-id").expect("every reply bears its id");
        let of = |r: &&Value| r["request_id"] == *id;
        self.records().iter().find(of).unwrap_or_else(|| panic!("no record of {id}")).clone()
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "jsonl") {
            files.push(path);
        }
    }
}

fn write(dir: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    if path.extension().is_some_and(|extension| extension == "key") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A request in the making.
pub(crate) struct Call<'a> {
    live: &'a Live,
    version: Version,
    request: http::request::Builder,
    token: Option<String>,
    body: Option<Body>,
    content_type: Option<String>,
    from: Option<IpAddr>,
}

impl Call<'_> {
    /// As if another client called.
    pub(crate) fn from(mut self, address: impl Into<IpAddr>) -> Self {
        self.from = Some(address.into());
        self
    }

    pub(crate) fn http2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.request = self.request.method(method);
        self
    }

    /// Another request target than the function's.
    pub(crate) fn path(mut self, path: &str) -> Self {
        self.request = self.request.uri(format!("https://localhost{path}"));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// With what no function is given, whatever it lists: credentials, and what the gateway and proxies say.
    pub(crate) fn with_what_is_never_given(self) -> Self {
        const NEVER_GIVEN: [(&str, &str); 9] = [
            ("x-not-listed", "no"),
            ("cookie", "session=no"),
            ("dpop", "no"),
            ("proxy-authorization", "Basic no"),
            ("sandgate-caller", "acme/root"),
            ("sandgate-request-id", "no"),
            ("sandgate-anything", "no"),
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
        ];
        NEVER_GIVEN.into_iter().fold(self, |call, (name, value)| call.header(name, value))
    }

    pub(crate) fn content_type(mut self, value: Option<&str>) -> Self {
        self.content_type = value.map(str::to_owned);
        self
    }

    /// A token as it stands.
    pub(crate) fn bearer(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    pub(crate) fn anonymous(mut self) -> Self {
        self.token = None;
        self
    }

    pub(crate) fn json(self, value: Value) -> Self {
        self.text(value.to_string())
    }

    pub(crate) fn text(self, body: impl Into<Bytes>) -> Self {
        self.body(full(body))
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) async fn send(self) -> Reply {
        let (client, version, request) = self.finish();
        client.send(version, request).await
    }

    pub(crate) fn finish(self) -> (Client, Version, Request<Body>) {
        let mut request = self.request;
        if self.version == Version::HTTP_11 {
            // HTTP/1.1 sends the path alone, and the authority as `Host`.
            let uri = request.uri_ref().unwrap().path_and_query().unwrap().to_string();
            request = request.uri(uri).header("host", "localhost");
        }
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(content_type) = self.content_type {
            request = request.header("content-type", content_type);
        }
        let body = self.body.unwrap_or_else(|| full("{}"));
        let client = &self.live.client;
        let client = self.from.map_or_else(|| client.clone(), |address| client.from(address));
        (client, self.version, request.body(body).unwrap())
    }
}

/// A call that was allowed, and whose body the gateway waits for.
pub(crate) struct InFlight {
    body: mpsc::UnboundedSender<Bytes>,
    reply: JoinHandle<Reply>,
}

impl Call<'_> {
    /// Sends the head, and ends when the decision was taken. Of a test's calls only one is decided meanwhile.
    pub(crate) async fn hold(self) -> InFlight {
        let live = self.live;
        let decided = || {
            let text = live.running.gateway.metrics_text();
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix("sandgate_stage_seconds_count{stage=\"authorize\"} "))
                .map_or(0, |count| count.parse::<u64>().unwrap())
        };
        let before = decided();
        let (body, held) = held();
        let (client, version, request) = self.body(held).finish();
        let reply = tokio::spawn(async move { client.send(version, request).await });
        eventually("the decision is taken", || async { decided() == before + 1 }).await;
        InFlight { body, reply }
    }
}

impl InFlight {
    /// What is answered while the body does not come.
    pub(crate) async fn unfinished(self) -> Reply {
        let Self { body: _held, reply } = self;
        reply.await.unwrap()
    }

    /// Sends the whole body.
    pub(crate) async fn finish(self, body: impl Into<Bytes>) -> Reply {
        self.body.send(body.into()).unwrap();
        drop(self.body);
        self.reply.await.unwrap()
    }
}

/// Waits until something that happens beside the test has happened: a reload, a record of a client that is gone.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut happened: impl FnMut() -> F) {
    let waiting = async {
        while !happened().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::client::PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("it never came that {what}"));
}
