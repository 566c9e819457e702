//! Evidence that this node found and the ledger has not heard of yet, on disk: whoever found it may
//! be stopped before its report is in a block, and nobody else may have seen both messages.
//!
//! One file a validator and epoch, `evidence/<epoch>-<index>` in the data directory, written when
//! it is found and deleted when the ledger has punished it or no longer would.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use falconet_crypto::falcon::Verifier;
use falconet_epochs::reporter::EVIDENCE_PENDING_MAX;
use falconet_types::evidence::{EVIDENCE_BYTES_MAX, Evidence};
use falconet_types::wire::Wire;
use falconet_types::{Epoch, ValidatorIndex};

use crate::chain::Chain;

/// What becomes of a piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was found.
    Keep(Box<Evidence>),
    /// It is of no use any more.
    Drop(Epoch, ValidatorIndex),
}

/// See the module.
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// What an earlier process found, verified again. What is none is deleted.
    #[must_use]
    pub fn open(data: &Path, chain: &Chain) -> (Self, Vec<Evidence>) {
        let shelf = Self {
            dir: data.join("evidence"),
        };
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(&shelf.dir) else {
            return (shelf, found); // nothing was ever found
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            match load(&path, chain) {
                Some(evidence) if found.len() < EVIDENCE_PENDING_MAX => found.push(evidence),
                _ => {
                    tracing::warn!(path = %path.display(), "a file that is no evidence is deleted");
                    // One that stays is looked at again at the next start.
                    let _ = fs::remove_file(&path);
                }
            }
        }
        (shelf, found)
    }

    /// Carries out a change. The node goes on without the file if that fails: nothing but a report
    /// depends on it.
    pub fn change(&self, change: &Change) {
        let done = match change {
            Change::Keep(evidence) => {
                let path = self.path(evidence.epoch(), evidence.offender());
                falconet_store::replace(&path, &evidence.to_bytes())
            }
            Change::Drop(epoch, offender) => match fs::remove_file(self.path(*epoch, *offender)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        if let Err(error) = done {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "evidence is not kept on disk");
        }
    }

    fn path(&self, epoch: Epoch, offender: ValidatorIndex) -> PathBuf {
        self.dir.join(format!("{:010}-{:05}", epoch.0, offender.0))
    }
}

/// A piece of evidence that the validators of its epoch bear out.
fn load(path: &Path, chain: &Chain) -> Option<Evidence> {
    if fs::metadata(path).ok()?.len() > EVIDENCE_BYTES_MAX as u64 {
        return None;
    }
    let evidence = Evidence::from_bytes(&fs::read(path).ok()?).ok()?;
    let info = chain.epochs.info(evidence.epoch())?;
    let verified = evidence.verify(chain.id, &info.set, &mut Verifier::new());
    verified.is_ok().then_some(evidence)
}

#[cfg(test)]
mod tests {
    use falconet_types::certificate::Vote;
    use falconet_types::genesis::{
        ApplicationKind, Genesis, GenesisValidator, Params, StakeParams,
    };
    use falconet_types::{Digest, KeyPair, Round, Scheme};

    use super::*;

    fn key(number: u8) -> KeyPair {
        KeyPair::from_seed(Scheme::Falcon512, &[number; 32])
    }

    fn chain(dir: &Path) -> Chain {
        let genesis = Genesis {
            name: "test".into(),
            time_ms: 1_000,
            application: ApplicationKind::Ledger,
            params: Params::default(),
            validators: (0..2)
                .map(|n| GenesisValidator {
                    name: format!("v{n}"),
                    key: key(n).public().clone(),
                    weight: 1,
                    owner: None,
                    address: None,
                })
                .collect(),
            stake: StakeParams::default(),
            accounts: Vec::new(),
        };
        let path = dir.join("genesis.json");
        fs::write(&path, serde_json::to_string(&genesis).unwrap()).unwrap();
        Chain::load(&path, &dir.join("data"), key(0).public()).unwrap()
    }

    fn evidence(chain: &Chain, signer: u8) -> Evidence {
        let vote = |byte| {
            let (round, parent, block) = (Round(5), Round(4), Digest([byte; 32]));
            let index = ValidatorIndex(1);
            Vote::sign(
                Epoch(0),
                round,
                block,
                parent,
                index,
                chain.id,
                &key(signer),
            )
        };
        Evidence::Votes(Box::new(vote(1)), Box::new(vote(2)))
    }

    #[test]
    fn evidence_is_there_after_a_restart_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (data, chain) = (dir.path().join("data"), chain(dir.path()));
        fs::create_dir(&data).unwrap();
        let (shelf, found) = Shelf::open(&data, &chain);
        assert_eq!(found, []);
        let evidence = evidence(&chain, 1);
        shelf.change(&Change::Keep(Box::new(evidence.clone())));
        let (shelf, found) = Shelf::open(&data, &chain);
        assert_eq!(found, [evidence]);
        let gone = Change::Drop(Epoch(0), ValidatorIndex(1));
        shelf.change(&gone);
        shelf.change(&gone);
        assert_eq!(Shelf::open(&data, &chain).1, []);
    }

    /// What somebody else put there accuses nobody.
    #[test]
    fn files_that_prove_nothing_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (data, chain) = (dir.path().join("data"), chain(dir.path()));
        let (shelf, _) = Shelf::open(&data, &chain);
        // Another's signature, an epoch that nobody knows, half a file, no file of ours.
        shelf.change(&Change::Keep(Box::new(evidence(&chain, 0))));
        let mut later = evidence(&chain, 1);
        if let Evidence::Votes(a, b) = &mut later {
            (a.epoch, b.epoch) = (Epoch(9), Epoch(9));
        }
        shelf.change(&Change::Keep(Box::new(later)));
        let bytes = evidence(&chain, 1).to_bytes();
        fs::write(data.join("evidence/half"), &bytes[..bytes.len() / 2]).unwrap();
        fs::write(data.join("evidence/long"), vec![0; EVIDENCE_BYTES_MAX + 1]).unwrap();
        assert_eq!(fs::read_dir(data.join("evidence")).unwrap().count(), 4);
        assert_eq!(Shelf::open(&data, &chain).1, []);
        assert_eq!(fs::read_dir(data.join("evidence")).unwrap().count(), 0);
    }
}
