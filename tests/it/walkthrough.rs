//! What the README has a stranger paste, pasted: from an empty folder to a client certificate that is revoked.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::{operations::Gate, world::eventually};

/// The first block of code after these words.
fn block<'a>(readme: &'a str, after: &str) -> &'a str {
    let (_, rest) = readme.split_once(after).unwrap_or_else(|| panic!("the README has no {after:?}"));
    let (_, rest) = rest.split_once("\n```").unwrap();
    let (_, code) = rest.split_once('\n').unwrap();
    code.split("```").next().unwrap()
}

/// Exit code 0, and what was said on both outputs.
fn bash(folder: &Path, script: &str) -> (bool, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_sandgate")).parent().unwrap();
    let done = Command::new("bash")
        .args(["-c", &format!("PATH=\"$PROGRAM:$PATH\"\n{script}")])
        .current_dir(folder)
        .env("PROGRAM", program)
        .env("SANDGATE", env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_work_as_they_are_walked_through() {
    for tool in ["openssl", "curl"] {
        if Command::new(tool).arg("version").output().is_err() {
            return println!("skipped: `{tool}` cannot be run here");
        }
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let site =
        block(&readme, "### A function from an empty folder\n").replace("sandgate dev --site site\n", "");
    let (sound, said) = bash(folder.path(), &format!("set -e\n{site}"));
    assert!(sound, "{said}");
    let (sound, said) = bash(folder.path(), &format!("set -e\n{}", block(&readme, "To try all of it,")));
    assert!(sound, "{said}");

    let mut gate = Gate(
        Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site", "site"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut told = BufReader::new(gate.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = told.find_map(|line| Some(line.strip_prefix("functions  https://localhost:")?.to_owned()));
    let port = port.expect("it serves");
    let calls =
        block(&readme, "With `sandgate dev --site site` running,").replace(":8443", &format!(":{port}"));
    let (prepared, rest) = calls.split_once("\ncall\n").unwrap();
    let (revoked, again) = rest.split_once("sleep 1; ").unwrap();
    assert!(again.starts_with("call "), "{again}");
    let prepared = format!("{prepared}\nexport TOKEN");
    let (sound, said) = bash(folder.path(), &format!("set -e\n{prepared}\ncall"));
    assert!(sound && said.contains("Ada"), "{said}");
    let (sound, said) = bash(folder.path(), &format!("set -e\n{revoked}"));
    assert!(sound, "{said}");
    eventually("the certificate is refused as revoked", || async {
        let (sound, said) = bash(folder.path(), &format!("{prepared}\ncall"));
        !sound && said.contains("certificate revoked")
    })
    .await;
}
