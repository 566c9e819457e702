//! Memory and CPU time of a process and of its threads, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// What `/proc/PID` says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessStats {
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Largest resident memory so far, KiB.
    pub rss_peak_kib: u64,
    /// CPU time used, user and system.
    pub cpu: Duration,
    /// Threads.
    pub threads: u64,
}

impl ProcessStats {
    /// Resident memory, MiB.
    #[must_use]
    pub fn rss_mib(&self) -> f64 {
        self.rss_kib as f64 / 1_024.0
    }

    /// Reads the figures of a process; nothing when it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse(&status, &stat, rustix::param::clock_ticks_per_second())
    }

    /// Reads the figures of this process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }
}

/// CPU time of threads by name; those that differ only in the number at the end (`verify-0`,
/// `verify-1`) are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadTimes(BTreeMap<String, Duration>);

impl ThreadTimes {
    /// Reads the threads of a process; none when it is gone or the kernel does not count
    /// (`/proc/PID/task/TID/schedstat`, CONFIG_SCHED_INFO).
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let mut times = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |file| fs::read_to_string(task.path().join(file)).ok();
            // A thread that ends meanwhile is left out.
            if let (Some(name), Some(stat)) = (read("comm"), read("schedstat")) {
                times.count(&name, &stat);
            }
        }
        times
    }

    fn count(&mut self, name: &str, schedstat: &str) {
        let name = name
            .trim_end()
            .trim_end_matches(|c: char| c.is_ascii_digit());
        let name = name.strip_suffix('-').unwrap_or(name);
        let nanos = schedstat
            .split(' ')
            .next()
            .and_then(|first| first.parse().ok());
        *self.0.entry(name.to_owned()).or_default() += Duration::from_nanos(nanos.unwrap_or(0));
    }

    /// Adds what the threads of one process used since `before`.
    pub fn add_since(&mut self, after: &Self, before: &Self) {
        for (name, time) in &after.0 {
            let was = before.0.get(name).copied().unwrap_or_default();
            *self.0.entry(name.clone()).or_default() += time.saturating_sub(was);
        }
    }

    /// Names and times.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.0.iter().map(|(name, time)| (name.as_str(), *time))
    }
}

fn parse(status: &str, stat: &str, ticks_per_second: u64) -> Option<ProcessStats> {
    let field = |name: &str| {
        let rest = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    // The second field is the program's name in parentheses and may hold anything, a space or a
    // parenthesis too; the third field follows the last one.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(ProcessStats {
        rss_kib: field("VmRSS")?,
        rss_peak_kib: field("VmHWM")?,
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1)),
        threads: field("Threads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t7\n";
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 7 0";
        let stats = parse(status, stat, 100).expect("well-formed");
        assert_eq!(stats.rss_kib, 1024);
        assert_eq!(stats.rss_peak_kib, 2048);
        assert_eq!(stats.cpu, Duration::from_secs(2));
        assert_eq!(stats.threads, 7);
        assert_eq!(parse("", stat, 100), None);
    }

    #[test]
    fn threads_that_differ_in_their_number_are_one() {
        let mut times = ThreadTimes::default();
        for (name, stat) in [
            ("verify-0\n", "2000 1 1\n"),
            ("verify-1\n", "1000 1 1"),
            ("core\n", "5 0 0"),
        ] {
            times.count(name, stat);
        }
        let mut spent = ThreadTimes::default();
        let mut before = ThreadTimes::default();
        before.count("verify", "500 0 0");
        spent.add_since(&times, &before);
        let spent: Vec<_> = spent
            .iter()
            .map(|(name, time)| (name, time.as_nanos()))
            .collect();
        assert_eq!(spent, [("core", 5), ("verify", 2500)]);
    }

    #[test]
    fn this_process_has_memory_and_a_thread() {
        let stats = ProcessStats::own().expect("/proc is mounted");
        assert!(stats.rss_kib > 0 && stats.rss_peak_kib >= stats.rss_kib && stats.threads >= 1);
        assert_eq!(ProcessStats::of(u32::MAX), None);
    }
}
