//! Rights and limits of this process.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::files::{Files, field};
use crate::machine::{Cgroup, Fact, Limit, Process};

/// Control groups are not nested deeper than this where a machine is sane.
const CGROUP_DEPTH_MAX: usize = 64;

pub(super) fn read(files: &Files) -> Process {
    let status = files.text("/proc/thread-self/status");
    let value = |name: &str, radix: u32| -> Fact<u64> {
        let status = status.as_ref().map_err(String::clone)?;
        let text = field(status, name).ok_or_else(|| format!("/proc says no {name}"))?;
        u64::from_str_radix(text, radix).map_err(|_| format!("{name} is {text:?}"))
    };
    Process {
        uid: rustix::process::geteuid().as_raw(),
        capabilities: value("CapEff", 16),
        seccomp: value("Seccomp", 10).map(|mode| mode as u32),
        memlock_bytes: limit(getrlimit(Resource::Memlock)),
        files: limit(getrlimit(Resource::Nofile)),
    }
}

fn limit(limit: Rlimit) -> Limit {
    Limit {
        soft: limit.current,
        hard: limit.maximum,
    }
}

/// The narrowest limits between this process and the root of the hierarchy.
pub(super) fn cgroup(files: &Files) -> Fact<Cgroup> {
    let membership = files.text("/proc/self/cgroup")?;
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("control groups of version 1, whose limits are not read")?;
    let mut cgroup = Cgroup::default();
    let mut path = std::path::Path::new(path);
    for _ in 0..CGROUP_DEPTH_MAX {
        let file = |name: &str| {
            let dir = std::path::Path::new("/sys/fs/cgroup");
            files.text(dir.join(path.strip_prefix("/").unwrap_or(path)).join(name))
        };
        let cpus = file("cpu.max").ok().and_then(|text| cpus_max(&text));
        cgroup.cpus_max = narrower(cgroup.cpus_max, cpus, f64::min);
        let memory = file("memory.max").ok().and_then(|text| text.parse().ok());
        cgroup.memory_max_bytes = narrower(cgroup.memory_max_bytes, memory, u64::min);
        match path.parent() {
            Some(parent) => path = parent,
            None => break,
        }
    }
    Ok(cgroup)
}

/// `max 100000` or `QUOTA PERIOD`, microseconds.
fn cpus_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

fn narrower<T: Copy>(a: Option<T>, b: Option<T>, min: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}
