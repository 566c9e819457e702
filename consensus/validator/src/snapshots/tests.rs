//! Taking, sealing and deleting snapshots, with the real code on real files: what a crash after any
//! step may leave on the disk, and steps that fail.

use std::collections::BTreeSet;

use falconet_store::{AccountRows, StateUpdate, Store, StoreConfig};
use falconet_types::{KeyPair, Scheme};

use super::*;
use crate::fixtures::alone;
use crate::recorded::{Failure, Left, Steps, temporary};
use falconet_sync::keeping::{SNAPSHOTS_KEPT, SNAPSHOTS_MAX};

/// Snapshots that are taken in a row: one more than are kept.
const TAKEN: u64 = SNAPSHOTS_KEPT as u64 + 1;
/// Random states that are looked at after each step, besides all and nothing of what is not durable.
const RANDOM_STATES: u64 = 3;

fn chain(dir: &Path) -> Arc<Chain> {
    let key = KeyPair::from_seed(Scheme::Falcon512, &[1; 32]);
    let genesis = alone(&key, (0..4u8).map(|n| (Digest([n * 60; 32]), 1_000)));
    let path = dir.join("genesis.json");
    std::fs::write(&path, serde_json::to_string(&genesis).unwrap()).unwrap();
    Arc::new(Chain::load(&path, &dir.join("data"), key.public()).unwrap())
}

/// States in a row, each with what a snapshot of it must be.
struct States {
    chain: Arc<Chain>,
    /// Image, head and rows of each height from 1 on.
    all: Vec<(StateImage, StateHead, Vec<u8>)>,
    _dir: tempfile::TempDir,
}

impl States {
    fn new() -> Self {
        let dir = temporary();
        let chain = chain(dir.path());
        let config = StoreConfig::new(chain.id, chain.key.id());
        let (mut store, _) = Store::open(&dir.path().join("data"), &config).unwrap();
        let images = store.state.take_images();
        let mut accounts: BTreeMap<AccountId, Account> = (chain.genesis.accounts.iter())
            .map(|account| (account.id, Account::of_genesis(account)))
            .collect();
        let all = (1..=TAKEN).map(|height| {
            // One of genesis, one that was written before, and a new one.
            let mut rows = AccountRows::default();
            for byte in [60, 100, 200 + height as u8] {
                let account = accounts.entry(Digest([byte; 32])).or_default();
                account.balance += height;
                rows.push(Digest([byte; 32]), |out| account.encode(out));
            }
            let (tree_root, expected) = tree_of(&accounts);
            let head = Head {
                tree_root,
                burned: height,
                registry: Bytes::new(),
            };
            let roots = StateRoots {
                receipts: Digest::ZERO,
                accounts: head.accounts_root(),
                validators: Digest::ZERO,
                results: Digest::ZERO,
            };
            let update = StateUpdate {
                checkpoint: true,
                height: Height(height),
                commitment: roots.commitment(Height(height)),
                accounts_root: roots.accounts,
                validators_root: roots.validators,
                registry: &[],
                results: roots.results,
                receipts_root: roots.receipts,
                registry_root: None,
                accounts: &rows,
                keys: &[],
                receipts: &[],
            };
            store.state.apply(&update).unwrap();
            store.state.flush().unwrap();
            let image = images.recv().unwrap();
            (image, StateHead { head, roots }, expected)
        });
        Self {
            all: all.collect(),
            chain,
            _dir: dir,
        }
    }

    fn take(&self, snapshots: &Snapshots, height: u64) -> Result<(), SnapshotError> {
        let (image, head, _) = &self.all[height as usize - 1];
        snapshots.expect(Height(height), head.clone());
        snapshots.take(image)
    }

    fn open(&self, data: &Path) -> Snapshots {
        Snapshots::open(data, Arc::clone(&self.chain)).unwrap()
    }

    fn open_on(&self, data: &Path, steps: &Arc<Steps>) -> Snapshots {
        let dir = SnapshotDir::with_files(data, self.chain.id, Arc::<Steps>::clone(steps));
        Snapshots::open_in(dir, Arc::clone(&self.chain)).unwrap()
    }

