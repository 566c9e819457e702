//! What a node makes of its disk when it starts: in the order of the validator's recovery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use falconet_epochs::{Handover, Reporter, Timeline, cut_after, parent_cut, payload_of, unsettled};
use falconet_hotstuff::HotStuff;
use falconet_ledger::{Application, BlockResult, Ledger};
use falconet_mempool::Mempool;
use falconet_sync::{Catchup, keeping};
use falconet_types::block::Cut;
use falconet_types::genesis::HISTORY_HEIGHTS_FLOOR;
use falconet_types::time::Now;
use falconet_types::transaction::SignedTransaction;
use falconet_types::{Digest, Epoch, Height, Scheme, ValidatorIndex};

use super::super::disk::state::State;
use super::super::keys::{self, SimSigner};
use super::crossing::Names;
use super::live::Live;
use super::serving::{Log, sure};
use super::{Chain, Node, execute};

/// What is executed again out of the log.
struct Replayed {
    ledger: Ledger,
    results: Vec<BlockResult>,
    roots: BTreeMap<Height, falconet_types::receipt::StateRoots>,
    state: State,
    /// The state from which it was executed again.
    from: (Height, Digest),
}

/// What a start came to.
#[derive(Debug)]
pub struct Started {
    /// The durable state, and its commitment.
    pub from: (Height, Digest),
    /// Results of blocks executed again.
    pub results: Vec<BlockResult>,
}

impl Node {
    /// Starts, or starts again from the disk. A snapshot that waits was installed before
    /// ([`Node::install`]).
    pub fn start(
        &mut self,
        chain: &Chain,
        now: Now,
        setup: &mut dyn FnMut(usize, &mut HotStuff),
    ) -> Result<Started, String> {
        assert!(self.live.is_none(), "a node is started once");
        assert!(self.disk.files.ready().is_none(), "what waits is installed");
        self.life += 1;
        let mut timeline = self.proven_epochs(chain);
        let Replayed {
            ledger,
            results,
            roots,
            state,
            from,
        } = self.replay(chain, &timeline)?;
        settle(&mut timeline, ledger.height());
        self.finish_epoch(chain, &mut timeline, &ledger, &roots, &state);

        let params = &chain.genesis.params;
        let info = Arc::clone(timeline.current());
        let me = info.set.by_key(keys::validator(self.validator));
        let me = me.unwrap_or(ValidatorIndex::NOBODY);
        let executed = ledger.height();
        let log = Log {
            disk: &self.disk,
            roots: &roots,
            registry_roots: &state.registry_roots,
        };
        let cut = sure(cut_after(&info, &log, executed));
        let committed = self.disk.last_committed().0;
        let backlog: VecDeque<_> = (executed.0 + 1..=committed)
            .map(|height| {
                let header = self.disk.header_at(Height(height));
                Arc::new(header.expect("a committed header is logged").clone())
            })
            .collect();
        let batches = self.disk.batches_above(info.start.epoch, &cut);
        let key = keys::validator(self.validator);
        let unsettled = sure(unsettled(&timeline, &log, key, |tx| {
            let tx = SignedTransaction::parse(tx.clone());
            Ok(tx.is_ok_and(|tx| state.is_settled(&tx.id())))
        }));
        let mut hotstuff = HotStuff::new(
            falconet_hotstuff::Config {
                chain_id: chain.id,
                me,
                set: Arc::clone(&info.set),
                params: params.clone(),
                start: info.start,
            },
            Box::new(SimSigner(self.validator)),
            self.disk.recover(),
        )
        .expect("the log is whole");
        if let Some(proof) = self.disk.proof(info.start.epoch.prev()) {
            hotstuff.remember_proof(Arc::new(proof.clone()));
        }
        setup(self.index, &mut hotstuff);
        let mut mempool = Mempool::new(
            falconet_mempool::Config {
                chain_id: chain.id,
                me,
                set: Arc::clone(&info.set),
                params: params.clone(),
            },
            Box::new(SimSigner(self.validator)),
            falconet_mempool::Recovered {
                executed,
                batches,
                cut: cut.clone(),
                unsettled,
            },
        )
        .expect("the log is whole");
        let commitments = roots
            .iter()
            .map(|(height, roots)| (*height, roots.commitment(*height)))
            .collect();
        let signer = Box::new(SimSigner(self.validator));
        let mut reporter = Reporter::new(chain.id, signer, Scheme::Falcon512, ledger.view());
        reporter.adopt(mempool.take_orphans());
        let mut handover = Handover::default();
        handover.carry_over(mempool.status().pending_txs);
        let mut catching = Vec::new();
        let catchup = (params.history_heights() < HISTORY_HEIGHTS_FLOOR).then(|| {
            let resume = self.disk.files.load(&chain.genesis);
            let genesis = Arc::clone(&chain.genesis);
            let asked = timeline.newest_with_others(key);
            Catchup::new(now, key.clone(), genesis, asked, resume, &mut catching)
        });
        let learned = |epoch: Epoch| Some((epoch, Box::new(self.disk.proof(epoch)?.clone())));
        let learned = (info.start.epoch.0..timeline.newest_known().start.epoch.0)
            .filter_map(|epoch| learned(Epoch(epoch)))
            .collect();
        self.live = Some(Live {
            number: self.validator,
            me,
            names: Names::new(&info.set, timeline.newest()),
            timeline,
            handover,
            reporter,
            linked: BTreeSet::new(),
            genesis_commitment: ledger.genesis_commitment(),
            chain: chain.clone(),
            hotstuff,
            mempool,
            ledger,
            roots,
            commitments,
            backlog,
            cut,
            turns: VecDeque::new(),
            syncing: None,
            to_execute: VecDeque::new(),
            executing: false,
            state,
            catchup,
            catching,
            learned,
            to_keep: Vec::new(),
        });
        self.turn(now, |live, context| {
            live.feed_backlog(context);
            live.mempool(context, falconet_mempool::Input::Tick);
            live.hotstuff(context, falconet_hotstuff::Input::Tick);
        });
        Ok(Started { from, results })
    }

