//! The real binary, as an operator runs it, and as a machine kills it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use http::{Request, Version};

use crate::client::{Client, full};

/// A child that does not outlive its test.
pub(crate) struct Gate(pub(crate) Child);

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The sample site, without what an earlier start left there.
pub(crate) fn sample(to: &Path) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy(&own.join("policies"), &to.join("policies"));
    copy(&own.join("functions"), &to.join("functions"));
}

/// The binary on the sample site in a shell that prepares its limits; its port, token and authority.
pub(crate) fn dev(site: &Path, prepare: &str) -> (Gate, Client, String) {
    let script =
        format!("{prepare} exec \"$0\" dev --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --site \"$1\"",);
    let mut gate = Gate(
        Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_sandgate")])
            .arg(site)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let stdout = BufReader::new(gate.0.stdout.take().unwrap());
    let line =
        stdout.lines().map(Result::unwrap).find(|line| line.starts_with("curl ")).expect("a line to try");
    let between =
        |from: &str, to: &str| line.split(from).nth(1).unwrap().split(to).next().unwrap().to_owned();
    let port: u16 = between("https://localhost:", "/").parse().unwrap();
    let token = between("authorization: Bearer ", "'");
    let ca = fs::read_to_string(site.join("certs/dev/ca.pem")).unwrap();
    (gate, Client::new(([127, 0, 0, 1], port).into(), &ca), token)
}

pub(crate) fn hello(token: &str) -> Request<crate::client::Body> {
    Request::post("/acme/hello")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(full(r#"{"name":"Ada"}"#))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn b10_a_gateway_that_crashes_leaves_no_core() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let (gate, ..) = dev(site.path(), "ulimit -S -c hard;");
    let limits = fs::read_to_string(format!("/proc/{}/limits", gate.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let (soft, hard) = (core.split_whitespace().nth(4), core.split_whitespace().nth(5));
    assert_eq!((soft, hard), (Some("0"), Some("0")), "{core}");
}

/// A limit on the size of files is to a writer what a full disk is.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_audit_log_cannot_grow_nothing_is_served_unrecorded() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    // A first start, without limits, keeps the artefacts, which are larger.
    drop(dev(site.path(), ""));
    let (_gate, client, token) = dev(site.path(), "trap '' XFSZ; ulimit -f 40;");
    let mut answered = 0;
    let refused = loop {
        let reply = client.send(Version::HTTP_11, hello(&token)).await;
        match reply.summary().as_str() {
            "200" => answered += 1,
            _ => break reply,
        }
        assert!(answered < 1000, "the log outgrew its limit");
    };
    assert_eq!(refused.summary(), "503 unavailable");
    assert!(refused.header("retry-after").is_some());
    let recorded =
        sandgate::record::show(&site.path().join(".sandgate/audit"), sandgate::record::Filter::default())
            .unwrap()
            .filter(|shown| shown.as_ref().is_ok_and(|shown| shown.value["outcome"]["status"] == 200))
            .count();
    assert_eq!(recorded, answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_under_load_the_chain_verifies_and_every_answer_has_its_record() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let (mut gate, client, token) = dev(site.path(), "");

    let answered = Arc::new(Mutex::new(BTreeSet::new()));
    let load: Vec<_> = (0..8)
        .map(|n| {
            let (client, token, answered) = (client.clone(), token.clone(), Arc::clone(&answered));
            let version = if n % 2 == 0 { Version::HTTP_11 } else { Version::HTTP_2 };
            tokio::spawn(async move {
                loop {
                    let uri = if version == Version::HTTP_2 {
                        "https://localhost/acme/hello"
                    } else {
                        "/acme/hello"
                    };
                    let mut request = Request::post(uri)
                        .header("authorization", format!("Bearer {token}"))
                        .header("content-type", "application/json");
                    if version == Version::HTTP_11 {
                        request = request.header("host", "localhost");
                    }
                    let request = request.body(full(r#"{"name":"Ada"}"#)).unwrap();
                    let Ok(Ok(reply)) = tokio::spawn({
                        let client = client.clone();
                        async move { client.try_send(version, request).await }
                    })
                    .await
                    else {
                        return;
                    };
                    assert_eq!(reply.status, 200);
                    answered.lock().unwrap().insert(reply.header("sandgate-request-id").unwrap().to_owned());
                }
            })
        })
        .collect();
    crate::world::eventually("two hundred answers came", || async { answered.lock().unwrap().len() >= 200 })
        .await;
    gate.0.kill().unwrap();
    gate.0.wait().unwrap();
    for task in load {
        // A client that meets the kill ends quietly; one that got a wrong answer must not.
        task.await.unwrap();
    }

    let audit = site.path().join(".sandgate/audit");
    // Opening again mends a torn last line, and says so in the chain.
    let log = sandgate::record::AuditLog::open(&audit, sandgate::record::Options::default()).unwrap();
    drop(log);
    let report = sandgate::record::verify(&audit, None).unwrap();
    assert!(report.sound, "{report}");
    let recorded: BTreeSet<String> = sandgate::record::show(&audit, sandgate::record::Filter::default())
        .unwrap()
        .filter_map(|shown| shown.unwrap().value["request_id"].as_str().map(str::to_owned))
        .collect();
    let answered = answered.lock().unwrap();
    let lost: Vec<_> = answered.difference(&recorded).collect();
    assert!(lost.is_empty(), "{} of {} answers have no record", lost.len(), answered.len());
}
