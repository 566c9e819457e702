//! Privileges: needed to set up, dropped before anybody outside is listened to.
//!
//! Capabilities belong to *threads* (capabilities(7)): a thread gives its own to those that it
//! starts, and nobody can take them from another. So there are two kinds of threads here. The
//! network threads need privileges for sockets and rings and drop them themselves, by the hook
//! that the endpoint calls after set-up. The main thread drops them as soon as the endpoint is
//! bound, before it starts any other thread. [`verify`] then looks at every thread of the process,
//! so that a thread which somebody adds earlier one day is found out.
//!
//! A running validator needs none: sockets, rings and BPF maps are descriptors by then. The one
//! exception is made by hand: root whose data directory belongs to somebody else keeps the right
//! to write there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Capabilities that let a process pass by the owners and modes of files.
const FILE_RIGHTS: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER);
/// The one of them that writing to files of others takes.
const OTHERS_FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE;
/// Entries of the data directory that are tried; a directory belongs to one user as a rule, so the
/// first ones tell.
const ENTRIES_MAX: usize = 4096;

/// Why privileges could not be dropped.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The system refused.
    #[error("cannot {action}: {source}; start the validator without privileges instead")]
    System {
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread still has some.
    #[error(
        "thread {thread} still holds capabilities ({left:#x}) after they were dropped; this is a \
         fault of the program: start it without privileges, and report it"
    )]
    Left {
        /// The thread's name.
        thread: String,
        /// Its effective and permitted capabilities beyond those kept, as bits.
        left: u64,
    },
}

fn failed(action: &'static str) -> impl Fn(rustix::io::Errno) -> PrivilegeError {
    move |errno| PrivilegeError::System {
        action,
        source: errno.into(),
    }
}

/// The capabilities that a validator with this data directory must keep: none, or the right to
/// write files of others, when the directory cannot be used otherwise. To be called before the
/// store is open: it opens and closes every file.
pub(crate) fn needed(data: &Path) -> Result<CapabilitySet, PrivilegeError> {
    let own = capabilities(None).map_err(failed("read capabilities"))?;
    if !own.effective.contains(OTHERS_FILES) {
        return Ok(CapabilitySet::empty());
    }
    let lowered = CapabilitySets {
        effective: own.effective.difference(FILE_RIGHTS),
        ..own
    };
    set_capabilities(None, lowered).map_err(failed("lower capabilities"))?;
    let usable = is_usable(data);
    set_capabilities(None, own).map_err(failed("restore capabilities"))?;
    Ok(match usable {
        true => CapabilitySet::empty(),
        false => OTHERS_FILES,
    })
}

/// Drops everything but `keep` in the calling thread, for good: threads and programs that it
/// starts cannot get anything back either.
pub(crate) fn drop_all_but(keep: CapabilitySet) -> Result<(), PrivilegeError> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // The kernel knows no capability beyond the first that it refuses to look up.
        if !capability_is_in_bounding_set(one).unwrap_or(false) || keep.contains(one) {
            continue;
        }
        // Refused to those without CAP_SETPCAP; `no_new_privs` below closes the same door.
        if remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    // Ambient capabilities came with Linux 4.3, before everything else that is needed here.
    clear_ambient_capability_set().map_err(failed("clear ambient capabilities"))?;
    let own = capabilities(None).map_err(failed("read capabilities"))?;
    let left = CapabilitySets {
        effective: own.effective.intersection(keep),
        permitted: own.permitted.intersection(keep),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, left).map_err(failed("drop capabilities"))?;
    set_no_new_privs(true).map_err(failed("set no_new_privs"))
}

/// Looks at every thread of this process: none may hold more than `keep`.
pub(crate) fn verify(keep: CapabilitySet) -> Result<(), PrivilegeError> {
    let tasks = match fs::read_dir("/proc/self/task") {
        Ok(tasks) => tasks,
        Err(error) => {
            tracing::warn!(%error, "/proc cannot be read: dropped capabilities are not verified");
            return Ok(());
        }
    };
    for task in tasks.flatten() {
        // A thread that ended meanwhile holds nothing.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let left = held(&status) & !keep.bits();
        if left != 0 {
            let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
            return Err(PrivilegeError::Left {
                thread: name.unwrap_or("?").trim().to_owned(),
                left,
            });
        }
    }
    Ok(())
}

/// Effective and permitted capabilities in `/proc/PID/task/TID/status`.
fn held(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("CapEff:")
                .or_else(|| line.strip_prefix("CapPrm:"))
        })
        .map(|bits| u64::from_str_radix(bits.trim(), 16).unwrap_or(u64::MAX))
        .fold(0, |all, bits| all | bits)
}

/// Whether the data directory can be read and written with the rights of the moment. Of one that
/// is not there yet, whether it can be made.
fn is_usable(data: &Path) -> bool {
    // The parent of a bare name is the empty path, which is no directory.
    let Ok(data) = std::path::absolute(data) else {
        return false;
    };
    let Some(dir) = data.ancestors().find(|dir| dir.is_dir()) else {
        return false;
    };
    if dir != data {
        return can_create_in(dir);
    }
    let mut pending = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        if !can_create_in(&dir) {
            return false;
        }
        let Ok(entries) = fs::read_dir(&dir) else {
            return false;
        };
        for entry in entries.flatten().take(ENTRIES_MAX - seen) {
            seen += 1;
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .is_err()
            {
                return false;
            }
        }
    }
    true
}

fn can_create_in(dir: &Path) -> bool {
    let path = dir.join(format!(".falconet-rights-{}", std::process::id()));
    File::create_new(&path).is_ok() && fs::remove_file(&path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sets_of_a_thread_count() {
        let status =
            "Name:\tx\nCapInh:\tff\nCapPrm:\t0000000000000003\nCapEff:\t0000000000001000\n";
        assert_eq!(held(status), 0x1003);
        assert_eq!(held("CapEff:\tnonsense\n"), u64::MAX);
        assert_eq!(held("Name:\tx\n"), 0);
    }

    #[test]
    fn a_thread_that_drops_keeps_nothing_and_its_children_neither() {
        // A thread of its own: the test runner's others keep what they have.
        let (own, child) = std::thread::spawn(|| {
            drop_all_but(CapabilitySet::empty()).unwrap();
            let child = std::thread::spawn(|| capabilities(None).unwrap());
            (capabilities(None).unwrap(), child.join().unwrap())
        })
        .join()
        .unwrap();
        for sets in [own, child] {
            assert_eq!(sets.effective, CapabilitySet::empty());
            assert_eq!(sets.permitted, CapabilitySet::empty());
            assert_eq!(sets.inheritable, CapabilitySet::empty());
        }
    }

    #[test]
    fn an_own_directory_needs_no_rights_and_looking_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        assert_eq!(needed(&data).unwrap(), CapabilitySet::empty());
        fs::create_dir_all(data.join("log")).unwrap();
        fs::write(data.join("log/0"), "x").unwrap();
        assert_eq!(needed(&data).unwrap(), CapabilitySet::empty());
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[test]
    fn somebody_elses_directory_keeps_the_right_to_write_there() {
        if !capabilities(None)
            .unwrap()
            .effective
            .contains(FILE_RIGHTS.union(CapabilitySet::CHOWN))
        {
            eprintln!("skipped: giving a directory to another user needs root");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("0"), "x").unwrap();
        // Nobody, by convention.
        std::os::unix::fs::chown(data.join("0"), Some(65_534), None).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(data.join("0"), mode).unwrap();
        assert_eq!(needed(&data).unwrap(), OTHERS_FILES);
    }
}
