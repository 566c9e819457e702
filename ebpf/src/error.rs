//! What can go wrong, each with its remedy.

use std::io;
use std::path::PathBuf;

use crate::attach::Mode;

/// Why a filter cannot be attached, opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A setting makes no sense.
    #[error("filter settings: {0}")]
    Config(&'static str),
    /// The device does not exist or cannot be asked.
    #[error("network device {device:?}: {source}; list the devices with: ip link")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The device has no Ethernet frames.
    #[error(
        "network device {device:?} carries no Ethernet frames; attach the filter to the device \
         below it"
    )]
    NoEthernet {
        /// Its name.
        device: String,
    },
    /// Missing rights.
    #[error(
        "{action} needs CAP_BPF and CAP_NET_ADMIN (and CAP_PERFMON to load); run as root, or give \
         the program these capabilities"
    )]
    Rights {
        /// What was tried.
        action: &'static str,
    },
    /// No BPF filesystem.
    #[error("{path} is not on a BPF filesystem; run: mount -t bpf bpf /sys/fs/bpf")]
    NoBpffs {
        /// Where the tables were to be pinned.
        path: PathBuf,
    },
    /// A filter of ours is there already.
    #[error(
        "a filter is already attached to {device:?} ({path}); run: falconet xdp detach {device}"
    )]
    AlreadyAttached {
        /// The device.
        device: String,
        /// Its pins.
        path: PathBuf,
    },
    /// There is no filter of ours.
    #[error("no filter is attached to {device:?} ({path}); run: falconet xdp attach {device}")]
    NotAttached {
        /// The device.
        device: String,
        /// Where its pins would be.
        path: PathBuf,
    },
    /// A pinned filter of another version of this program.
    #[error(
        "the filter on {device:?} was attached by another version of falconet; run: falconet xdp \
         detach {device}, then attach it again"
    )]
    OtherVersion {
        /// The device.
        device: String,
    },
    /// No mode worked.
    #[error("the filter cannot be attached to {device:?}: {}", reasons(.tried))]
    Attach {
        /// The device.
        device: String,
        /// Every mode that was tried, and why it failed.
        tried: Vec<(Mode, String)>,
    },
    /// The kernel refuses the programs.
    #[error("the kernel refuses the filter: {0}; Linux 6.6 or newer with BTF is needed")]
    Load(String),
    /// A table cannot be read or written.
    #[error("filter table {table}: {reason}")]
    Table {
        /// Its name.
        table: &'static str,
        /// Why.
        reason: String,
    },
    /// A table is full.
    #[error("the {table} list holds {max} entries already; remove some")]
    Full {
        /// Which one.
        table: &'static str,
        /// Its limit.
        max: usize,
    },
    /// A file or directory of the BPF filesystem cannot be changed.
    #[error("{path}: {source}; the directory belongs to falconet, see who else uses it: ls -la")]
    Pin {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not send generated frames.
    #[error("sending generated frames failed: {0}; Linux 5.18 or newer is needed")]
    Generate(String),
    /// Somebody else reads the samples.
    #[error("another process reads the dropped packets of this filter; stop it first")]
    Watched,
}

fn reasons(tried: &[(Mode, String)]) -> String {
    tried
        .iter()
        .map(|(mode, why)| format!("{mode}: {why}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The innermost words of an error of the loader, with the remedy for the common ones.
pub(crate) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// The system's error code at the root of an error, if it has one.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// True when the error is that of missing rights.
pub(crate) fn is_rights(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(os_error(error), Some(libc::EPERM | libc::EACCES))
}
