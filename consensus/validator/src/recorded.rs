//! What a crash leaves of a data directory: the steps are written down as they are carried out on
//! real files, and any first part of them can be turned into a disk after a loss of power.
//!
//! The rules are those that POSIX gives: what a file holds is durable once it was synced, names in a
//! directory once that was synced, and a new directory with the sync of the one above it. Of the
//! rest, each step by itself may have reached the disk or not; of a write some first part, or as many
//! zeros.

mod disk;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use falconet_crypto::hash;
use falconet_store::{Disk as LogDisk, SnapshotFiles, SystemDisk, SystemFiles};
use falconet_types::Digest;
use parking_lot::Mutex;

use disk::{Chance, Disk, Inode, Step};

/// What is there after a crash of that which was not durable.
#[derive(Debug)]
pub(crate) enum Left {
    Nothing,
    Everything,
    /// By chance.
    Random(u64),
}

/// What a disk does that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// One step finds no room, or an error of the device.
    Once(io::ErrorKind),
    /// From a step on there is no room: only what needs none succeeds.
    Full,
}

#[derive(Debug, Default)]
struct Book {
    /// What was there before, all of it durable.
    before: Disk,
    steps: Vec<Step>,
    names: BTreeMap<PathBuf, Inode>,
    len: BTreeMap<Inode, u64>,
    inodes: usize,
    /// The step after so many more fails.
    fails_after: Option<(usize, Failure)>,
}

impl Book {
    fn inode(&self, path: &Path) -> Inode {
        let inode = self.names.get(path);
        *inode.unwrap_or_else(|| panic!("{} was made before", path.display()))
    }
}

/// Carries steps out and writes them down.
#[derive(Debug)]
pub(crate) struct Steps {
    root: PathBuf,
    book: Mutex<Book>,
}

impl Steps {
    /// Steps below a directory, whatever is in which is durable.
    pub(crate) fn recording(root: &Path) -> Arc<Self> {
        let mut book = Book::default();
        for path in all_below(root) {
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                book.before.add_dir(name);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            book.inodes += 1;
            book.names.insert(name.clone(), book.inodes);
            book.len.insert(book.inodes, bytes.len() as u64);
            book.before.add_file(name, book.inodes, bytes);
        }
        Arc::new(Self {
            root: root.to_owned(),
            book: Mutex::new(book),
        })
    }

    /// Steps so far.
    pub(crate) fn count(&self) -> usize {
        self.book.lock().steps.len()
    }

    /// The step after so many more fails.
    pub(crate) fn fail_after(&self, more: usize, failure: Failure) {
        self.book.lock().fails_after = Some((more, failure));
    }

    /// No step fails any more; true if none did.
    pub(crate) fn heal(&self) -> bool {
        self.book
            .lock()
            .fails_after
            .take()
            .is_some_and(|(more, _)| more > 0)
    }

    fn step(
        &self,
        needs_room: bool,
        what: impl FnOnce(&mut Book) -> Step,
        carry_out: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut book = self.book.lock();
        match &mut book.fails_after {
            None => {}
            Some((0, Failure::Full)) if needs_room => return Err(io::ErrorKind::StorageFull.into()),
            Some((0, Failure::Full)) => {}
            Some((0, Failure::Once(kind))) => {
                let kind = *kind;
                book.fails_after = None;
                return Err(kind.into());
            }
            Some((more, _)) => *more -= 1,
        }
        carry_out()?;
        let step = what(&mut book);
        book.steps.push(step);
        Ok(())
    }

    /// Makes the disk that a crash after the first `count` steps leaves, below `root`. Returns a
    /// digest of it.
    pub(crate) fn crash(&self, count: usize, left: &Left, root: &Path) -> Digest {
        let book = self.book.lock();
        let mut disk = book.before.clone();
        for step in &book.steps[..count] {
            disk.step(step);
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let (dirs, files) = disk.crash(&mut Chance::of(left));
        for dir in dirs {
            std::fs::create_dir_all(root.join(&dir)).unwrap();
        }
        for (name, bytes) in files {
            std::fs::write(root.join(&name), &bytes).unwrap();
            parts.push(name.into_os_string().into_encoded_bytes());
            parts.push(hash::hash("test/file", &[&bytes]).0.to_vec());
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        hash::hash("test/disk", &parts)
    }

    fn name_of(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root)
            .expect("below the root")
            .to_owned()
    }
}

/// A directory for a test, in memory where the system has a place for that: what a crash leaves is
/// computed, so nothing need be durable, and databases sync often.
pub(crate) fn temporary() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Everything below a directory, directories before what is in them.
fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        all.push(path.clone());
        if path.is_dir() {
            all.extend(all_below(&path));
        }
    }
    all
}

