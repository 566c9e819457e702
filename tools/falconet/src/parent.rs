//! Validators that a command starts end with the command, even when it is killed: they would hold
//! ports and keys otherwise.

use std::process;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Environment variable that names the process to follow.
const PARENT: &str = "FALCONET_FOLLOW";

/// The environment of a child that shall end with this process. The kernel means the *thread* that
/// starts the child, so that must be one which lives as long as the process.
pub fn to_be_followed() -> Vec<(String, String)> {
    vec![(PARENT.into(), process::id().to_string())]
}

/// Has the kernel kill this process when its parent ends, if the parent asked for that.
pub fn follow() -> anyhow::Result<()> {
    let Ok(parent) = std::env::var(PARENT) else {
        return Ok(());
    };
    let parent: i32 = parent
        .parse()
        .with_context(|| format!("{PARENT} = {parent:?} is no process id; unset it"))?;
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask the kernel for the parent's death")?;
    // It may have ended before the kernel knew.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .is_none_or(|now| now.get() != parent)
    {
        bail!("the process that started this validator has ended; start it without {PARENT}");
    }
    Ok(())
}
