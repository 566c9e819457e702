//! A chain with a snapshot, and a node that gathers it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use falconet_ledger::snapshot::{
    BUCKET_COUNT, Head, LeafBuilder, LeafTree, bucket_of, put_row, registry_rows,
};
use falconet_ledger::{Account, Application, Ledger};
use falconet_store::{Disk, SnapshotFiles, Store, StoreConfig, StoreError, SystemFiles};
use falconet_types::block::{Cut, Executed, Header, HeaderKind, SignedHeader};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::genesis::Genesis;
use falconet_types::snapshot::{Chunk, Manifest};
use falconet_types::wire::Wire;
use falconet_types::{AccountId, Digest, Epoch, Height, KeyPair, Round, Scheme, ValidatorIndex};

use crate::catchup::incoming::Incoming;
use crate::catchup::install::install_by;
use crate::chain::Chain;
use crate::execute::Executor;
use crate::fixtures::alone;
use crate::recorded::{Left, Steps, temporary};
use crate::snapshots::Snapshots;

/// Height of the snapshot.
pub(super) const HEIGHT: u64 = 8;
/// Parts that it comes in.
pub(super) const PARTS: usize = 6;
/// Parts between two syncs.
pub(super) const SYNC_EVERY: usize = 2;
const ACCOUNTS: u64 = 120;

/// What a node did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Part so and so is kept.
    Stored(usize),
    /// All are.
    Complete,
    /// The state is in place.
    Installed,
}

pub(super) struct World {
    chain: Arc<Chain>,
    config: StoreConfig,
    manifest: Manifest,
    parts: Vec<Chunk>,
    /// A data directory that a node made which took no part.
    template: tempfile::TempDir,
}

fn range(part: usize) -> (u16, u16) {
    let at = |part: usize| part * BUCKET_COUNT / PARTS;
    let (first, last) = (at(part), at(part + 1) - 1);
    (u16::try_from(first).unwrap(), u16::try_from(last).unwrap())
}

fn genesis(validator: &KeyPair) -> Genesis {
    let ids = (0..ACCOUNTS).map(|n| falconet_crypto::hash::hash("test", &[&n.to_le_bytes()]));
    let ids: BTreeSet<AccountId> = ids.collect();
    let accounts = ids.into_iter().map(|id| (id, 1_000 + u64::from(id.0[0])));
    alone(validator, accounts)
}

/// The state at [`HEIGHT`]: everybody has paid something.
fn state(genesis: &Genesis) -> (BTreeMap<AccountId, Account>, Head, Digest) {
    let accounts = genesis.accounts.iter().map(|account| {
        let mut at_height = Account::of_genesis(account);
        at_height.balance -= 7;
        (account.id, at_height)
    });
    let accounts: BTreeMap<_, _> = accounts.collect();
    let registry = Ledger::from_genesis(genesis).head().registry;
    let ledger = Ledger::restore(
        genesis,
        Height(HEIGHT),
        Digest([4; 32]),
        accounts.clone().into_iter(),
        std::iter::empty(),
        registry_rows(&registry).unwrap().into_iter(),
    );
    let ledger = ledger.unwrap();
    (accounts, ledger.head(), ledger.commitment())
}

fn parts_of(accounts: &BTreeMap<AccountId, Account>) -> (Digest, Vec<Chunk>) {
    let mut buckets = vec![Vec::new(); BUCKET_COUNT];
    let mut builders: Vec<LeafBuilder> = Vec::new();
    builders.resize_with(BUCKET_COUNT, LeafBuilder::default);
    for (id, account) in accounts {
        let bucket = usize::from(bucket_of(id));
        put_row(&mut buckets[bucket], id, &account.to_bytes());
        builders[bucket].add(id, &account.to_bytes()).unwrap();
    }
    let tree = LeafTree::new(builders.iter_mut().map(LeafBuilder::finish).collect());
    let parts = (0..PARTS).map(|part| {
        let (first, last) = range(part);
        let (left, right) = tree.beside(first, last);
        Chunk {
            height: Height(HEIGHT),
            first,
            last,
            left,
            right,
            rows: buckets[usize::from(first)..=usize::from(last)]
                .concat()
                .into(),
        }
    });
    (tree.root(), parts.collect())
}

fn manifest(chain: &Chain, validator: &KeyPair, head: &Head, commitment: Digest) -> Manifest {
    let mut headers: Vec<SignedHeader> = Vec::new();
    for height in HEIGHT..HEIGHT + 6 {
        let named = match height - HEIGHT {
            0..4 => (Height(HEIGHT - 3), Digest([8; 32])),
            _ => (Height(HEIGHT), commitment),
        };
        let header = Header {
            epoch: Epoch::ZERO,
            round: Round(height),
            kind: HeaderKind::Normal,
            parent_id: headers.last().map_or(Digest([2; 32]), SignedHeader::id),
            parent_round: Round(height - 1),
            height: Height(height),
            cut: Cut::empty(1),
            time_ms: height,
            executed: Executed {
                height: named.0,
                root: named.1,
            },
            ended_by: Digest::ZERO,
            author: ValidatorIndex(0),
        };
        headers.push(SignedHeader::sign(header, chain.id, validator));
    }
    let last = headers.last().unwrap();
    let vote = Vote::sign(
        Epoch::ZERO,
        last.round,
        last.id(),
        last.parent_round,
        ValidatorIndex(0),
        chain.id,
        validator,
    );
    let qc = Qc {
        epoch: Epoch::ZERO,
        round: last.round,
        block_id: last.id(),
        parent_round: last.parent_round,
        votes: vec![(vote.voter, vote.signature)],
    };
    Manifest {
        tree_root: head.tree_root,
        burned: head.burned,
        registry: head.registry.clone(),
        validators: head.validators_root(&chain.genesis).unwrap(),
        results: Digest([4; 32]),
        rows_bytes: 10_000,
        headers,
        qc,
    }
}

