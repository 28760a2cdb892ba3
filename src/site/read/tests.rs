use std::{fs, os::unix::fs::symlink};

use toml::Spanned;

use super::*;
use crate::site::units::Bytes;

/// A sound site with tenants `acme` and `globex`.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        world.write("policies/schema.cedarschema", "entity Tenant;");
        world.write("policies/guardrails.cedar", "");
        world.tenant("acme").tenant("globex");
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
        self
    }

    fn tenant(&self, name: &str) -> &Self {
        let toml = format!(
            "[[issuers]]\nissuer = \"https://idp.{name}.example\"\naudiences = [\"a\"]\n\
             algorithms = [\"ES256\"]\nkeys = \"jwks.json\"\n"
        );
        self.write(&format!("policies/{name}/tenant.toml"), &toml)
            .write(&format!("policies/{name}/jwks.json"), "{}")
            .write(&format!("policies/{name}/a.cedar"), "// a")
            .write(&format!("policies/{name}/b.cedar"), "// b")
            .write(&format!("functions/{name}/hello/function.toml"), MANIFEST)
            .write(&format!("functions/{name}/hello/hello.wat"), "(component)")
    }

    fn read(&self) -> Site {
        Site::read(self.0.path())
    }

    fn told(&self) -> String {
        told(&self.read())
    }
}

fn told(site: &Site) -> String {
    site.diagnostics().map(|diagnostic| diagnostic.one_line() + "\n").collect()
}

const MANIFEST: &str = "component = \"hello.wat\"\nmethods = [\"POST\"]\n";

#[test]
fn a_sound_site_is_read_whole() {
    let world = World::new();
    world.write("functions/wit/function.wit", "").write("functions/acme/shared/lib.rs", "");
    world.write("policies/acme/tests.toml", "").write("policies/acme/revoked.json", "{}");
    let site = world.read();
    assert_eq!(told(&site), "");
    assert_eq!(site.tenants.keys().map(TenantName::as_str).collect::<Vec<_>>(), ["acme", "globex"]);
    let acme = site.tenants.get("acme").unwrap();
    assert_eq!(
        acme.policies.iter().map(|p| &*p.path).collect::<Vec<_>>(),
        ["policies/acme/a.cedar", "policies/acme/b.cedar"]
    );
    assert!(acme.raw.is_some() && acme.tests.is_some() && acme.revoked.as_ref().is_ok_and(Option::is_some));
    let hello = acme.functions.get("hello").unwrap();
    let component = hello.raw.as_ref().unwrap().component.clone();
    assert_eq!(acme.functions.len(), 1);
    assert_eq!(hello.open(&component).unwrap().bytes(Bytes::kib(1)).unwrap(), b"(component)");
    assert_eq!(hello.dir(), world.path("functions/acme/hello"));
}

