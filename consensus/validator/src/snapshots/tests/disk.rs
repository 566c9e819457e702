//! What a crash leaves of a directory: the steps are written down as they are carried out on real
//! files, and any first part of them can be turned into a disk after a loss of power.
//!
//! The rules are those that POSIX gives: what a file holds is durable once it was synced, names in a
//! directory once that was synced, and a new directory with the sync of the one above it. Of the
//! rest, each step by itself may have reached the disk or not; of bytes that were appended some
//! first part, or as many zeros.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use falconet_crypto::hash;
use falconet_store::{SnapshotFiles, SystemFiles};
use falconet_types::Digest;
use parking_lot::Mutex;

/// What is there after a crash of that which was not durable.
#[derive(Debug)]
pub(super) enum Left {
    Nothing,
    Everything,
    /// By chance.
    Random(u64),
}

/// A file, whatever it is called.
type Inode = usize;

#[derive(Debug, Clone)]
enum Step {
    CreateDir,
    SyncParent,
    SyncDir,
    Create(String, Inode),
    Append(Inode, Vec<u8>),
    Sync(Inode),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct Book {
    steps: Vec<Step>,
    names: BTreeMap<String, Inode>,
    inodes: usize,
    /// The step after so many more fails.
    fails_after: Option<usize>,
}

/// Carries steps out and writes them down.
#[derive(Debug, Default)]
pub(super) struct Steps {
    book: Mutex<Book>,
}

impl Steps {
    pub(super) fn recording() -> Arc<Self> {
        Arc::default()
    }

    /// Steps so far.
    pub(super) fn count(&self) -> usize {
        self.book.lock().steps.len()
    }

    /// After so many more steps one finds the disk full.
    pub(super) fn fail_after(&self, more: usize) {
        self.book.lock().fails_after = Some(more);
    }

