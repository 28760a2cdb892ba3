//! Policy tests, as `tests.toml` writes them, and the sample site's own.

use super::*;

#[test]
fn the_sample_site_is_sound_and_its_tests_hold() {
    let world = World::new();
    let acme = world.sample("acme");
    let globex = world.sample("globex");
    insta::assert_snapshot!(matrix(&[(&acme.0, &acme.1), (&globex.0, &globex.1)]), @r#"
Function::"acme/hello"        invoke
  acme    billing             ✔
  acme    editor              ✔
  acme    invoker             ✔
  acme    (no role)           ✘
  globex  planner             ✘
  globex  support             ✘
  globex  (no role)           ✘

Function::"acme/invoice"      invoke
  acme    billing             ✘
  acme    billing + scopes    ✔
  acme    editor              ✘
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✘
  globex  support             ✘
  globex  (no role)           ✘

Function::"acme/render"       invoke
  acme    billing             ✘
  acme    editor              ✔
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✘
  globex  support             ✘
  globex  (no role)           ✘

Function::"globex/calendar"   invoke
  acme    billing             ✘
  acme    editor              ✘
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✔
  globex  support             ✔
  globex  (no role)           ✘
  globex  (no role) + scopes  ✔
"#);
}

impl World {
    pub(super) fn sample(&self, name: &str) -> (Arc<TenantPolicies>, KnownNames) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name);
        let mut sources = Vec::new();
        let mut paths: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "cedar")) {
            let file = path.file_name().unwrap().to_str().unwrap();
            sources
                .push(Source::new(format!("policies/{name}/{file}"), std::fs::read_to_string(path).unwrap()));
        }
        let mut known = known();
        if name == "globex" {
            known.functions = [("calendar".parse().unwrap(), BTreeSet::new())].into();
        }
        let (policies, diagnostics) =
            TenantPolicies::compile(&self.platform, &tenant(name), &sources, &known);
        assert_eq!(told(&diagnostics), "");
        let policies = policies.unwrap();
        let tests = std::fs::read_to_string(folder.join("tests.toml")).unwrap();
        let report =
            run_trials(&policies, &known, &Source::new(format!("policies/{name}/tests.toml"), tests));
        assert_eq!(told(&report.diagnostics), "");
        assert!(report.trials.len() >= 3 && report.trials.iter().all(|trial| trial.passed));
        assert_eq!(policies.uncallable(known.functions.keys()), []);
        (policies, known)
    }
}

#[test]
fn a_policy_test_that_does_not_hold_is_a_fault_with_its_place() {
    let world = World::new();
    let policies = world.policies("acme", PERMIT_ALL);
    let tests = Source::new(
        "policies/acme/tests.toml",
        "[[test]]\nname = \"nobody\"\ncaller = { subject = \"bob\" }\nfunction = \"hello\"\nexpect = \"deny\"\n\n\
         [[test]]\nname = \"by whom\"\ncaller = { subject = \"bob\" }\nfunction = \"hello\"\nexpect = \"allow\"\npolicies = [\"acme/other\"]\n\n\
         [[test]]\nname = \"where\"\ncaller = \"bob\"\nfunction = \"nowhere\"\nexpect = \"allow\"\n",
    );
    let report = run_trials(&policies, &known(), &tests);
    insta::assert_snapshot!(told(&report.diagnostics), @r#"
policies/acme/tests.toml:5: policy test `nobody` does not hold: allow by `acme/all`
policies/acme/tests.toml:12: policy test `by whom` does not hold: allow by `acme/all`
policies/acme/tests.toml:17: there is no function `nowhere`
"#);
    insta::assert_snapshot!(report.diagnostics[1].render(false), @r#"
error: policy test `by whom` does not hold: allow by `acme/all`
  --> policies/acme/tests.toml:12:12
   |
12 | policies = ["acme/other"]
   |            ^^^^^^^^^^^^^^
"#);
    let unknown_key = Source::new("policies/acme/tests.toml", "[[test]]\nname = \"x\"\nrole = 1\n");
    insta::assert_snapshot!(told(&run_trials(&policies, &known(), &unknown_key).diagnostics), @r#"policies/acme/tests.toml:3: unknown field `role`, expected one of `name`, `caller`, `function`, `request`, `expect`, `policies`"#);
}

#[test]
fn policy_tests_are_bounded() {
    let world = World::new();
    let policies = world.policies("acme", "");
    let one =
        "[[test]]\nname = \"n\"\ncaller = { subject = \"b\" }\nfunction = \"hello\"\nexpect = \"deny\"\n";
    let report = run_trials(&policies, &known(), &Source::new("tests.toml", one.repeat(1_001)));
    assert_eq!(report.trials.len(), 1_000);
    assert_eq!(report.diagnostics.len(), 1);
}
