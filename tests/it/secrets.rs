//! Private keys in a running gateway: what of them is in its memory, and who may look into that (hardening B10).

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
};

use http::Version;

use crate::{
    authority::{Authority, GOOD},
    guest::echo,
    hosts::{ACME, certified, der, toml},
    operations::{Gate, dev, hello, sample},
    world::World,
};

/// Nobody's id on Linux, for tests that root runs.
const NOBODY: u32 = 65534;

fn own_id() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

/// A process that may not be dumped is root's to look into, whoever runs it (proc(5)).
#[tokio::test(flavor = "multi_thread")]
async fn b10_a_gateway_of_any_user_is_closed_to_that_users_other_processes_and_compiles_all_the_same() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let prepare = match own_id() {
        0 => {
            let handed = Command::new("chown").args(["-R", &NOBODY.to_string()]).arg(site.path()).status();
            assert!(handed.unwrap().success());
            format!(
                "exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\" dev \
                 --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --site \"$1\";"
            )
        }
        _ => String::new(),
    };
    let (gate, client, token) = dev(site.path(), &prepare);
    let process = format!("/proc/{}", gate.0.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let user: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t"))
        .unwrap()
        .split('\t')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(user, 0, "{status}");
    assert_eq!(fs::metadata(format!("{process}/environ")).unwrap().uid(), 0, "it can be dumped");
    // The engine had a look at its pages before that: it scans them where the kernel can (Linux 6.7).
    if let (Ok(files), true) = (fs::read_dir(format!("{process}/fd")), scans_pages()) {
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        assert!(files.into_iter().any(|file| file.ends_with("pagemap")), "used memory is given back whole");
    }
    // Components were compiled by a process of its own, found by way of `/proc/self/exe`.
    assert_eq!(client.send(Version::HTTP_11, hello(&token)).await.summary(), "200");
}

#[test]
fn b10_of_keys_that_were_read_no_text_is_left_in_memory() {
    let authority = Authority::new("gates");
    let checkpoint = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let (chain, key) = authority.server(&["gate.example"], GOOD);
    let of_host = authority.server(&[ACME], GOOD);
    let world = World::with("echo", &echo())
        .file(
            "sandgate.toml",
            "[audit]\ncheckpoint-key = \"certs/checkpoint.key\"\n[sandbox]\ninstances = 8\n",
        )
        .file("certs/checkpoint.key", &checkpoint)
        .file("policies/acme/tenant.toml", &toml("acme", &format!("hosts = [\"{ACME}\"]"), ""))
        .file("certs/server.pem", &chain)
        .file("certs/server.key", &key);
    let world = certified(world, ACME, &of_host);
    let gate = serve(world.path());
    let keys = [middle(&key), middle(&of_host.1), middle(&checkpoint)];
    // The chain stays for as long as it is served: a search that does not find it is blind.
    let served = der(&chain);
    let wanted = keys.iter().map(String::as_bytes).chain([served.as_ref()]);
    match held(gate.0.id(), &wanted.collect::<Vec<_>>()) {
        Some(held) => {
            assert_eq!(held, [false, false, false, true], "keys of server, host and checkpoints; the chain")
        }
        None => println!("skipped: this user may not look into another process"),
    }
}

fn scans_pages() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

fn serve(site: &Path) -> Gate {
    let mut gate = Gate(
        Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"])
            .arg(site)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(gate.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    log.find(|line| line.contains("\"serving\"")).expect("it serves");
    // Nobody reads on: what it says later fits the pipe.
    gate
}

/// Characters of a PEM text from within its key.
fn middle(pem: &str) -> String {
    let text: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    text.concat().chars().skip(30).take(24).collect()
}

/// Which of these are in what a process can write to; `None` where this user may not look.
fn held(process: u32, wanted: &[&[u8]]) -> Option<Vec<bool>> {
    let memory = fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let pages = fs::File::open(format!("/proc/{process}/pagemap")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let finders: Vec<_> = wanted.iter().map(memchr::memmem::Finder::new).collect();
    let mut found = vec![false; wanted.len()];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let mut entries = vec![0; usize::try_from((to - from) / PAGE_BYTES * 8).ok()?];
        pages.read_exact_at(&mut entries, from / PAGE_BYTES * 8).ok()?;
        let mut present = Vec::new();
        for (entry, page) in entries.chunks_exact(8).zip(0..) {
            // Bit 63: in memory (Documentation/admin-guide/mm/pagemap.rst). What nobody has written to holds nothing.
            if entry[7] & 0x80 != 0 {
                let end = present.len();
                present.resize(end + PAGE_BYTES as usize, 0);
                memory.read_exact_at(&mut present[end..], from + page * PAGE_BYTES).ok()?;
            }
        }
        for (found, finder) in found.iter_mut().zip(&finders) {
            *found |= finder.find(&present).is_some();
        }
    }
    Some(found)
}

const PAGE_BYTES: u64 = 4096;
