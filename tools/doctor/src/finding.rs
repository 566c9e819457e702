//! What a check says.

use serde::Serialize;

use crate::Fix;

/// Version of the JSON schema of [`Report`]; grows when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Could not be looked at; the finding says why.
    NotChecked,
    /// Correct and slower than it could be, or worth knowing.
    Note,
    /// Costs much, or endangers taking part.
    Warn,
    /// A validator cannot run correctly; it refuses to start.
    Fail,
}

impl Severity {
    /// The word that people see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, stable: scripts may match it.
    pub check: &'static str,
    /// Of what, where there are several: a network device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// What was found; of an unchecked thing the reason.
    pub found: String,
    /// What it costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<String>,
    /// How to mend it: commands, or instructions where there is no single command.
    pub mend: Vec<String>,
    /// The change that `falconet doctor --fix` can make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, found: impl Into<String>) -> Self {
        Self {
            check,
            subject: None,
            severity,
            found: found.into(),
            costs: None,
            mend: Vec::new(),
            fix: None,
        }
    }

    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, found)
    }

    pub(crate) fn not_checked(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(check, Severity::NotChecked, reason)
    }

    pub(crate) fn bad(
        check: &'static str,
        severity: Severity,
        found: impl Into<String>,
        costs: impl Into<String>,
    ) -> Self {
        let mut finding = Self::new(check, severity, found);
        finding.costs = Some(costs.into());
        finding
    }

    pub(crate) fn mend(mut self, how: impl Into<String>) -> Self {
        self.mend.push(how.into());
        self
    }

    /// With a change that can be made here; its commands are how to mend it.
    pub(crate) fn fix(mut self, fix: Fix) -> Self {
        self.mend.extend(fix.commands());
        self.fix = Some(fix);
        self
    }

    pub(crate) fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

impl std::fmt::Display for Finding {
    /// One line: what was found, what it costs, how to mend it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.check)?;
        if let Some(subject) = &self.subject {
            write!(f, " ({subject})")?;
        }
        write!(f, ": {}", self.found)?;
        if let Some(costs) = &self.costs {
            write!(f, ": {costs}")?;
        }
        if !self.mend.is_empty() {
            write!(f, "; to mend: {}", self.mend.join(" && "))?;
        }
        Ok(())
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this schema.
    pub version: u32,
    /// The worst severity among the findings.
    pub worst: Severity,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|f| f.severity).max();
        Self {
            version: SCHEMA_VERSION,
            worst: worst.unwrap_or(Severity::Ok),
            findings,
        }
    }

    /// Findings of one severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.severity == severity)
    }

    /// The changes that can be made here.
    pub fn fixes(&self) -> impl Iterator<Item = &Fix> {
        self.findings.iter().filter_map(|f| f.fix.as_ref())
    }
}
