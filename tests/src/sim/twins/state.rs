//! When two states are one: they differ only in the names of correct validators and of twins.
//!
//! Blocks have no names of their own: a block is who made it, in which round, on which parent, down
//! to the last block that all cores have committed. Rounds count from the phase's. What can no
//! longer decide anything is left out: votes of rounds whose QC is held, proposals that are in the
//! tree, last words that would not be sent again.

use std::collections::BTreeMap;

use falconet_hotstuff::Snapshot;
use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, Round, ValidatorIndex};

use super::arena::Arena;

/// The state's name, the same for all states that are one.
pub(super) fn of(arena: &Arena) -> u128 {
    named(arena).0
}

/// The nodes in an order that states which are one have in common: whoever takes one step after the
/// other goes by it, or what follows would depend on names.
pub(super) fn order(arena: &Arena) -> Vec<usize> {
    let to = named(arena).1;
    let mut order: Vec<usize> = (0..to.len()).collect();
    order.sort_unstable_by_key(|node| to[*node]);
    order
}

/// The lowest of a state's names under all renamings, and which one that is.
fn named(arena: &Arena) -> (u128, Vec<usize>) {
    let players = arena.players.iter();
    let cores: Vec<Snapshot> = players.map(|player| player.core.snapshot()).collect();
    let names = renamings(arena).into_iter().map(|to| {
        let name = Renamed::new(arena, &cores, &to).state();
        (name, to)
    });
    names.min().expect("at least the names as they are")
}

/// All ways to rename nodes: the correct validators among themselves, the two selves of each twin.
fn renamings(arena: &Arena) -> Vec<Vec<usize>> {
    let (n, twins) = (arena.cast.n, arena.cast.twins);
    let mut all = Vec::new();
    let mut correct: Vec<usize> = (twins..n).collect();
    permutations(&mut correct, 0, &mut |order| {
        for swaps in 0..1usize << twins {
            let mut to: Vec<usize> = (0..n + twins).collect();
            to[twins..n].copy_from_slice(order);
            for twin in (0..twins).filter(|twin| swaps >> twin & 1 == 1) {
                to.swap(twin, n + twin);
            }
            all.push(to);
        }
    });
    all
}

fn permutations(items: &mut [usize], at: usize, each: &mut impl FnMut(&[usize])) {
    if at == items.len() {
        each(items);
        return;
    }
    for i in at..items.len() {
        items.swap(at, i);
        permutations(items, at + 1, each);
        items.swap(at, i);
    }
}

struct Renamed<'a> {
    arena: &'a Arena,
    /// What each core says of itself.
    cores: &'a [Snapshot],
    /// Node i is called to[i].
    to: &'a [usize],
    /// The last block that all cores have committed.
    base: BlockId,
    blocks: BTreeMap<BlockId, u128>,
}

impl<'a> Renamed<'a> {
    fn new(arena: &'a Arena, cores: &'a [Snapshot], to: &'a [usize]) -> Self {
        let mut renamed = Self {
            arena,
            cores,
            to,
            base: arena.base(),
            blocks: BTreeMap::new(),
        };
        for id in arena.origins.keys() {
            let name = renamed.block(id);
            renamed.blocks.insert(*id, name);
        }
        renamed
    }

    /// A block's name; the base's for what nobody proposed.
    fn block(&self, id: &BlockId) -> u128 {
        if let Some(name) = self.blocks.get(id) {
            return *name;
        }
        let mut chain = Vec::new();
        let mut at = *id;
        while at != self.base
            && let Some((node, round, parent)) = self.arena.origins.get(&at)
        {
            chain.push((self.to[*node] as u64, self.round(*round)));
            at = *parent;
        }
        let mut name = Name::new();
        for (node, round) in chain.into_iter().rev() {
            name.add(node);
            name.add(round);
        }
        name.0
    }

    /// Rounds that are long past count from where they were; newer ones from the phase's.
    fn round(&self, round: Round) -> u64 {
        round.0.wrapping_sub(self.arena.number)
    }

    fn validator(&self, index: ValidatorIndex) -> u64 {
        // Both selves of a twin are one validator.
        let node = self.to[index.at()];
        self.arena.cast.validator_of(node) as u64
    }

    fn state(&self) -> u128 {
        let mut nodes: Vec<(usize, u128)> = (self.arena.players.iter().enumerate())
            .map(|(node, _)| (self.to[node], self.player(node)))
            .collect();
        nodes.sort_unstable();
        let mut name = Name::new();
        for leader in self.arena.next_leaders() {
            name.add(self.validator(leader));
        }
        for (_, player) in nodes {
            name.add_wide(player);
        }
        let waiting = self.arena.waiting.iter().map(|(from, to, message)| {
            let mut name = Name::new();
            name.add(self.to[*from] as u64);
            name.add(self.to[*to] as u64);
            match message {
                PeerMessage::Header(header) => name.add_wide(self.block(&header.id())),
                PeerMessage::Vote(vote) => {
                    name.add(self.round(vote.round));
                    name.add_wide(self.block(&vote.block_id));
                }
                PeerMessage::CommitVote(vote) => {
                    name.add(self.round(vote.round));
                    name.add_wide(self.block(&vote.block_id));
                }
                PeerMessage::Timeout(timeout) => {
                    name.add(self.round(timeout.round));
                    name.add(self.round(timeout.hqc_round));
                }
                other => panic!("only messages of a round wait: {other:?}"),
            }
            (message.kind(), name.0)
        });
        name.add_sorted(waiting.map(|(kind, name)| name ^ u128::from(kind)));
        name.0
    }

