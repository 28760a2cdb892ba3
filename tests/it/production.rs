//! What the README says about running it in earnest, held to what the code and the machine's own tools say.

use std::{fs, path::Path, process::Command};

use sandgate::site::config::ServerConfig;

/// The section of the README.
fn section() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## In production\n").unwrap();
    section.split("\n## ").next().unwrap().to_owned()
}

/// Texts in backticks of the rows of one table, which begins after this heading.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let section = section();
    let (_, after) = section.split_once(&format!("\n### {heading}\n")).unwrap();
    let lines = after.lines().take_while(|line| !line.starts_with("### "));
    let rows = lines.filter(|line| line.starts_with("| ") && line.contains('`'));
    rows.map(|row| row.split('`').skip(1).step_by(2).map(str::to_owned).collect()).collect()
}

/// Above what the unit is rated now, 1.5; what strangers' code runs in should stay far from the 9.6 of a unit without any of it.
const MOST_EXPOSED: f64 = 2.0;

#[test]
fn the_unit_is_one_that_systemd_understands_and_rates_as_little_exposed() {
    let section = section();
    let (_, unit) = section.split_once("```ini\n").unwrap();
    let unit = unit.split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sandgate.service");
    fs::write(&path, unit).unwrap();
    let rated = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&path)
        .output();
    let rated = match rated {
        Ok(rated) => rated,
        Err(error) => return println!("skipped: `systemd-analyze` cannot be run here: {error}"),
    };
    let said = String::from_utf8_lossy(&rated.stdout).into_owned() + &String::from_utf8_lossy(&rated.stderr);
    if said.contains("unrecognized option") {
        return println!("skipped: this `systemd-analyze` cannot judge a file: {said}");
    }
    let exposure = said.split_once("Overall exposure level for sandgate.service: ").expect(&said).1;
    let exposure: f64 = exposure.split_whitespace().next().unwrap().parse().unwrap();
    assert!(exposure < MOST_EXPOSED, "{said}");
    let words = format!("rates it {exposure}");
    assert!(section.contains(&words), "the README does not say that systemd {words}");
    let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let faults: Vec<_> = said.lines().filter(|line| !line.contains("is not executable")).collect();
    assert_eq!(faults, [""; 0]);
}

#[test]
fn the_command_of_the_unit_is_one_that_the_program_takes() {
    let section = section();
    let command = section.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/")).unwrap();
    let args = command.split_whitespace().chain(["--help"]).map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(sandgate::cli::run(args, &mut out, &mut err), 0, "{}", String::from_utf8_lossy(&err));
}

#[test]
fn the_table_of_limits_names_every_section_and_no_setting_that_does_not_exist() {
    let printed = ServerConfig::default().print();
    let sections: Vec<&str> = printed.lines().filter(|line| line.starts_with('[')).collect();
    let rows = rows("Limits");
    let named: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(named, sections);
    let mut of = "";
    let known: Vec<(&str, &str)> = printed
        .lines()
        .filter_map(|line| {
            if line.starts_with('[') {
                of = line;
            }
            Some((of, line.trim_start_matches("# ").split_once(" =")?.0))
        })
        .collect();
    for row in &rows {
        for key in row[1..].iter().filter(|key| !key.contains('.') && !key.starts_with('-')) {
            assert!(known.contains(&(&row[0], key)), "`{}` has no `{key}`", row[0]);
        }
    }
}

#[test]
fn the_alerts_are_on_metrics_that_there_are() {
    let metrics = include_str!("../../src/record/metrics.rs");
    let rows = rows("Alerts");
    let named = rows.iter().flatten().filter_map(|text| text.strip_prefix("sandgate_"));
    let mut count = 0;
    for name in named {
        let name = name.split('{').next().unwrap();
        let registered = name.strip_suffix("_total").unwrap_or(name);
        let short = registered.strip_suffix("_seconds").unwrap_or(registered);
        let there = |name| metrics.contains(&format!("\"{name}\""));
        assert!(there(registered) || there(short), "there is no metric `sandgate_{name}`");
        count += 1;
    }
    assert!(count > 12, "{count}");
}
