//! The checks of `falconet doctor` at a validator's start: what makes running correctly impossible
//! ends the start with every reason at once, warnings are logged once, the rest is for the doctor.

use falconet_doctor::{Finding, Machine, ReadOptions, Severity, check};

use crate::config::Config;

/// The machine cannot run a validator.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run a validator: {}", words(.0))]
pub struct Unfit(Vec<Finding>);

fn words(findings: &[Finding]) -> String {
    let words: Vec<String> = findings.iter().map(Finding::to_string).collect();
    words.join(" | ")
}

/// Looks at the machine before anything else is done.
pub(crate) fn check_machine(config: &Config) -> Result<(), Unfit> {
    let report = check(&Machine::read(&ReadOptions {
        data_dir: Some(config.data.clone()),
    }));
    let failures: Vec<Finding> = report.of(Severity::Fail).cloned().collect();
    if !failures.is_empty() {
        return Err(Unfit(failures));
    }
    for finding in report.of(Severity::Warn) {
        tracing::warn!("{finding}");
    }
    for finding in report.of(Severity::Note) {
        tracing::debug!("{finding}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_said_in_one_line() {
        let machine = {
            let mut machine = Machine::read(&ReadOptions::default());
            machine.kernel.release = Ok("4.4.0".into());
            machine.disk = Err("not looked at".into());
            machine.ipv6.socket = Err(falconet_doctor::Refusal {
                call: "socket(AF_INET6)",
                errno: 97,
            });
            machine
        };
        let failures: Vec<Finding> = check(&machine).of(Severity::Fail).cloned().collect();
        let text = Unfit(failures).to_string();
        assert!(
            text.contains("Linux 4.4.0") && text.contains("AF_INET6"),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
    }
}
