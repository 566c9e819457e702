//! Transactions that wait to be sealed, and the ids of those admitted lately.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use falconet_types::batch::TX_PREFIX_LEN;
use falconet_types::hashing::DigestState;
use falconet_types::{AccountId, TxId};

use crate::limits::{PENDING_TXS_MAX, RECENT_IDS_MAX};

const _: () = assert!(
    PENDING_TXS_MAX < RECENT_IDS_MAX,
    "a pending id must not be forgotten"
);

/// Bytes that a transaction takes in a batch.
pub(crate) fn size(tx: &Bytes) -> u64 {
    (TX_PREFIX_LEN + tx.len()) as u64
}

/// A transaction that waits to be sealed.
pub(crate) struct Waiting {
    pub(crate) id: TxId,
    pub(crate) bytes: Bytes,
    pub(crate) sender: Option<AccountId>,
    /// `None` for one that was accepted in an earlier epoch: nobody waits for a word.
    pub(crate) ticket: Option<u64>,
}

impl Waiting {
    pub(crate) fn accepted(bytes: Bytes) -> Self {
        Self {
            id: TxId::ZERO,
            bytes,
            sender: None,
            ticket: None,
        }
    }
}

/// What waits to be sealed: by priority, then by arrival. Most chains see few different fees, so
/// there are few queues, and to put a transaction at the end of one costs nothing.
#[derive(Default)]
pub(crate) struct Pending {
    /// None of them is empty.
    queues: BTreeMap<Reverse<u64>, VecDeque<Waiting>>,
    count: usize,
    /// Payload bytes, length prefixes included.
    bytes: u64,
    /// Waiting transactions of each sender. Looked up, never iterated.
    senders: HashMap<AccountId, u32, DigestState>,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waiting transactions of a sender.
    pub(crate) fn of(&self, sender: &AccountId) -> u32 {
        self.senders.get(sender).copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, priority: u64, tx: Waiting) {
        self.bytes += size(&tx.bytes);
        self.count += 1;
        if let Some(sender) = tx.sender {
            *self.senders.entry(sender).or_default() += 1;
        }
        self.queues
            .entry(Reverse(priority))
            .or_default()
            .push_back(tx);
    }

    /// The one to be sealed next.
    pub(crate) fn highest(&self) -> Option<&Waiting> {
        let (_, queue) = self.queues.first_key_value()?;
        queue.front()
    }

    pub(crate) fn pop_highest(&mut self) -> Option<Waiting> {
        let mut queue = self.queues.first_entry()?;
        let tx = queue.get_mut().pop_front().expect("no queue is empty");
        if queue.get().is_empty() {
            queue.remove();
        }
        self.gone(&tx);
        Some(tx)
    }

    /// The newest of the lowest priority: whoever waited longer stays.
    pub(crate) fn pop_lowest(&mut self) -> Option<Waiting> {
        let mut queue = self.queues.last_entry()?;
        let tx = queue.get_mut().pop_back().expect("no queue is empty");
        if queue.get().is_empty() {
            queue.remove();
        }
        self.gone(&tx);
        Some(tx)
    }

    /// The lowest priority that waits.
    pub(crate) fn lowest_priority(&self) -> Option<u64> {
        let (Reverse(priority), _) = self.queues.last_key_value()?;
        Some(*priority)
    }

    /// Bytes of those of lower priority than `priority`, in the order of [`Self::pop_lowest`].
    pub(crate) fn sizes_below(&self, priority: u64) -> impl Iterator<Item = u64> {
        let lower = self.queues.iter().rev();
        lower
            .take_while(move |(Reverse(other), _)| *other < priority)
            .flat_map(|(_, queue)| queue.iter().rev())
            .map(|tx| size(&tx.bytes))
    }

    /// Everything, in the order in which it would be sealed.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = (u64, Waiting)> {
        self.queues
            .into_iter()
            .flat_map(|(Reverse(priority), queue)| queue.into_iter().map(move |tx| (priority, tx)))
    }

    fn gone(&mut self, tx: &Waiting) {
        self.bytes -= size(&tx.bytes);
        self.count -= 1;
        if let Some(sender) = tx.sender
            && let Some(count) = self.senders.get_mut(&sender)
        {
            *count -= 1;
            if *count == 0 {
                self.senders.remove(&sender);
            }
        }
    }
}