    /// The heights that are served, newest first; each is the state of its height, to the byte.
    fn served(&self, snapshots: &Snapshots) -> Vec<u64> {
        let all = snapshots.all();
        for served in &all {
            let (_, head, rows) = &self.all[served.height().0 as usize - 1];
            assert_eq!(served.head, *head);
            let request = GetChunk {
                height: served.height(),
                first: 0,
                last: u16::MAX,
            };
            assert_eq!(served.chunk(&request).unwrap().rows, *rows);
        }
        all.iter().map(|served| served.height().0).collect()
    }
}

/// Root and rows of a state, as rows travel.
fn tree_of(accounts: &BTreeMap<AccountId, Account>) -> (Digest, Vec<u8>) {
    let mut builders = BTreeMap::<u16, LeafBuilder>::new();
    let mut rows = Vec::new();
    for (id, account) in accounts {
        let row = account.to_bytes();
        put_row(&mut rows, id, &row);
        let builder = builders.entry(bucket_of(id)).or_default();
        builder.add(id, &row).unwrap();
    }
    let leaf = |bucket| match builders.get_mut(&bucket) {
        Some(builder) => builder.finish(),
        None => LeafBuilder::default().finish(),
    };
    let tree = LeafTree::new((0..=u16::MAX).map(leaf).collect());
    (tree.root(), rows)
}