    /// The epochs up to the last that a file proves to be over, and the one after it; the node is in
    /// the one that its log belongs to.
    pub(super) fn proven_epochs(&self, chain: &Chain) -> Timeline {
        let mut timeline = Timeline::new(chain.first_epoch());
        let mut verifier = keys::verifier();
        let params = &chain.genesis.params;
        while let Some(proof) = self.disk.proof(timeline.newest_known().start.epoch) {
            let newest = timeline.newest_known();
            let next = proof.verify(chain.id, params, newest, &mut verifier);
            timeline.learn(next.expect("its own files prove its epochs"));
        }
        settle(&mut timeline, self.disk.last_committed());
        timeline
    }

    /// Executes committed blocks again, from the durable state up to the last block, or until a
    /// batch is missing.
    fn replay(&self, chain: &Chain, timeline: &Timeline) -> Result<Replayed, String> {
        let params = &chain.genesis.params;
        let state = self.disk.files.state();
        let state = state.map_or_else(State::default, |state| State::clone(state));
        let ledger = state.ledger(&chain.genesis)?;
        let mut replayed = Replayed {
            from: (state.height, ledger.commitment()),
            results: Vec::new(),
            roots: state.roots.clone(),
            ledger,
            state,
        };
        for height in replayed.from.0.0 + 1..=self.disk.last_committed().0 {
            let header = self.disk.header_at(Height(height));
            let header = header.expect("a committed header is logged");
            let log = Log {
                disk: &self.disk,
                roots: &replayed.roots,
                registry_roots: &replayed.state.registry_roots,
            };
            let before: Cut = sure(parent_cut(&log, header));
            let Some(batches) = sure(payload_of(&log, header, &before)) else {
                break;
            };
            let ends = timeline.ends_epoch(params, header);
            let result = execute(&mut replayed.ledger, header, ends, batches);
            let past_end = timeline.is_past_end(params, header);
            let registry_root = past_end.then(|| replayed.ledger.registry_root());
            replayed.roots.insert(result.height, result.roots);
            let forget = keeping::forget_below(header, params.history_heights());
            replayed.state.apply(&result, registry_root, forget);
            replayed.results.push(result);
        }
        Ok(replayed)
    }

    /// A crash may have come between the last block of an epoch and the proof that it is over.
    fn finish_epoch(
        &mut self,
        chain: &Chain,
        timeline: &mut Timeline,
        ledger: &Ledger,
        roots: &BTreeMap<Height, falconet_types::receipt::StateRoots>,
        state: &State,
    ) {
        let params = &chain.genesis.params;
        let Some(last) = self.disk.header_at(ledger.height()) else {
            return;
        };
        let current = Arc::clone(timeline.current());
        if last.epoch != current.start.epoch || !timeline.is_over(params, last) {
            return;
        }
        let log = Log {
            disk: &self.disk,
            roots,
            registry_roots: &state.registry_roots,
        };
        let Some(ending) = sure(falconet_epochs::ending(ledger, &log, last)) else {
            return;
        };
        let made = falconet_epochs::prove(chain.id, params, &current, &log, last, &ending);
        if let Ok((proof, next)) = made {
            self.disk.keep_proof(proof);
            timeline.push(next);
        }
    }
}

/// The node is in the epoch of this height.
fn settle(timeline: &mut Timeline, height: Height) {
    let info = timeline.info(timeline.epoch_at(height));
    let info = Arc::clone(info.expect("few epochs are proven"));
    timeline.settle(info);
}