    fn player(&self, node: usize) -> u128 {
        let s = &self.cores[node];
        let high = s.qcs.iter().map(|(round, _)| *round).max();
        let high = high.unwrap_or(Round::ZERO);
        let before = s.round.prev();
        let mut name = Name::new();
        name.add(self.round(s.round));
        name.add(u64::from(s.signs));
        name.add(u64::from(self.arena.players[node].is_over()));
        // What is below the current round forbids nothing any more.
        name.add(u64::from(s.record.last_voted_round >= s.round));
        name.add(u64::from(s.record.highest_timeout_round >= s.round));
        let vote = s.record.last_vote.as_ref();
        let vote = vote.filter(|vote| vote.round > high);
        name.add_wide(vote.map_or(0, |vote| self.block(&vote.block_id)));
        let timeout = s.record.last_timeout.as_ref();
        let timeout = timeout.filter(|timeout| timeout.round >= s.round);
        name.add(timeout.map_or(0, |timeout| self.round(timeout.hqc_round)));
        for header in [&s.record.last_normal, &s.record.last_recovery] {
            let header = header.as_ref().filter(|header| header.round >= s.round);
            name.add_wide(header.map_or(0, |header| self.block(&header.id())));
        }
        let tc = s.high_tc.filter(|(round, _)| *round == before);
        name.add(tc.map_or(0, |(_, max)| self.round(max)));
        name.add_wide(self.block(&s.root));
        name.add_wide(s.fetching.map_or(0, |id| self.block(&id)));
        let (round, kind) = s.announced;
        let announced = [(s.round, 0), (s.round.next(), 2)].into_iter();
        let announced = announced.filter(|(at, _)| *at == round);
        name.add(announced.map(|(_, code)| 1 + code + kind as u64).sum());
        name.add_sorted(s.qcs.iter().map(|(_, id)| self.block(id)));
        name.add_sorted(s.blocks.iter().map(|id| self.block(id)));
        let certified = |round: &Round| s.qcs.iter().any(|(qc, _)| qc == round);
        let floor = s.qcs.iter().map(|(round, _)| *round).min();
        let floor = floor.unwrap_or(Round::ZERO);
        let loose = s.headers.iter().filter(|(round, _, id)| {
            *round > floor && !s.blocks.contains(id) && (!certified(round) || *round >= s.round)
        });
        name.add_sorted(loose.map(|(_, _, id)| self.block(id)));
        let open = s
            .votes
            .iter()
            .filter(|(round, _, _)| *round > floor && !certified(round));
        name.add_sorted(open.map(|(round, voter, id)| {
            let mut name = Name::new();
            name.add(self.round(*round));
            name.add(self.validator(*voter));
            name.add_wide(self.block(id));
            name.0
        }));
        let committing = s.commit_votes.iter().filter(|(round, _, id)| {
            let root = self.arena.origins.get(&s.root).map(|(_, round, _)| *round);
            Some(*round) > root && *id != s.root
        });
        name.add_sorted(committing.map(|(round, voter, id)| {
            let mut name = Name::new();
            name.add(self.round(*round));
            name.add(self.validator(*voter));
            name.add_wide(self.block(id));
            name.0
        }));
        let vote = s.record.last_commit_vote.as_ref();
        name.add(vote.map_or(0, |vote| self.round(vote.round)));
        let open = s.timeouts.iter().filter(|(_, round, _)| *round >= s.round);
        name.add_sorted(open.map(|(author, round, named)| {
            let mut name = Name::new();
            name.add(self.validator(*author));
            name.add(self.round(*round));
            name.add(self.round(*named));
            name.0
        }));
        name.0
    }
}

/// FNV-1a with 128 bits, a word at a time and mixed: for telling states apart, not for safety.
struct Name(u128);

impl Name {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, word: u64) {
        self.0 ^= u128::from(word);
        self.0 = self
            .0
            .wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        self.0 ^= self.0 >> 61;
    }

    fn add_wide(&mut self, word: u128) {
        self.add(word as u64);
        self.add((word >> 64) as u64);
    }

    /// A set: the order of its members says nothing.
    fn add_sorted(&mut self, words: impl Iterator<Item = u128>) {
        let mut words: Vec<u128> = words.collect();
        words.sort_unstable();
        self.add(words.len() as u64);
        for word in words {
            self.add_wide(word);
        }
    }
}