#[test]
fn every_fault_is_told_at_once_and_only_its_tenant_is_faulty() {
    let world = World::new();
    world.write("policies/acme/tenant.toml", "nmae = \"Acme\"\n[ceilings]\nmemory = \"1TiB\"\n");
    world.write("functions/acme/hello/function.toml", "component = 1\nmethods = [\"get\", \"TRACE\"]\n");
    world.write("functions/acme/Bad_Name/function.toml", MANIFEST);
    world.write("functions/initech/hello/function.toml", MANIFEST);
    world
        .write("policies/hooli/a.cedar", "")
        .write("policies/Up/tenant.toml", "")
        .write("policies/wit/x", "");
    let site = world.read();
    insta::assert_snapshot!(told(&site), @r#"
    `policies/hooli/` is no tenant's folder
    `functions/initech/` has functions of a tenant that does not exist
    `policies/Up/` cannot be a tenant's name
    `policies/wit/` cannot be a tenant's name
    policies/acme/tenant.toml:1: unknown key `nmae`
    policies/acme/tenant.toml:3: `memory`: a size is a whole number with `B`, `KiB`, `MiB` or `GiB`, such as `64KiB`
    `functions/acme/Bad_Name/` cannot be a function's name
    functions/acme/hello/function.toml:1: `component`: invalid type: integer `1`, expected a string
    "#);
    assert!(!site.platform.is_faulty());
    assert!(site.tenants.get("acme").unwrap().is_faulty());
    assert!(!site.tenants.get("globex").unwrap().is_faulty());
    assert_eq!(site.tenants.len(), 2);
}

#[test]
fn a_site_of_nothing_has_a_faulty_platform() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::read(dir.path());
    assert!(site.platform.is_faulty() && site.tenants.is_empty());
    insta::assert_snapshot!(told(&site), @r#"
    policies/schema.cedarschema: this file is missing: without a schema no policy means anything
    policies/guardrails.cedar: this file is missing: an empty file says that there are none
    "#);
    assert!(Site::read(&dir.path().join("none")).platform.is_faulty());
}

#[test]
fn c09_connect_and_trace_cannot_be_offered() {
    let world = World::new();
    let methods =
        "component = \"hello.wat\"\nmethods = [\"POST\", \"CONNECT\", \"TRACE\", \"PSOT\", \"POST\"]\n";
    world.write("functions/acme/hello/function.toml", methods);
    insta::assert_snapshot!(world.told(), @r#"
    functions/acme/hello/function.toml:2: a function cannot answer `CONNECT`
    functions/acme/hello/function.toml:2: a function cannot answer `TRACE`
    functions/acme/hello/function.toml:2: unknown method `PSOT`
    functions/acme/hello/function.toml:2: method `POST` is listed twice
    "#);
}

#[test]
fn labels_and_limits_are_held_against_their_rules() {
    let world = World::new();
    let manifest = format!(
        "{MANIFEST}labels = [\"money\", \"Big Money\"]\n[event]\nmax-bytes = \"1GiB\"\n\
         [limits]\ncpu = \"100ms\"\nwall = \"1h\"\nconcurrency = 0\n"
    );
    world.write("functions/acme/hello/function.toml", &manifest);
    world.write("policies/acme/tenant.toml", "[ceilings]\ncpu = \"50ms\"\nmemory = \"1GiB\"\n");
    insta::assert_snapshot!(world.told(), @r#"
    policies/acme/tenant.toml:3: `memory` is 1GiB, but the platform's ceiling of 128MiB holds
    functions/acme/hello/function.toml:3: `Big Money` is not a label
    functions/acme/hello/function.toml:7: `cpu` is 100ms, but the tenant's ceiling of 50ms holds
    functions/acme/hello/function.toml:8: `wall` is 1h, but the platform's ceiling of 30s holds
    functions/acme/hello/function.toml:9: with a limit `concurrency` of nothing, nothing can run
    functions/acme/hello/function.toml:5: `max-bytes` is 1GiB, but the platform's ceiling of 1MiB holds
    "#);
}

#[test]
fn a07_an_issuer_belongs_to_one_tenant_or_names_a_claim() {
    let world = World::new();
    let issuer = |more: &str| {
        format!(
            "[[issuers]]\nissuer = \"https://idp\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\n\
             keys = \"discover\"\n{more}"
        )
    };
    let both = |acme: &str, globex: &str| {
        world.write("policies/acme/tenant.toml", &issuer(acme));
        world.write("policies/globex/tenant.toml", &issuer(globex));
        let site = world.read();
        assert_eq!(site.platform.is_faulty(), !site.platform.diagnostics.is_empty());
        site.platform.diagnostics.len()
    };
    assert_eq!(both("", ""), 1);
    assert_eq!(both("tenant-claim = \"/t\"", ""), 1);
    assert_eq!(both("", "tenant-claim = \"/t\""), 1);
    assert_eq!(both("tenant-claim = \"/t\"", "tenant-claim = \"/u\""), 1);
    assert_eq!(both("tenant-claim = \"/t\"", "tenant-claim = \"/t\""), 0);
    assert_eq!(both("tenant-claim = \"/t\"", "tenant-claim = \"/t\"\ntenant-value = \"acme\""), 1);
    insta::assert_snapshot!(world.told(), @r#"policies/globex/tenant.toml:2: issuer `https://idp` is also tenant `acme`'s"#);
}

#[test]
fn no_path_or_link_of_a_tenant_leads_to_another_tenant() {
    let world = World::new();
    world.write("policies/globex/secret.cedar", "permit").write("functions/globex/hello/secret", "s");
    symlink("../globex/secret.cedar", world.path("policies/acme/stolen.cedar")).unwrap();
    symlink("../globex/hello", world.path("functions/acme/stolen")).unwrap();
    symlink("../../globex/hello/secret", world.path("functions/acme/hello/link")).unwrap();
    symlink("../shared/a.json", world.path("functions/acme/hello/shared.json")).unwrap();
    world.write("functions/acme/shared/a.json", "{}");
    let site = world.read();
    insta::assert_snapshot!(told(&site), @r#"
    policies/acme/stolen.cedar: it leads out of the tenant's own folder
    functions/acme/stolen/function.toml: it leads out of the tenant's own folder
    "#);
    let acme = site.tenants.get("acme").unwrap();
    let hello = acme.functions.get("hello").unwrap();
    let at = |path: &str| Spanned::new(0..9, path.to_owned());
    for bad in ["../../globex/hello/secret", "link", "/etc/passwd", "", "../shared/a.json", "none"] {
        assert!(hello.open(&at(bad)).is_err(), "{bad}");
        assert!(acme.open(&at(bad), Bytes::kib(1)).is_err(), "{bad}");
    }
    assert_eq!(&*hello.open(&at("shared.json")).unwrap().text(Bytes::kib(1)).unwrap().text, "{}");
    assert_eq!(&*acme.open_text(&at("jwks.json"), Bytes::kib(1)).unwrap().path, "policies/acme/jwks.json");
    insta::assert_snapshot!(hello.open(&at("link")).unwrap_err().render(false), @r#"
    error: `link`: it leads out of the tenant's own folder
     --> functions/acme/hello/function.toml:1:1
      |
    1 | component = "hello.wat"
      | ^^^^^^^^^
    "#);
}

#[test]
fn a_policy_that_cannot_be_read_is_a_fault_since_it_may_forbid() {
    let world = World::new();
    symlink("nowhere", world.path("policies/acme/c.cedar")).unwrap();
    symlink("nowhere", world.path("policies/acme/revoked.json")).unwrap();
    fs::create_dir(world.path("policies/acme/d.cedar")).unwrap();
    fs::write(world.path("policies/acme/e.cedar"), b"\xff").unwrap();
    insta::assert_snapshot!(world.told(), @r#"
    policies/acme/c.cedar: there is no such file
    policies/acme/d.cedar: it is not a regular file
    policies/acme/e.cedar: it is not UTF-8 (byte 0)
    policies/acme/revoked.json: there is no such file
    "#);
}

#[test]
fn a_fingerprint_changes_with_its_own_part_only() {
    let world = World::new();
    let before = world.read();
    assert_eq!(world.read().fingerprint, before.fingerprint);
    let changed = |path: &str, text: &str| {
        let before = world.read();
        world.write(path, text);
        let after = world.read();
        let part = |site: &Site, name: &str| site.tenants.get(name).map(|tenant| tenant.fingerprint);
        (
            before.platform.fingerprint != after.platform.fingerprint,
            part(&before, "acme") != part(&after, "acme"),
            part(&before, "globex") != part(&after, "globex"),
        )
    };
    assert_eq!(changed("policies/acme/a.cedar", "// changed"), (false, true, false));
    assert_eq!(changed("functions/acme/hello/hello.wat", "(component (;changed;))"), (false, true, false));
    assert_eq!(changed("policies/acme/jwks.json", "{\"keys\": []}"), (false, true, false));
    assert_eq!(changed("policies/acme/revoked.json", "{}"), (false, false, false));
    assert_eq!(changed("policies/guardrails.cedar", "// changed"), (true, false, false));
    assert_eq!(changed("certs/server.pem", "x"), (true, false, false));
}

#[test]
fn a_fingerprint_changes_when_a_missing_file_is_mended_with_an_empty_one() {
    let world = World::new();
    fs::remove_file(world.path("policies/guardrails.cedar")).unwrap();
    let missing = world.read();
    world.write("policies/guardrails.cedar", "");
    assert_ne!(world.read().platform.fingerprint, missing.platform.fingerprint);

    fs::write(world.path("policies/acme/tenant.toml"), b"\xff").unwrap();
    let faulty = world.read();
    world.write("policies/acme/tenant.toml", "");
    let fingerprint = |site: &Site| site.tenants.get("acme").unwrap().fingerprint;
    assert_ne!(fingerprint(&world.read()), fingerprint(&faulty));
}

#[test]
fn a_refresh_is_a_read() {
    let world = World::new();
    let mut site = world.read();
    let mut step = |tenants: &[&str], change: &dyn Fn()| {
        change();
        let mut changes = Changes::default();
        changes.tenants.extend(tenants.iter().map(|name| name.parse::<TenantName>().unwrap()));
        let old = site.clone();
        site = site.refresh(&changes);
        let again = world.read();
        assert_eq!(site.fingerprint, again.fingerprint);
        assert_eq!(told(&site), told(&again));
        for (name, tenant) in site.tenants.iter().filter(|(name, _)| !tenants.contains(&name.as_str())) {
            assert!(Arc::ptr_eq(tenant, old.tenants.get(name).unwrap()), "{name} was read again");
        }
    };
    step(&["acme"], &|| {
        world.write("policies/acme/a.cedar", "// changed");
    });
    step(&["hooli"], &|| {
        world.write("functions/hooli/hello/function.toml", MANIFEST);
    });
    step(&["hooli"], &|| {
        world.tenant("hooli");
    });
    step(&["globex"], &|| fs::remove_dir_all(world.path("policies/globex")).unwrap());
    step(&["globex"], &|| fs::remove_dir_all(world.path("functions/globex")).unwrap());
    step(&["acme"], &|| {
        world.write("policies/acme/tenant.toml", "x = 1");
    });
    world.write("sandgate.toml", "[limits]\ncpu = \"1ms\"\n");
    let changes = Changes { platform: true, ..Changes::default() };
    assert_eq!(told(&site.refresh(&changes)), world.told());
}

#[test]
fn a_thousand_tenants_are_read_and_share_what_is_alike() {
    let world = World::new();
    for n in 0..1_000 {
        world.tenant(&format!("t{n}"));
    }
    let site = world.read();
    assert_eq!(told(&site), "");
    assert_eq!(site.tenants.len(), 1_002);
    let manifests: Vec<_> =
        site.tenants.values().filter_map(|tenant| tenant.functions.get("hello")?.raw.as_ref()).collect();
    assert_eq!(manifests.len(), 1_002);
    let distinct: BTreeSet<_> = manifests.iter().map(|raw| Arc::as_ptr(raw)).collect();
    assert!(distinct.len() <= MAX_WORKERS, "{} parsed manifests", distinct.len());
}

#[test]
fn the_sample_site_has_nothing_wrong() {
    let site = Site::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(told(&site), "");
    assert_eq!(site.tenants.keys().map(TenantName::as_str).collect::<Vec<_>>(), ["acme", "globex"]);
}