    fn step(
        &self,
        what: impl FnOnce(&mut Book) -> Step,
        carry_out: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut book = self.book.lock();
        if let Some(more) = book.fails_after {
            book.fails_after = more.checked_sub(1);
            if more == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        carry_out()?;
        let step = what(&mut book);
        book.steps.push(step);
        Ok(())
    }

    /// Makes the disk that a crash after the first `count` steps leaves, below `data`. Returns a
    /// digest of it.
    pub(super) fn crash(&self, count: usize, left: &Left, data: &Path) -> Digest {
        let mut chance = Chance::of(left);
        let book = self.book.lock();
        let mut disk = Disk::default();
        for step in &book.steps[..count] {
            disk.step(step);
        }
        let (files, has_dir) = disk.crash(&mut chance);
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if has_dir {
            let dir = data.join("snapshots");
            std::fs::create_dir_all(&dir).unwrap();
            for (name, bytes) in files {
                std::fs::write(dir.join(&name), &bytes).unwrap();
                parts.push(name.into_bytes());
                parts.push(hash::hash("test/file", &[&bytes]).0.to_vec());
            }
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        hash::hash("test/disk", &parts)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl SnapshotFiles for Steps {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(|_| Step::CreateDir, || SystemFiles.create_dir(dir))
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut file = None;
        let made = |book: &mut Book| {
            book.inodes += 1;
            book.names.insert(name_of(path), book.inodes);
            Step::Create(name_of(path), book.inodes)
        };
        self.step(made, || {
            file = Some(SystemFiles.create(path)?);
            Ok(())
        })?;
        Ok(file.unwrap())
    }
    fn append(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let step = |book: &mut Book| Step::Append(book.names[&name_of(path)], bytes.to_vec());
        self.step(step, || SystemFiles.append(path, file, bytes))
    }
    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        let step = |book: &mut Book| Step::Sync(book.names[&name_of(path)]);
        self.step(step, || SystemFiles.sync(path, file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = |book: &mut Book| {
            let inode = book.names.remove(&name_of(from)).unwrap();
            book.names.insert(name_of(to), inode);
            Step::Rename(name_of(from), name_of(to))
        };
        self.step(renamed, || SystemFiles.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = |book: &mut Book| {
            book.names.remove(&name_of(path));
            Step::Remove(name_of(path))
        };
        self.step(removed, || SystemFiles.remove(path))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let own = dir.ends_with("snapshots");
        let step = if own { Step::SyncDir } else { Step::SyncParent };
        self.step(|_| step, || SystemFiles.sync_dir(dir))
    }
}

/// A name in a directory that changes.
#[derive(Debug)]
enum Change {
    Add(String, Inode),
    Move(String, String, Inode),
    Remove(String),
}

/// The durable part of a directory, and what may be.
#[derive(Debug, Default)]
struct Disk {
    has_dir: bool,
    keeps_dir: bool,
    now: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    changes: Vec<Change>,
    /// What is in each file, and how much of it is durable.
    content: BTreeMap<Inode, (Vec<u8>, usize)>,
}

impl Disk {
    fn step(&mut self, step: &Step) {
        match step {
            Step::CreateDir => self.has_dir = true,
            Step::SyncParent => self.keeps_dir = self.has_dir,
            Step::SyncDir => {
                self.durable = self.now.clone();
                self.changes.clear();
            }
            Step::Create(name, inode) => {
                self.now.insert(name.clone(), *inode);
                self.content.insert(*inode, (Vec::new(), 0));
                self.changes.push(Change::Add(name.clone(), *inode));
            }
            Step::Append(inode, bytes) => {
                self.content.get_mut(inode).unwrap().0.extend(bytes);
            }
            Step::Sync(inode) => {
                let (bytes, durable) = self.content.get_mut(inode).unwrap();
                *durable = bytes.len();
            }
            Step::Rename(from, to) => {
                let inode = self.now.remove(from).unwrap();
                self.now.insert(to.clone(), inode);
                let change = Change::Move(from.clone(), to.clone(), inode);
                self.changes.push(change);
            }
            Step::Remove(name) => {
                self.now.remove(name);
                self.changes.push(Change::Remove(name.clone()));
            }
        }
    }

    /// The files that are left, and whether their directory is.
    fn crash(mut self, chance: &mut Chance) -> (BTreeMap<String, Vec<u8>>, bool) {
        if !self.has_dir || !(self.keeps_dir || chance.says()) {
            return (BTreeMap::new(), false);
        }
        let mut names = std::mem::take(&mut self.durable);
        for change in &self.changes {
            if !chance.says() {
                continue;
            }
            match change {
                Change::Add(name, inode) => {
                    names.insert(name.clone(), *inode);
                }
                Change::Move(from, to, inode) => {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
                Change::Remove(name) => {
                    names.remove(name);
                }
            }
        }
        let mut files = BTreeMap::new();
        for (name, inode) in names {
            let (mut bytes, durable) = self.content[&inode].clone();
            let whole = bytes.len();
            bytes.truncate(chance.between(durable, whole));
            if let Chance::Random(_) = chance
                && chance.says()
            {
                // The length was written, the data was not.
                bytes.resize(chance.between(bytes.len(), whole), 0);
            }
            files.insert(name, bytes);
        }
        (files, true)
    }
}

/// Decides what reached the disk.
#[derive(Debug)]
enum Chance {
    Never,
    Always,
    Random(u64),
}

impl Chance {
    fn of(left: &Left) -> Self {
        match left {
            Left::Nothing => Self::Never,
            Left::Everything => Self::Always,
            Left::Random(seed) => Self::Random(*seed),
        }
    }

    fn next(state: &mut u64) -> u64 {
        // SplitMix64 (Steele et al., 2014).
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn says(&mut self) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Random(state) => Self::next(state) & 1 == 1,
        }
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        match self {
            Self::Never => least,
            Self::Always => most,
            Self::Random(state) => least + (Self::next(state) % (most - least + 1) as u64) as usize,
        }
    }
}
