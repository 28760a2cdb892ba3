//! `sandgate dev` and tenants' own names: a workbench has a certificate for each.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use http::Version;

use crate::{
    authority::{Authority, GOOD},
    client::Client,
    guest::echo,
    hosts::{ACME, call, certified, der, toml},
    operations::{Gate, hello, sample},
    world::{Live, World, eventually},
};

fn hosts(names: &[&str]) -> String {
    toml("acme", &format!("hosts = {names:?}"), "")
}

/// A client that trusts the workbench's authority as it is now.
fn client(live: &Live, name: &str) -> Client {
    let ca = fs::read_to_string(live.path().join("certs/dev/ca.pem")).unwrap();
    Client::new(live.running.address, &ca).named(name)
}

#[tokio::test]
async fn a_host_without_a_certificate_gets_one_and_one_with_keeps_its_own() {
    let authority = Authority::new("hosts");
    let own = authority.server(&["own.acme.example"], GOOD);
    let world =
        World::with("echo", &echo()).file("policies/acme/tenant.toml", &hosts(&[ACME, "own.acme.example"]));
    let live = certified(world, "own.acme.example", &own).start().await;
    let token = live.token("acme").sign();
    let by_host = client(&live, ACME);
    assert_eq!(call(&by_host, Version::HTTP_2, ACME, "/echo", &token).await.summary(), "200");
    assert!(!live.path().join("certs/dev/own.acme.example.pem").exists());
    let theirs = client(&live, "own.acme.example").trusting(&authority.pem);
    let stream = theirs.tls(&[b"h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], der(&own.0));

    // One that is listed while it serves gets its own too, of an authority that may vouch for it.
    let next = "next.acme.example";
    live.write("policies/acme/tenant.toml", hosts(&[ACME, next]));
    eventually("it is served", || async {
        client(&live, next).tls(&[b"h2"]).await.is_ok() && client(&live, ACME).tls(&[b"h2"]).await.is_ok()
    })
    .await;
    assert_eq!(call(&client(&live, next), Version::HTTP_11, next, "/echo", &token).await.summary(), "200");
    assert_eq!(client(&live, "localhost").alert().await, None, "the gateway's own is of that authority too");
}

#[test]
fn in_earnest_what_dev_made_stands_in_for_nothing() {
    let world = World::with("echo", &echo()).file("policies/acme/tenant.toml", &hosts(&[ACME]));
    let told = |world: &World| {
        let (code, out, err) = crate::cli::sandgate(&["check", "--site", world.path().to_str().unwrap()]);
        (code, out + &err)
    };
    assert!(told(&world).1.contains("`sandgate dev` makes one for this machine"));
    sandgate::site::dev::ensure(world.path(), &[ACME.parse().unwrap()]).unwrap();
    let (code, all) = told(&world);
    assert!(code == 0 && !all.contains("is not served here"), "{all}");
    let (_, doctor, _) = crate::cli::sandgate(&["doctor", "--site", world.path().to_str().unwrap()]);
    assert!(doctor.contains("api.acme.example of acme: cannot be used"), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_that_is_printed_for_a_tenants_host_works_as_it_stands() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let tenant = site.path().join("policies/acme/tenant.toml");
    let text = format!("hosts = [\"{ACME}\"]\n{}", fs::read_to_string(&tenant).unwrap());
    fs::write(&tenant, text).unwrap();
    let mut gate = Gate(
        Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"])
            .arg(site.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let lines = BufReader::new(gate.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = Vec::new();
    for line in lines {
        told.push(line);
        if told.last().is_some_and(|line| line.starts_with("curl --resolve ")) {
            break;
        }
    }
    let line = told.last().expect("a line to try");
    let words: Vec<&str> = line.split(' ').collect();
    let [_, _, resolve, _, authority, url, ..] = words.as_slice() else { panic!("{line}") };
    let (host, address) = resolve.split_once(':').unwrap();
    let (port, ip) = address.split_once(':').unwrap();
    assert_eq!((host, ip), (ACME, "127.0.0.1"), "{line}");
    assert_eq!(*url, format!("https://{ACME}:{port}/hello"));
    assert!(told.contains(&format!("acme       https://{ACME}:{port}")), "{told:#?}");
    let token = line.split("authorization: Bearer ").nth(1).unwrap().split('\'').next().unwrap();
    let address = (std::net::Ipv4Addr::LOCALHOST, port.parse().unwrap()).into();
    let client = Client::new(address, &fs::read_to_string(authority).unwrap()).named(host);
    let mut request = hello(token);
    *request.uri_mut() = "/hello".parse().unwrap();
    request.headers_mut().insert("host", format!("{host}:{port}").parse().unwrap());
    assert_eq!(client.send(Version::HTTP_11, request).await.summary(), "200");
}
