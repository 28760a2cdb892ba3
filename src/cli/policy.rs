//! `sandgate policy`: what policies do, before they do it to anybody.

use std::io::Write;

use clap::{Args, Subcommand};

use super::{
    Exit, Failure, SiteArg,
    site::{count, load_policies, report},
};
use crate::{
    authz::{matrix, run_trials},
    id::TenantName,
    site::env,
};

/// Test policies and show what they allow
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    Test(Test),
    Matrix(Matrix),
}

/// Run the policy tests of `policies/<tenant>/tests.toml`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate policy test --tenant acme")]
pub(super) struct Test {
    #[command(flatten)]
    site: SiteArg,
    /// Only this tenant's [default: every tenant's]
    #[arg(long, value_name = "T")]
    tenant: Option<TenantName>,
}

/// Show who may invoke what: tenant × role × function
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate policy matrix --site .")]
pub(super) struct Matrix {
    #[command(flatten)]
    site: SiteArg,
}

impl Policy {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Test(test) => test.run(out),
            Self::Matrix(matrix) => matrix.run(out),
        }
    }
}

impl Test {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let policies = load_policies(&self.site.site)?;
        let (faults, _) = report(&policies.diagnostics, env::colour_out(), out)?;
        let mut failed = faults;
        let mut passed = 0;
        let chosen =
            policies.tenants.iter().filter(|(t, ..)| self.tenant.as_ref().is_none_or(|name| *name == t.name));
        for (tenant, policies, known) in chosen {
            let Some(tests) = &tenant.tests else { continue };
            let trials = run_trials(policies, known, tests);
            for trial in &trials.trials {
                let mark = if trial.passed { "ok    " } else { "FAILED" };
                writeln!(out, "{mark} {}: {}", tenant.name, trial.name)?;
                passed += usize::from(trial.passed);
            }
            let (faults, _) = report(&trials.diagnostics, env::colour_out(), out)?;
            failed += faults;
        }
        if passed + failed == 0 {
            return Err("no tenant has policy tests".into());
        }
        writeln!(out, "{} passed, {}", count(passed, "test"), count(failed, "fault"))?;
        Ok(if failed == 0 { Exit::Done } else { Exit::No })
    }
}

impl Matrix {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let policies = load_policies(&self.site.site)?;
        let (faults, _) = report(&policies.diagnostics, env::colour_out(), out)?;
        let tenants: Vec<_> = policies.tenants.iter().map(|(_, policies, known)| (policies, known)).collect();
        write!(out, "{}", matrix(&tenants))?;
        Ok(if faults == 0 { Exit::Done } else { Exit::No })
    }
}