/// Names in the directory of snapshots.
fn names(data: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(data.join("snapshots")) else {
        return BTreeSet::new();
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    entries.map(name).collect()
}

fn files_of(heights: &[u64]) -> BTreeSet<String> {
    let name = |height| format!("{height:020}.snap");
    heights.iter().map(name).collect()
}

/// After each step the machine may lose power. Whatever of that step and those before it is not
/// durable is then there, or not, or in part: the next start finds whole snapshots only, at least
/// those whose taking had ended, and leaves nothing else on the disk.
#[test]
fn a_crash_after_any_step_costs_no_snapshot_that_was_taken() {
    let states = States::new();
    let dir = temporary();
    let steps = Steps::recording(dir.path());
    let snapshots = states.open_on(dir.path(), &steps);
    // How many steps it took to take so many.
    let mut taken = vec![0];
    for height in 1..=TAKEN {
        states.take(&snapshots, height).unwrap();
        taken.push(steps.count());
    }
    assert_eq!(states.served(&snapshots), [3, 2]);
    assert_eq!(names(dir.path()), files_of(&[2, 3]));

    let mut seen = BTreeSet::new();
    let mut in_the_middle = 0;
    for count in 0..=steps.count() {
        let ended = taken.iter().filter(|after| **after <= count).count() - 1;
        let random = (0..RANDOM_STATES).map(|n| Left::Random(1_000 * count as u64 + n));
        for left in [Left::Nothing, Left::Everything].into_iter().chain(random) {
            let after = temporary();
            let found = steps.crash(count, &left, after.path());
            if !seen.insert((ended, found)) {
                continue;
            }
            let what = format!("{count} steps, {left:?}: {:?}", names(after.path()));
            let before = names(after.path());
            let snapshots = states.open(after.path());
            snapshots.tidy(None);
            let heights = states.served(&snapshots);
            assert!(heights.len() >= ended.min(SNAPSHOTS_KEPT), "{what}");
            assert!(heights.len() <= SNAPSHOTS_KEPT, "{what}");
            assert!(ended == 0 || heights.contains(&(ended as u64)), "{what}");
            assert_eq!(names(after.path()), files_of(&heights), "{what}");
            in_the_middle += u32::from(before != names(after.path()));
        }
    }
    assert!(in_the_middle > 5, "crashes left nothing to be tidied up");
}

/// Whoever died while it took a snapshot takes the next one.
#[test]
fn who_died_in_the_middle_goes_on() {
    let states = States::new();
    let dir = temporary();
    let steps = Steps::recording(dir.path());
    let snapshots = states.open_on(dir.path(), &steps);
    states.take(&snapshots, 1).unwrap();
    let first = steps.count();
    states.take(&snapshots, 2).unwrap();
    for count in first..steps.count() {
        let after = temporary();
        let _ = steps.crash(count, &Left::Everything, after.path());
        let snapshots = states.open(after.path());
        states.take(&snapshots, 3).unwrap();
        let served = states.served(&snapshots);
        assert_eq!(served[0], 3, "after {count} steps");
        assert_eq!(names(after.path()), files_of(&served));
    }
}

/// A disk that is full, or breaks, in any step: what was served is served on, and nothing that is
/// of no use takes room from the log.
#[test]
fn a_step_that_fails_leaves_nothing_behind() {
    let states = States::new();
    let count = {
        let dir = temporary();
        let steps = Steps::recording(dir.path());
        let snapshots = states.open_on(dir.path(), &steps);
        states.take(&snapshots, 1).unwrap();
        steps.count()
    };
    for failing in 0..count {
        let dir = temporary();
        let steps = Steps::recording(dir.path());
        let snapshots = states.open_on(dir.path(), &steps);
        states.take(&snapshots, 1).unwrap();
        steps.fail_after(failing, Failure::Once(std::io::ErrorKind::StorageFull));
        let error = states.take(&snapshots, 2).unwrap_err().to_string();
        assert!(error.contains("free space on the disk"), "{error}");
        assert_eq!(states.served(&snapshots), [1], "step {failing}");
        assert_eq!(names(dir.path()), files_of(&[1]), "step {failing}");
        states.take(&snapshots, 3).unwrap();
        assert_eq!(states.served(&snapshots), [3, 1]);
        drop(snapshots);
        assert_eq!(states.served(&states.open(dir.path())), [3, 1]);
    }
}

/// The same height again takes the place of the one before and costs no other.
#[test]
fn a_height_that_is_taken_twice_is_served_once() {
    let states = States::new();
    let dir = temporary();
    let snapshots = states.open(dir.path());
    for height in [1, 2, 2, 3] {
        states.take(&snapshots, height).unwrap();
    }
    assert_eq!(states.served(&snapshots), [3, 2]);
    assert_eq!(names(dir.path()), files_of(&[2, 3]));
    assert_eq!(states.served(&states.open(dir.path())), [3, 2]);
}

/// The newest snapshot that can be proven stays beside newer ones that cannot, over restarts, and
/// history with it; it goes once a newer one is proven.
#[test]
fn the_newest_proven_snapshot_and_its_history_outlast_newer_ones() {
    let states = States::new();
    let dir = temporary();
    let snapshots = states.open(dir.path());
    let wanted = Height(2);
    assert_eq!(snapshots.prune_below(wanted).unwrap(), Height::ZERO);
    states.take(&snapshots, 1).unwrap();
    states.take(&snapshots, 2).unwrap();
    // As the log would say: a committed header names the state of 1, none that of 2.
    let prove = |snapshots: &Snapshots, height| {
        let snapshot = snapshots.at(Height(height)).unwrap();
        snapshot.proven.store(true, Ordering::Relaxed);
    };
    prove(&snapshots, 1);
    states.take(&snapshots, 3).unwrap();
    assert_eq!(states.served(&snapshots), [3, 2, 1]);
    assert_eq!(states.served(&snapshots).len(), SNAPSHOTS_MAX);
    assert_eq!(snapshots.prune_below(Height(1)).unwrap(), Height(1));
    drop(snapshots);
    let snapshots = states.open(dir.path());
    snapshots.tidy(Some(Height(1)));
    assert_eq!(states.served(&snapshots), [3, 2, 1]);
    prove(&snapshots, 3);
    assert_eq!(snapshots.prune_below(wanted).unwrap(), wanted);
    snapshots.tidy(Some(Height(3)));
    assert_eq!(states.served(&snapshots), [3, 2]);
    assert_eq!(names(dir.path()), files_of(&[2, 3]));
}

/// Who cannot take snapshots holds back no history: others have theirs.
#[test]
fn a_node_that_cannot_take_snapshots_prunes() {
    let states = States::new();
    let dir = temporary();
    let steps = Steps::recording(dir.path());
    let snapshots = Arc::new(states.open_on(dir.path(), &steps));
    let thread = |snapshots: &Arc<Snapshots>, height: u64| {
        let (image, head, _) = &states.all[height as usize - 1];
        snapshots.expect(Height(height), head.clone());
        snapshots.take_and_note(image);
    };
    steps.fail_after(0, Failure::Once(std::io::ErrorKind::StorageFull));
    thread(&snapshots, 1);
    assert_eq!(states.served(&snapshots), [0; 0]);
    assert_eq!(snapshots.prune_below(Height(7)).unwrap(), Height(7));
    thread(&snapshots, 2);
    assert_eq!(states.served(&snapshots), [2]);
    assert_eq!(snapshots.prune_below(Height(7)).unwrap(), Height::ZERO);
}