impl World {
    pub(super) fn new() -> Self {
        let validator = KeyPair::from_seed(Scheme::Falcon512, &[1; 32]);
        let key = KeyPair::from_seed(Scheme::Falcon512, &[2; 32]);
        let template = temporary();
        let genesis = genesis(&validator);
        let document = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(document.path(), serde_json::to_string(&genesis).unwrap()).unwrap();
        let chain = Chain::load(document.path(), template.path(), key.public()).unwrap();
        let (accounts, head, commitment) = state(&genesis);
        let (tree_root, parts) = parts_of(&accounts);
        assert_eq!(tree_root, head.tree_root);
        let manifest = manifest(&chain, &validator, &head, commitment);
        let found = manifest.commitment(head.accounts_root());
        assert_eq!(found, commitment);
        let config = StoreConfig {
            segment_bytes: falconet_store::SEGMENT_BYTES_MIN,
            state_cache_bytes: 1 << 20,
            ..StoreConfig::new(chain.id, key.public().id())
        };
        drop(Store::open(template.path(), &config).unwrap());
        Self {
            chain: Arc::new(chain),
            config,
            manifest,
            parts,
            template,
        }
    }

    /// A data directory of a node that knows nothing yet.
    pub(super) fn data(&self) -> tempfile::TempDir {
        let dir = temporary();
        Steps::recording(self.template.path()).crash(0, &Left::Everything, dir.path());
        dir
    }

    /// What the start of a node does with a snapshot that waits.
    pub(super) fn start(&self, data: &Path) -> Result<(), StoreError> {
        install_by(
            data,
            &self.config,
            &self.chain,
            &(Arc::new(SystemFiles) as _),
        )
    }

    /// Starts, gathers what is missing, and starts again, until the state is in place: at once, or
    /// after what was there turned out to be of no use.
    pub(super) fn live(
        &self,
        data: &Path,
        files: &Arc<dyn SnapshotFiles>,
        log: Arc<dyn Disk>,
        tell: &mut dyn FnMut(Life),
    ) -> Result<(), StoreError> {
        let config = StoreConfig {
            disk: log,
            ..self.config.clone()
        };
        for _ in 0..3 {
            install_by(data, &config, &self.chain, files)?;
            // The thread begins with this, whether a snapshot is needed or not.
            let mut incoming = Incoming::load(data, Arc::clone(files), &self.chain)?;
            if self.state_height(data) == HEIGHT {
                tell(Life::Installed);
                return Ok(());
            }
            // Two parts are longer than one, all of which are about as long.
            let sizes = self.parts.iter().map(|part| part.to_payload().len() as u64);
            incoming.sync_bytes = 4 + sizes.max().unwrap() + 1;
            let held = incoming.resume().map(|resume| resume.held);
            if held.is_none() {
                incoming.begin(&self.manifest)?;
            }
            let held = held.unwrap_or_default();
            for (number, part) in self.parts.iter().enumerate() {
                if !held.contains(&(part.first, part.last)) {
                    incoming.store(part)?;
                    tell(Life::Stored(number));
                }
            }
            incoming.complete()?;
            tell(Life::Complete);
        }
        panic!("it is gathered over and over");
    }

    /// What the thread does after an error.
    pub(super) fn forget(&self, data: &Path, files: &Arc<dyn SnapshotFiles>) {
        let mut incoming = Incoming::new(data, Arc::clone(files));
        if !incoming.is_ready() {
            incoming.discard().unwrap();
        }
    }

    pub(super) fn state_height(&self, data: &Path) -> u64 {
        let (_, recovered) = Store::open(data, &self.config).unwrap();
        recovered.state_height.0
    }

    /// The state is that of the chain at [`HEIGHT`], and the log leads there.
    pub(super) fn assert_installed(&self, data: &Path) {
        let (store, recovered) = Store::open(data, &self.config).unwrap();
        assert_eq!(recovered.state_height, Height(HEIGHT));
        assert_eq!(recovered.committed.unwrap().height, Height(HEIGHT));
        let block = store.reader.block_at(Height(HEIGHT));
        assert_eq!(block, Some(self.manifest.anchor().id()));
        let elsewhere = temporary();
        let snapshots = Snapshots::open(elsewhere.path(), Arc::clone(&self.chain)).unwrap();
        let executor = Executor::open(&self.chain, store.state, &store.reader, Arc::new(snapshots));
        let executor = executor.unwrap();
        assert_eq!(executor.application().commitment(), self.commitment());
    }

    fn commitment(&self) -> Digest {
        state(&self.chain.genesis).2
    }
}
