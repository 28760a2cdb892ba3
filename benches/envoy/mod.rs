//! Envoy with the same certificate and key set, as far as it goes: TLS, `jwt_authn`, `rbac`, the body taken into a
//! buffer, an access log, and a fixed answer.
//!
//! It runs no function, reads no event and writes its log by the buffer, so what it is spared is the larger part of a call;
//! its filters are those that stand in front of functions elsewhere.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

/// A running Envoy; it ends with this value.
pub(crate) struct Envoy {
    /// Where it serves `POST /acme/hello`.
    pub(crate) address: SocketAddr,
    process: Child,
    _work: tempfile::TempDir,
}

impl Envoy {
    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }
}

/// Starts `$ENVOY`, or `envoy` from the path; none where there is none.
pub(crate) async fn start(site: &Path) -> Option<Envoy> {
    let program = std::env::var_os("ENVOY").unwrap_or_else(|| "envoy".into());
    let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
    let work = tempfile::tempdir().ok()?;
    let file = work.path().join("envoy.json");
    std::fs::write(&file, configuration(site, work.path(), address)).expect("a configuration");
    let process = Command::new(program)
        .args(["--concurrency", "2", "--use-dynamic-base-id", "--log-level", "error", "-c"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut tries = 0;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tries += 1;
        assert!(tries < 100, "Envoy does not listen");
        // It tells nobody when it listens; no time is measured yet.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Some(Envoy { address, process, _work: work })
}

fn configuration(site: &Path, work: &Path, address: SocketAddr) -> String {
    let certs = site.join("certs/dev");
    let keys = certs.join("issuers/acme.jwks.json");
    let type_url = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let jwt = serde_json::json!({
        "@type": type_url("filters.http.jwt_authn.v3.JwtAuthentication"),
        "providers": {"acme": {
            "issuer": "https://dev.sandgate.example/acme",
            "audiences": ["https://localhost:8443/acme"],
            "local_jwks": {"filename": keys},
            "payload_in_metadata": "token",
            "jwt_cache_config": {"jwt_cache_size": 1000},
        }},
        "rules": [{"match": {"prefix": "/acme/"}, "requires": {"provider_name": "acme"}}],
    });
    let rbac = serde_json::json!({
        "@type": type_url("filters.http.rbac.v3.RBAC"),
        "rules": {"action": "ALLOW", "policies": {"hello-invoker": {
            "permissions": [{"url_path": {"path": {"exact": "/acme/hello"}}}],
            "principals": [{"metadata": {
                "filter": "envoy.filters.http.jwt_authn",
                "path": [{"key": "token"}, {"key": "roles"}],
                "value": {"list_match": {"one_of": {"string_match": {"exact": "invoker"}}}},
            }}],
        }}},
    });
    let log = serde_json::json!({
        "name": "file",
        "typed_config": {
            "@type": type_url("access_loggers.file.v3.FileAccessLog"),
            "path": work.join("access.log"),
            "log_format": {"json_format": {
                "time": "%START_TIME%", "id": "%REQ(X-REQUEST-ID)%", "code": "%RESPONSE_CODE%",
                "path": "%REQ(:PATH)%", "duration": "%DURATION%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
            }},
        },
    });
    let manager = serde_json::json!({
        "@type": type_url("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "gate",
        "codec_type": "AUTO",
        "access_log": [log],
        "http_filters": [
            {"name": "jwt", "typed_config": jwt},
            {"name": "rbac", "typed_config": rbac},
            {"name": "buffer", "typed_config": {
                "@type": type_url("filters.http.buffer.v3.Buffer"),
                "max_request_bytes": 65_536,
            }},
            {"name": "router", "typed_config": {"@type": type_url("filters.http.router.v3.Router")}},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "{\"greeting\":\"Hello, Ada!\"}"}},
        }]}]},
    });
    let tls = serde_json::json!({
        "@type": type_url("transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{
                "certificate_chain": {"filename": certs.join("server.pem")},
                "private_key": {"filename": certs.join("server.key")},
            }],
        },
    });
    serde_json::json!({"static_resources": {"listeners": [{
        "name": "gate",
        "address": {"socket_address": {"address": address.ip(), "port_value": address.port()}},
        "filter_chains": [{
            "filters": [{"name": "http", "typed_config": manager}],
            "transport_socket": {"name": "tls", "typed_config": tls},
        }],
    }]}})
    .to_string()
}
