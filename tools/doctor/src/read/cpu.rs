//! Processors and memory.

use std::path::PathBuf;

use super::files::{Files, field};
use crate::machine::{Cpu, Fact, Governor, Memory, Simd};

pub(super) fn read(files: &Files) -> Cpu {
    Cpu {
        usable: std::thread::available_parallelism().map_or(1, usize::from),
        simd: simd(),
        governors: governors(files),
        numa_nodes: numa_nodes(files),
    }
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Simd {
    // The sets that the kernels of falconet-crypto are compiled for.
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2");
    match (avx2, avx512) {
        (true, true) => Simd::Avx512,
        (true, false) => Simd::Avx2,
        (false, _) => Simd::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn simd() -> Simd {
    Simd::OtherArchitecture
}

fn governors(files: &Files) -> Fact<Vec<Governor>> {
    const DIR: &str = "/sys/devices/system/cpu/cpufreq";
    let policies = files.names(DIR);
    let governors: Fact<Vec<Governor>> = policies
        .iter()
        .filter(|name| name.starts_with("policy"))
        .map(|policy| {
            let file = PathBuf::from(format!("{DIR}/{policy}/scaling_governor"));
            let cpus = files.text(format!("{DIR}/{policy}/affected_cpus"))?;
            Ok(Governor {
                name: files.text(&file)?,
                cpus: cpus.split_whitespace().count(),
                file,
            })
        })
        .collect();
    match governors {
        Ok(governors) if governors.is_empty() => Err(
            "the kernel does not set the frequency here (usual in virtual machines); look at the \
             host"
                .into(),
        ),
        other => other,
    }
}

fn numa_nodes(files: &Files) -> Fact<usize> {
    let nodes = files.names("/sys/devices/system/node");
    let is_node = |name: &&String| {
        name.strip_prefix("node")
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    match nodes.iter().filter(is_node).count() {
        0 => Err("/sys/devices/system/node is not there".into()),
        count => Ok(count),
    }
}

pub(super) fn memory(files: &Files) -> Memory {
    let meminfo = files.text("/proc/meminfo");
    let value = |name: &str| -> Fact<u64> {
        let text = meminfo.as_ref().map_err(String::clone)?;
        let number = field(text, name).and_then(|value| value.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("/proc/meminfo says no {name}"))
    };
    let transparent = files.text("/sys/kernel/mm/transparent_hugepage/enabled");
    Memory {
        available_bytes: value("MemAvailable").map(|kib| kib * 1024),
        huge_pages: value("HugePages_Total"),
        huge_page_bytes: value("Hugepagesize").map(|kib| kib * 1024),
        transparent: transparent.and_then(|text| {
            let chosen = text.split(['[', ']']).nth(1);
            chosen
                .map(str::to_owned)
                .ok_or_else(|| format!("transparent_hugepage/enabled holds {text:?}"))
        }),
    }
}
