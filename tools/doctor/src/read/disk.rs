//! The disk of the data directory: kind, room, and the time of a sync.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::machine::{Disk, Fact, Fsync};

/// Syncs that are timed. A sync of a spinning disk takes about 10 ms, so the start is not delayed
/// noticeably.
const SYNCS: usize = 9;
/// Bytes written before each, about a safety record with its vote.
const RECORD_BYTES: usize = 4096;
/// Time after which no further sync is begun, for a disk that hangs.
const BUDGET: Duration = Duration::from_secs(2);

/// Filesystems by `statfs` type: magic, name, whether they outlive the power.
const FILESYSTEMS: [(u64, &str, bool); 14] = [
    (0xef53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683e, "btrfs", true),
    (0x2fc1_2fc1, "zfs", true),
    (0xf2f5_2010, "f2fs", true),
    (0xca45_1a4e, "bcachefs", true),
    (0x794c_7630, "overlay", true),
    (0x6573_5546, "fuse", true),
    (0x6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x0102_1997, "9p", true),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
];

pub(super) fn read(data_dir: &Path) -> Fact<Disk> {
    let path = nearest(data_dir)?;
    let stat = rustix::fs::statfs(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let magic = stat.f_type as u64 & 0xffff_ffff;
    let known = FILESYSTEMS.iter().find(|(known, ..)| *known == magic);
    Ok(Disk {
        filesystem: known.map_or_else(|| format!("type {magic:#x}"), |(_, name, _)| (*name).into()),
        is_durable: known.is_none_or(|(.., durable)| *durable),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_bsize as u64),
        fsync: fsync(&path),
        path,
    })
}

/// The directory itself, or the nearest above it that exists.
fn nearest(dir: &Path) -> Fact<PathBuf> {
    let dir = std::path::absolute(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    dir.ancestors()
        .find(|dir| dir.is_dir())
        .map(Path::to_owned)
        .ok_or_else(|| format!("nothing above {} exists", dir.display()))
}

fn fsync(dir: &Path) -> Fact<Fsync> {
    let path = dir.join(format!(".falconet-doctor-{}", std::process::id()));
    let fail = |error: std::io::Error| format!("writing {}: {error}", path.display());
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .map_err(fail)?;
    // Without a name nothing stays behind, however this ends.
    fs::remove_file(&path).map_err(fail)?;
    let mut times = Vec::with_capacity(SYNCS);
    let began = Instant::now();
    while times.len() < SYNCS && (times.is_empty() || began.elapsed() < BUDGET) {
        file.write_all(&[0x5a; RECORD_BYTES]).map_err(fail)?;
        let from = Instant::now();
        file.sync_data().map_err(fail)?;
        times.push(from.elapsed());
    }
    times.sort_unstable();
    Ok(Fsync {
        median: times[times.len() / 2],
        max: times[times.len() - 1],
    })
}
