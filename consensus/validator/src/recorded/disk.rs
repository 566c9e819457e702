//! The durable part of a disk, and what may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Left;

/// A file, whatever it is called.
pub(super) type Inode = usize;

/// What was done. Names are relative to the root.
#[derive(Debug, Clone)]
pub(super) enum Step {
    CreateDir(PathBuf),
    SyncDir(PathBuf),
    Create(PathBuf, Inode),
    Write(Inode, u64, Vec<u8>),
    SetLen(Inode, u64),
    Sync(Inode),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// A name in a directory that changes.
#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, Inode),
    Move(PathBuf, PathBuf, Inode),
    Remove(PathBuf),
}

impl Change {
    fn dir(&self) -> &Path {
        let (Self::Add(name, _) | Self::Move(name, _, _) | Self::Remove(name)) = self;
        name.parent().expect("a file is in a directory")
    }
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Edit {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Clone, Default)]
struct Content {
    durable: Vec<u8>,
    edits: Vec<Edit>,
}

fn write(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let at = usize::try_from(offset).unwrap();
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}

impl Content {
    fn sync(&mut self) {
        for edit in std::mem::take(&mut self.edits) {
            match edit {
                Edit::Write(offset, new) => write(&mut self.durable, offset, &new),
                Edit::SetLen(len) => self.durable.resize(usize::try_from(len).unwrap(), 0),
            }
        }
    }

    /// What is left of it.
    fn crash(&self, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for edit in &self.edits {
            if !chance.says() {
                continue;
            }
            match edit {
                Edit::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
                Edit::Write(offset, new) => {
                    let whole = chance.between(0, new.len());
                    write(&mut bytes, *offset, &new[..whole]);
                    // The length was written, the data was not.
                    if let Chance::Random(_) = chance
                        && chance.says()
                    {
                        let end = usize::try_from(*offset).unwrap() + new.len();
                        bytes.resize(bytes.len().max(end), 0);
                    }
                }
            }
        }
        bytes
    }
}

/// Names and bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    dirs: BTreeSet<PathBuf>,
    dirs_durable: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, Inode>,
    names_durable: BTreeMap<PathBuf, Inode>,
    changes: Vec<Change>,
    content: BTreeMap<Inode, Content>,
}

impl Disk {
    pub(super) fn add_dir(&mut self, name: PathBuf) {
        self.dirs.insert(name.clone());
        self.dirs_durable.insert(name);
    }

    pub(super) fn add_file(&mut self, name: PathBuf, inode: Inode, bytes: Vec<u8>) {
        self.names.insert(name.clone(), inode);
        self.names_durable.insert(name, inode);
        let content = Content {
            durable: bytes,
            edits: Vec::new(),
        };
        self.content.insert(inode, content);
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::CreateDir(dir) => {
                self.dirs.insert(dir.clone());
            }
            Step::SyncDir(dir) => {
                let is_in = |name: &Path| name.parent() == Some(dir);
                let new = self.dirs.iter().filter(|name| is_in(name)).cloned();
                self.dirs_durable.extend(new);
                self.names_durable.retain(|name, _| !is_in(name));
                let now = self.names.iter().filter(|(name, _)| is_in(name));
                let now = now.map(|(name, inode)| (name.clone(), *inode));
                self.names_durable.extend(now);
                self.changes.retain(|change| change.dir() != dir);
            }
            Step::Create(name, inode) => {
                self.names.insert(name.clone(), *inode);
                self.content.insert(*inode, Content::default());
                self.changes.push(Change::Add(name.clone(), *inode));
            }
            Step::Write(inode, offset, bytes) => {
                let content = self.content.get_mut(inode).unwrap();
                content.edits.push(Edit::Write(*offset, bytes.clone()));
            }
            Step::SetLen(inode, len) => {
                let content = self.content.get_mut(inode).unwrap();
                content.edits.push(Edit::SetLen(*len));
            }
            Step::Sync(inode) => self.content.get_mut(inode).unwrap().sync(),
            Step::Rename(from, to) => {
                let inode = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), inode);
                let change = Change::Move(from.clone(), to.clone(), inode);
                self.changes.push(change);
            }
            Step::Remove(name) => {
                self.names.remove(name);
                self.changes.push(Change::Remove(name.clone()));
            }
        }
    }

    /// The directories and files that are left.
    pub(super) fn crash(
        mut self,
        chance: &mut Chance,
    ) -> (BTreeSet<PathBuf>, BTreeMap<PathBuf, Vec<u8>>) {
        let mut dirs = std::mem::take(&mut self.dirs_durable);
        for dir in &self.dirs {
            if !dirs.contains(dir) && chance.says() {
                dirs.insert(dir.clone());
            }
        }
        let mut names = std::mem::take(&mut self.names_durable);
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
        let root = Path::new("");
        names.retain(|name, _| {
            name.parent()
                .is_some_and(|dir| dir == root || dirs.contains(dir))
        });
        let left = |(name, inode)| (name, self.content[&inode].crash(chance));
        (dirs, names.into_iter().map(left).collect())
    }
}

/// Decides what reached the disk.
#[derive(Debug)]
pub(super) enum Chance {
    Never,
    Always,
    Random(u64),
}

impl Chance {
    pub(super) fn of(left: &Left) -> Self {
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
