//! Our directory of the BPF filesystem: `/sys/fs/bpf/falconet/<device>/`, one file a table and one
//! for the link. Nothing outside it is ever touched, and of it only the files that we know.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::tables::TABLES;
use crate::{FilterError, device, sys};

/// Where the BPF filesystem is mounted by convention.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Our directory there.
pub const PIN_ROOT: &str = "/sys/fs/bpf/falconet";

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// File of the link.
pub(crate) const LINK: &str = "link";

/// Whether a path, or the nearest directory above it that exists, is on a BPF filesystem.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|path| path.exists())
        .and_then(|path| statfs(path).ok())
        .is_some_and(|stat| stat.f_type == BPF_FS_MAGIC)
}

/// Mounts a BPF filesystem on an existing directory that has none.
pub fn mount_bpffs(path: &Path) -> Result<(), FilterError> {
    let pin = |source| FilterError::Pin {
        path: path.to_owned(),
        source,
    };
    if is_bpffs(path) {
        return Ok(());
    }
    let target = CString::new(path.as_os_str().as_bytes()).map_err(|e| pin(e.into()))?;
    sys::mount_bpf(&target).map_err(pin)
}

/// Gives the calling thread a mount namespace of its own, in which an empty BPF filesystem is at
/// [`BPFFS`]: what it and its children pin there nobody else sees, and it is gone when they are.
/// Threads that it starts afterwards share it.
pub fn private_bpffs() -> Result<(), FilterError> {
    let pin = |source| FilterError::Pin {
        path: BPFFS.into(),
        source,
    };
    // SAFETY: the danger of unshare is CLONE_FILES, which makes threads see different descriptors;
    // only the mount namespace is asked for.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|errno| pin(errno.into()))?;
    sys::make_mounts_private().map_err(pin)?;
    sys::mount_bpf(&CString::new(BPFFS).expect("no NUL inside")).map_err(pin)
}

/// The pins of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pins {
    root: PathBuf,
    dir: PathBuf,
}

impl Pins {
    pub(crate) fn new(root: &Path, device: &str) -> Result<Self, FilterError> {
        device::check_name(device)?;
        Ok(Self {
            root: root.to_owned(),
            dir: root.join(device),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether anything is pinned for the device.
    pub(crate) fn exist(&self) -> bool {
        self.dir.exists()
    }

    /// Makes the directories; the BPF filesystem itself must be there.
    pub(crate) fn create(&self) -> Result<(), FilterError> {
        self.need_bpffs()?;
        for dir in [&self.root, &self.dir] {
            match std::fs::DirBuilder::new().mode(0o700).create(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(pin_error(dir, source)),
            }
        }
        Ok(())
    }

    /// Removes the pins that are ours, and the directories when nothing else is in them.
    pub(crate) fn remove(&self) -> Result<(), FilterError> {
        // The link first: without it the program is detached, so that nothing half removed filters.
        for name in std::iter::once(LINK).chain(TABLES) {
            let file = self.file(name);
            match std::fs::remove_file(&file) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(pin_error(&file, source)),
            }
        }
        match std::fs::remove_dir(&self.dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(pin_error(&self.dir, source)),
        }
        // Other devices' filters may be in it.
        let _ = std::fs::remove_dir(&self.root);
        Ok(())
    }

    /// Keeps others of us from changing the pins until the result is dropped; `None` when our
    /// directory does not exist, for then there is nothing to change.
    pub(crate) fn lock(&self) -> Result<Option<OwnedFd>, FilterError> {
        lock(&self.root, FlockOperation::LockExclusive)
    }

    /// Makes this process the only reader of the samples.
    pub(crate) fn lock_samples(&self) -> Result<Option<OwnedFd>, FilterError> {
        match lock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
            Err(FilterError::Pin { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Err(FilterError::Watched)
            }
            other => other,
        }
    }

    fn need_bpffs(&self) -> Result<(), FilterError> {
        if is_bpffs(&self.root) {
            return Ok(());
        }
        Err(FilterError::NoBpffs {
            path: self.root.clone(),
        })
    }
}

/// The devices that have pins under `root`.
pub(crate) fn devices(root: &Path) -> Result<Vec<String>, FilterError> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(FilterError::Rights {
                action: "looking at attached filters",
            });
        }
        Err(source) => return Err(pin_error(root, source)),
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn lock(dir: &Path, how: FlockOperation) -> Result<Option<OwnedFd>, FilterError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match open(dir, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(pin_error(dir, error.into())),
    };
    flock(&fd, how).map_err(|error| pin_error(dir, error.into()))?;
    Ok(Some(fd))
}

fn pin_error(path: &Path, source: io::Error) -> FilterError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => FilterError::Rights {
            action: "changing pinned tables",
        },
        _ => FilterError::Pin {
            path: path.to_owned(),
            source,
        },
    }
}
