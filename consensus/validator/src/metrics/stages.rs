//! What each stage does with its time, and what waits for it.
//!
//! A thread of a stage is always in one of three states: *busy*, *waiting* for input, or
//! *back-pressured*, that is, waiting for room in the queue of the next stage. The three add up to
//! the life of the thread, so the stage that limits a validator is the one that is busy while those
//! before it are back-pressured and those after it wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, SendError, Sender, TryRecvError, TrySendError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::pipeline::{
    CORE_QUEUE_MAX, EXECUTE_QUEUE_MAX, HISTORY_QUEUE_MAX, TURN_QUEUE_MAX, VERIFY_QUEUE_MAX,
};

/// A stage of the pipeline, in the order in which data passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Sorts what the transport delivers.
    Inbound,
    /// Checks signatures.
    Verify,
    /// HotStuff and mempool.
    Core,
    /// Record, fsync, send.
    Log,
    /// The ledger.
    Execute,
    /// Reads back from disk for those who ask.
    History,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 6] = [
        Self::Inbound,
        Self::Verify,
        Self::Core,
        Self::Log,
        Self::Execute,
        Self::History,
    ];

    /// The name in metrics and views.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Verify => "verify",
            Self::Core => "core",
            Self::Log => "log",
            Self::Execute => "execute",
            Self::History => "history",
        }
    }
}

/// A queue in front of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Consensus messages in front of `verify`.
    Urgent,
    /// Submissions and batches in front of `verify`.
    Bulk,
    /// In front of `core`.
    Core,
    /// Turns in front of `log`.
    Turns,
    /// Blocks in front of `execute`.
    Blocks,
    /// Requests in front of `history`.
    History,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 6] = [
        Self::Urgent,
        Self::Bulk,
        Self::Core,
        Self::Turns,
        Self::Blocks,
        Self::History,
    ];

    /// The name in metrics and views.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Bulk => "bulk",
            Self::Core => "core",
            Self::Turns => "turns",
            Self::Blocks => "blocks",
            Self::History => "history",
        }
    }

    /// What it holds at most.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Urgent | Self::Bulk => VERIFY_QUEUE_MAX,
            Self::Core => CORE_QUEUE_MAX,
            Self::Turns => TURN_QUEUE_MAX,
            Self::Blocks => EXECUTE_QUEUE_MAX,
            Self::History => HISTORY_QUEUE_MAX,
        }
    }

    /// The stage that takes from it.
    #[must_use]
    pub const fn stage(self) -> Stage {
        match self {
            Self::Urgent | Self::Bulk => Stage::Verify,
            Self::Core => Stage::Core,
            Self::Turns => Stage::Log,
            Self::Blocks => Stage::Execute,
            Self::History => Stage::History,
        }
    }
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works.
    Busy,
    /// Nothing is there to do.
    Waiting,
    /// The next stage has no room.
    BackPressured,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Busy, Self::Waiting, Self::BackPressured];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::BackPressured => "back_pressured",
        }
    }
}

/// Clocks of all threads and depths of all queues.
#[derive(Debug, Default)]
pub struct Stages {
    /// One list a stage, in the order of [`Stage::ALL`]. Threads register at their start.
    threads: [Mutex<Vec<Arc<Spent>>>; Stage::ALL.len()],
    depths: [AtomicUsize; Queue::ALL.len()],
}

/// Where the time of one stage went, over all of its threads, since the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Name of the stage.
    pub stage: String,
    /// Its threads.
    pub threads: usize,
    /// Seconds of work.
    pub busy_s: f64,
    /// Seconds without input.
    pub waiting_s: f64,
    /// Seconds without room in the next stage's queue.
    pub back_pressured_s: f64,
}

/// What waits in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Name of the queue.
    pub queue: String,
    /// The stage that takes from it.
    pub stage: String,
    /// Entries when it was last touched.
    pub depth: usize,
    /// Entries that fit.
    pub limit: usize,
}

impl Stages {
    /// A clock for a thread of `stage`, which counts as waiting from now on.
    #[must_use]
    pub fn clock(self: &Arc<Self>, stage: Stage) -> Clock {
        let spent = Arc::new(Spent(Mutex::new(Inner {
            state: State::Waiting,
            since: Instant::now(),
            total: [Duration::ZERO; State::ALL.len()],
        })));
        self.threads[stage as usize].lock().push(Arc::clone(&spent));
        Clock {
            spent,
            stages: Arc::clone(self),
        }
    }

    /// Notes how much waits in a queue.
    pub fn depth(&self, queue: Queue, entries: usize) {
        self.depths[queue as usize].store(entries, Ordering::Relaxed);
    }

