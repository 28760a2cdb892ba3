//! `sandgate doctor`: what an operator is told before strangers call.

use serde_json::Value;

use crate::{
    authority::{Authority, EXPIRED, GOOD},
    cli::sandgate,
    hosts::{certified, toml},
    world::World,
};

/// What differs between machines is masked: numbers that are measured, the kernel's version, walls that it does not have.
#[test]
fn doctor_says_what_is_in_force_and_what_must_change() {
    let authority = Authority::new("gates and clients");
    let head = "hosts = [\"api.acme.example\"]\nclient-ca = \"clients.pem\"\nclient-crl = \"clients.crl\"";
    let (chain, key) = authority.server(&["gate.example"], 0..90);
    let mut sound = World::with("echo", "")
        .file("sandgate.toml", "[server]\nmax-connections = 64\n")
        .file("policies/acme/tenant.toml", &toml("acme", head, ""))
        .file("certs/clients.pem", &authority.signed_until(300))
        .file("certs/clients.crl", &authority.revoked(&[], 0..3))
        .file("certs/server.pem", &chain)
        .file("certs/server.key", &key);
    sound = certified(sound, "api.acme.example", &authority.server(&["api.acme.example"], 0..31));
    let site = sound.path().to_str().unwrap();
    let (code, told, err) = sandgate(&["doctor", "--site", site]);
    assert_eq!((code, err.as_str()), (0, ""), "{told}");
    let mask = |line: &str| match line.split_at_checked(19) {
        Some((what, found)) => match what.trim() {
            "certificate" | "host" | "client-ca" | "client-crl" => {
                let mut words: Vec<&str> = found.split(' ').collect();
                let number = words.iter().rposition(|word| word.parse::<u32>().is_ok());
                words[number.expect("a number of days or hours")] = "[TIME]";
                format!("{what}{}", words.join(" "))
            }
            "vm.max_map_count" | "open files" => {
                format!("{what}[LIMIT], of {}", found.split("of ").last().unwrap())
            }
            "compile process" | "a worker process" => format!("{what}confined by [WALLS]"),
            "kernel" => format!("{what}[KERNEL]"),
            _ => line.to_owned(),
        },
        None => line.to_owned(),
    };
    let masked: Vec<String> = told.lines().map(mask).collect();
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("doctor", masked.join("\n")) });

    // Each of these alone would be a reason for exit 1.
    let data = sound.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let unsound = sound
        .file("certs/server.pem", "")
        .file("sandgate.toml", "[server]\nmax-connections = 1000000\n[sandbox]\ninstances = 65536\n");
    let findings = diagnosed(&unsound, &["--data", data.to_str().unwrap()], 1);
    let must = findings.iter().filter(|finding| finding["change"]["must"] == true);
    let must: Vec<_> = must.map(|finding| finding["what"].as_str().unwrap()).collect();
    let measured = ["certificate", "data directory", "vm.max_map_count", "open files"];
    assert!(must.iter().all(|what| measured.contains(what)), "{must:?}");
    assert!(must.contains(&"certificate") && must.contains(&"data directory"), "{must:?}");
}

/// What `doctor --json` finds in a site.
fn diagnosed(site: &World, more: &[&str], expected: u8) -> Vec<Value> {
    let args = [&["doctor", "--site", site.path().to_str().unwrap(), "--json"], more].concat();
    let (code, told, _) = sandgate(&args);
    assert_eq!(code, expected, "{told}");
    serde_json::from_str(&told).unwrap()
}

#[test]
fn b08_doctor_tells_what_ends_and_what_has_ended() {
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let hosts = ["a.acme.example", "b.acme.example", "c.acme.example", "d.acme.example"];
    let head = format!("hosts = {hosts:?}\nclient-ca = \"clients.pem\"\nclient-crl = \"clients.crl\"");
    let (chain, key) = authority.server(&["gate.example"], -1..13);
    let mut site = World::with("echo", "")
        .file("sandgate.toml", "[server]\nmax-connections = 64\n")
        .file("policies/acme/tenant.toml", &toml("acme", &head, ""))
        .file("certs/clients.pem", &(authority.signed_until(20) + &other.signed_until(-1)))
        .file("certs/clients.crl", &authority.revoked(&[], EXPIRED))
        .file("certs/server.pem", &chain)
        .file("certs/server.key", &key);
    for (host, pair) in [
        (hosts[0], authority.server(&[hosts[0]], -1..15)),
        (hosts[1], authority.server(&[hosts[1]], EXPIRED)),
        (hosts[2], authority.server(&[hosts[0]], GOOD)),
    ] {
        site = certified(site, host, &pair);
    }
    let findings = diagnosed(&site, &[], 1);
    let told = |finding: &&Value| {
        ["certificate", "host", "client-ca", "client-crl"].map(Value::from).contains(&finding["what"])
    };
    let line = |finding: &Value| {
        let text = |of: &str| finding[of].as_str().unwrap_or("-").to_owned();
        // `ends in 14 days` is `ends in 13 days` just before midnight.
        let until = finding["until"].as_str().map_or("-".to_owned(), |at| day_from_today(at).to_string());
        let must =
            finding["change"]["must"].as_bool().map_or("fine", |must| if must { "must" } else { "should" });
        let found = text("found").split(" in ").next().unwrap().to_owned();
        format!("{} {} {}: {found}, {until}, {must}", text("what"), text("tenant"), text("name"))
    };
    let lines: Vec<String> = findings.iter().filter(told).map(line).collect();
    assert_eq!(
        lines,
        [
            "certificate - -: ends, 13, should",
            "host acme a.acme.example: ends, 15, fine",
            "host acme b.acme.example: has ended, -, must",
            "host acme c.acme.example: cannot be used, -, must",
            "host acme d.acme.example: cannot be used, -, must",
            "client-ca acme clients.pem: ends, 20, fine",
            "client-ca acme clients.pem: one of it has ended, -, should",
            "client-crl acme clients.crl: cannot be used, -, must",
        ]
    );
    let advice = |name: &str| {
        let finding = findings.iter().find(|finding| finding["name"] == name).unwrap();
        finding["change"]["advice"].as_str().unwrap().to_owned()
    };
    assert!(
        advice(hosts[1]).contains("expired at") && advice(hosts[1]).contains("get another"),
        "{}",
        advice(hosts[1])
    );
    assert!(advice(hosts[2]).contains("is not for `c.acme.example`"), "{}", advice(hosts[2]));
    assert!(advice(hosts[3]).contains("d.acme.example.pem"), "{}", advice(hosts[3]));
    assert!(advice("clients.crl").contains("out of date"), "{}", advice("clients.crl"));
}

fn day_from_today(at: &str) -> i64 {
    at.parse::<jiff::Timestamp>().unwrap().as_second() / 86_400 - crate::token::unix_now() / 86_400
}
