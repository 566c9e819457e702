//! The clock source, and whether something keeps the clock in step.

use std::io;
use std::time::Duration;

use super::files::Files;
use crate::machine::{Clock, Fact};

const DIR: &str = "/sys/devices/system/clocksource/clocksource0";

pub(super) fn read(files: &Files) -> Clock {
    let sources = files.text(format!("{DIR}/available_clocksource"));
    Clock {
        source: files.text(format!("{DIR}/current_clocksource")),
        sources: sources.map_or_else(
            |_| Vec::new(),
            |text| text.split_whitespace().map(str::to_owned).collect(),
        ),
        synchronised: synchronised(),
    }
}

/// What the kernel thinks of its clock: adjtimex(2) with no modes reads and changes nothing.
fn synchronised() -> Fact<(bool, Duration)> {
    // SAFETY: `timex` is plain integers, for which zeros are valid.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that lives during the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(format!("adjtimex: {}", io::Error::last_os_error()));
    }
    let in_step = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    let error_us = u64::try_from(timex.maxerror).unwrap_or(0);
    Ok((in_step, Duration::from_micros(error_us)))
}