    /// Where the time of every stage went, in the order of [`Stage::ALL`].
    #[must_use]
    pub fn report(&self) -> Vec<StageStatus> {
        Stage::ALL
            .iter()
            .map(|&stage| {
                let threads = self.threads[stage as usize].lock();
                let mut total = [Duration::ZERO; State::ALL.len()];
                for thread in threads.iter() {
                    for (sum, time) in total.iter_mut().zip(thread.now()) {
                        *sum += time;
                    }
                }
                let [busy, waiting, back_pressured] = total.map(|time| time.as_secs_f64());
                StageStatus {
                    stage: stage.name().into(),
                    threads: threads.len(),
                    busy_s: busy,
                    waiting_s: waiting,
                    back_pressured_s: back_pressured,
                }
            })
            .collect()
    }

    /// What waits in every queue, in the order of [`Queue::ALL`].
    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        Queue::ALL
            .iter()
            .map(|&queue| QueueStatus {
                queue: queue.name().into(),
                stage: queue.stage().name().into(),
                depth: self.depths[queue as usize].load(Ordering::Relaxed),
                limit: queue.limit(),
            })
            .collect()
    }
}

/// Time of one thread by state. The lock is taken by its own thread twice a turn, and by whoever
/// looks; it is never held across anything.
#[derive(Debug)]
struct Spent(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    since: Instant,
    total: [Duration; State::ALL.len()],
}

impl Spent {
    fn enter(&self, state: State) {
        let mut inner = self.0.lock();
        let now = Instant::now();
        let before = inner.state as usize;
        let elapsed = now - inner.since;
        inner.total[before] += elapsed;
        inner.state = state;
        inner.since = now;
    }

    /// With the state that lasts counted up to now: a stage that hangs is seen to hang.
    fn now(&self) -> [Duration; State::ALL.len()] {
        let inner = self.0.lock();
        let mut total = inner.total;
        total[inner.state as usize] += inner.since.elapsed();
        total
    }
}

/// The clock of one thread.
#[derive(Debug)]
pub struct Clock {
    spent: Arc<Spent>,
    stages: Arc<Stages>,
}

impl Clock {
    /// Runs `wait`, which waits for input; afterwards the thread is busy.
    pub fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.spent.enter(State::Waiting);
        let got = wait();
        self.spent.enter(State::Busy);
        got
    }

    /// Receives, and counts the time until something is there as waiting.
    pub fn recv<T>(&self, from: &Receiver<T>) -> Result<T, RecvError> {
        match from.try_recv() {
            Ok(value) => Ok(value),
            Err(TryRecvError::Disconnected) => Err(RecvError),
            Err(TryRecvError::Empty) => self.waiting(|| from.recv()),
        }
    }

    /// Sends into the queue of a next stage, and counts the time until there is room as back
    /// pressure.
    pub fn send<T>(&self, queue: Queue, to: &Sender<T>, value: T) -> Result<(), SendError<T>> {
        let sent = match to.try_send(value) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(value)) => Err(SendError(value)),
            Err(TrySendError::Full(value)) => {
                self.stages.depth(queue, to.len());
                self.full(queue);
                self.spent.enter(State::BackPressured);
                let sent = to.send(value);
                self.spent.enter(State::Busy);
                sent
            }
        };
        self.stages.depth(queue, to.len());
        sent
    }

    /// Notes how much is left in a queue that this thread takes from.
    pub fn depth(&self, queue: Queue, entries: usize) {
        self.stages.depth(queue, entries);
        falconet_probes::queue_depth(queue as u64, entries as u64);
    }

    /// Tells the static probes that a queue had no room.
    pub fn full(&self, queue: Queue) {
        falconet_probes::queue_full(queue as u64, queue.limit() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_states_add_up_to_the_life_of_the_thread() {
        let stages = Arc::new(Stages::default());
        let born = Instant::now();
        let clock = stages.clock(Stage::Core);
        let (sender, receiver) = crossbeam_channel::bounded(1);
        sender.send(1).unwrap();
        clock.waiting(|| ());
        // The queue is full until the other thread takes the first entry.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while stages.queues()[Queue::Turns as usize].depth == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(receiver.recv(), Ok(1));
            });
            clock.send(Queue::Turns, &sender, 2).unwrap();
        });
        let core = &stages.report()[Stage::Core as usize];
        let life = born.elapsed().as_secs_f64();
        let sum = core.busy_s + core.waiting_s + core.back_pressured_s;
        assert_eq!((core.stage.as_str(), core.threads), ("core", 1));
        assert!(core.back_pressured_s > 0.0, "{core:?}");
        assert!(sum > 0.0 && sum <= life, "{sum} of {life}");
    }

    #[test]
    fn time_in_a_state_is_seen_while_it_lasts() {
        let stages = Arc::new(Stages::default());
        let _clock = stages.clock(Stage::Log);
        let waited = || stages.report()[Stage::Log as usize].waiting_s;
        let first = waited();
        while waited() <= first {
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_stage_and_queue_is_where_its_number_says() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
        for (i, queue) in Queue::ALL.into_iter().enumerate() {
            assert_eq!(queue as usize, i);
            assert!(queue.limit() > 0);
            // Static probes name queues by the same numbers.
            assert_eq!(falconet_probes::Queue::ALL[i].name(), queue.name());
        }
        for (i, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, i);
        }
    }
}