/// The ids of the last [`RECENT_IDS_MAX`] admitted transactions: those pending and those sealed
/// recently. Older duplicates are caught by the replay window of execution. The set is only
/// looked up, never iterated, so its order cannot influence anything.
pub(crate) struct RecentIds {
    /// Each insertion with its number. Those of ids that were forgotten since stay until they are
    /// the oldest, so that memory is bounded by the length alone.
    order: VecDeque<(u64, TxId)>,
    /// The number of the insertion by which an id is here.
    by_id: HashMap<TxId, u64, DigestState>,
    insertions: u64,
}

impl RecentIds {
    pub(crate) fn new() -> Self {
        Self {
            order: VecDeque::new(),
            by_id: HashMap::default(),
            insertions: 0,
        }
    }

    pub(crate) fn contains(&self, id: &TxId) -> bool {
        self.by_id.contains_key(id)
    }

    /// An id that may be admitted again.
    pub(crate) fn forget(&mut self, id: &TxId) {
        self.by_id.remove(id);
    }

    pub(crate) fn insert(&mut self, id: TxId) {
        if self.contains(&id) {
            return;
        }
        if self.order.len() == RECENT_IDS_MAX {
            let (number, oldest) = self.order.pop_front().expect("it is full");
            // It may have been forgotten, and inserted again, since: then it is not the oldest.
            if self.by_id.get(&oldest) == Some(&number) {
                self.by_id.remove(&oldest);
            }
        }
        self.insertions += 1;
        self.by_id.insert(id, self.insertions);
        self.order.push_back((self.insertions, id));
    }
}

#[cfg(test)]
mod tests {
    use falconet_types::Digest;

    use super::*;

    fn id(i: usize) -> TxId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
        Digest(bytes)
    }

    #[test]
    fn the_oldest_id_is_forgotten_first_and_memory_is_bounded() {
        let mut recent = RecentIds::new();
        for i in 0..RECENT_IDS_MAX + 10 {
            recent.insert(id(i));
        }
        assert_eq!(
            (recent.order.len(), recent.by_id.len()),
            (RECENT_IDS_MAX, RECENT_IDS_MAX)
        );
        assert!(!recent.contains(&id(9)));
        assert!(recent.contains(&id(10)) && recent.contains(&id(RECENT_IDS_MAX + 9)));
    }

    #[test]
    fn an_id_that_came_back_is_as_young_as_its_last_insertion() {
        let mut recent = RecentIds::new();
        recent.insert(id(0));
        recent.forget(&id(0));
        for i in 1..RECENT_IDS_MAX {
            recent.insert(id(i));
        }
        recent.insert(id(0));
        // Its first place is the oldest by now, and goes; id 1 and those after it follow.
        assert!(recent.contains(&id(0)) && recent.contains(&id(1)));
        recent.insert(id(RECENT_IDS_MAX));
        assert!(recent.contains(&id(0)) && !recent.contains(&id(1)));
        for i in 0..2 * RECENT_IDS_MAX {
            recent.forget(&id(0));
            recent.insert(id(0));
            assert!(recent.order.len() <= RECENT_IDS_MAX, "after {i}");
        }
    }

    #[test]
    fn queues_go_by_priority_then_arrival_and_counts_follow() {
        let mut pending = Pending::default();
        let tx = |name: u8, sender: u8| Waiting {
            id: TxId::ZERO,
            bytes: Bytes::from(vec![name; 98]),
            sender: Some(Digest([sender; 32])),
            ticket: None,
        };
        for (priority, name, sender) in [(5, 1, 1), (9, 2, 1), (5, 3, 2), (1, 4, 1)] {
            pending.push(priority, tx(name, sender));
        }
        assert_eq!((pending.len(), pending.bytes()), (4, 400));
        assert_eq!(pending.of(&Digest([1; 32])), 3);
        assert_eq!(pending.lowest_priority(), Some(1));
        assert_eq!(pending.sizes_below(5).count(), 1);
        assert_eq!(pending.sizes_below(6).count(), 3);
        let name = |tx: Option<Waiting>| tx.expect("not empty").bytes[0];
        assert_eq!(name(pending.pop_lowest()), 4);
        assert_eq!(name(pending.pop_lowest()), 3, "the newest of the lowest");
        assert_eq!(pending.highest().expect("two left").bytes[0], 2);
        let left: Vec<_> = pending
            .into_iter()
            .map(|(p, tx)| (p, tx.bytes[0]))
            .collect();
        assert_eq!(left, [(9, 2), (5, 1)]);
    }
}
