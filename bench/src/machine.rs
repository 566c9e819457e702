//! On what a figure was taken: CPU, kernel, commit, build.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The machine and the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// "model name" of the first CPU.
    pub cpu_model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Commit that was built, `unknown` outside a git checkout.
    pub commit: String,
    /// `release` or `debug`.
    pub profile: String,
}

impl Machine {
    /// Looks at the machine that this runs on.
    #[must_use]
    pub fn detect() -> Self {
        Self {
            cpu_model: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
            commit: env!("FALCONET_COMMIT").to_owned(),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        }
    }

    /// Whether figures from this build say anything about a release.
    #[must_use]
    pub fn is_debug_build(&self) -> bool {
        self.profile == "debug"
    }
}

/// Where caches live: `$FALCONET_CACHE`, else `$XDG_CACHE_HOME/falconet`, else
/// `~/.cache/falconet`, else a directory in the temporary directory.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    var("FALCONET_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("falconet")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/falconet")))
        .unwrap_or_else(|| std::env::temp_dir().join("falconet-cache"))
}

fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, model)| model.trim().to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_names_the_model() {
        let text =
            "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nprocessor : 1\nmodel name : Other\n";
        assert_eq!(cpu_model(text), "Some CPU @ 2.0GHz");
        assert_eq!(cpu_model(""), std::env::consts::ARCH);
    }
}