impl SnapshotFiles for Steps {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let name = self.name_of(dir);
        self.step(
            true,
            |_| Step::CreateDir(name),
            || SystemFiles.create_dir(dir),
        )
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut file = None;
        let name = self.name_of(path);
        let made = |book: &mut Book| {
            if let Some(inode) = book.names.get(&name).copied() {
                book.len.insert(inode, 0);
                return Step::SetLen(inode, 0);
            }
            book.inodes += 1;
            let inode = book.inodes;
            book.names.insert(name.clone(), inode);
            book.len.insert(inode, 0);
            Step::Create(name, inode)
        };
        self.step(true, made, || {
            file = Some(SystemFiles.create(path)?);
            Ok(())
        })?;
        Ok(file.unwrap())
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        SystemFiles.open(path)
    }
    fn append(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let name = self.name_of(path);
        let step = |book: &mut Book| {
            let inode = book.inode(&name);
            let len = book.len.get_mut(&inode).unwrap();
            let at = *len;
            *len += bytes.len() as u64;
            Step::Write(inode, at, bytes.to_vec())
        };
        self.step(true, step, || SystemFiles.append(path, file, bytes))
    }
    fn write_at(&self, path: &Path, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let name = self.name_of(path);
        let step = |book: &mut Book| {
            let inode = book.inode(&name);
            let len = book.len.get_mut(&inode).unwrap();
            *len = (*len).max(offset + bytes.len() as u64);
            Step::Write(inode, offset, bytes.to_vec())
        };
        self.step(true, step, || {
            SystemFiles.write_at(path, file, bytes, offset)
        })
    }
    fn set_len(&self, path: &Path, file: &File, len: u64) -> io::Result<()> {
        let name = self.name_of(path);
        let step = |book: &mut Book| {
            let inode = book.inode(&name);
            book.len.insert(inode, len);
            Step::SetLen(inode, len)
        };
        self.step(true, step, || SystemFiles.set_len(path, file, len))
    }
    fn sync(&self, path: &Path, _: &File) -> io::Result<()> {
        let name = self.name_of(path);
        let step = |book: &mut Book| Step::Sync(book.inode(&name));
        // What a crash leaves is computed: nothing need be synced.
        self.step(false, step, || Ok(()))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (self.name_of(from), self.name_of(to));
        let renamed = |book: &mut Book| {
            let inode = book.names.remove(&old).unwrap();
            book.names.insert(new.clone(), inode);
            Step::Rename(old, new)
        };
        self.step(false, renamed, || SystemFiles.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = self.name_of(path);
        let removed = |book: &mut Book| {
            book.names.remove(&name);
            Step::Remove(name)
        };
        self.step(false, removed, || SystemFiles.remove(path))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let name = self.name_of(dir);
        self.step(false, |_| Step::SyncDir(name), || Ok(()))
    }
}

/// The log's files, written down beside the others.
pub(crate) struct LogSteps(pub(crate) Arc<Steps>);

impl LogSteps {
    /// The name of an open file of the log, below the root.
    fn name_of(&self, file: &File) -> PathBuf {
        let wanted = file.metadata().unwrap().ino();
        let all = all_below(&self.0.root.join("log"));
        let is = |path: &PathBuf| path.metadata().unwrap().ino() == wanted;
        let path = all.into_iter().find(is).expect("a file of the log");
        self.0.name_of(&path)
    }
}

impl LogDisk for LogSteps {
    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let name = self.name_of(file);
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let mut written = 0;
        let step = |book: &mut Book| Step::Write(book.inode(&name), offset, bytes);
        self.0.step(true, step, || {
            written = SystemDisk.write_at(file, bufs, offset)?;
            Ok(())
        })?;
        Ok(written)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        let name = self.name_of(file);
        let step = |book: &mut Book| Step::Sync(book.inode(&name));
        self.0.step(false, step, || Ok(()))
    }
}
