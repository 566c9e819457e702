//! Open-loop load on a network of validators.
//!
//! One thread follows a [`Schedule`](crate::schedule::Schedule): it takes transactions from a
//! [`Supply`], sends them in frames to their home validators, and measures each from the time at
//! which it was *meant* to be sent until its receipt arrives. [`core`] holds the book-keeping
//! without clock or socket, this module the thread around it.
//!
//! What happens when a validator does not play along:
//! - *busy*: the transaction is offered again, its intended time unchanged, or dropped and counted
//!   ([`BusyPolicy`]). A validator is not offered more than it takes ([`falconet_client::Credit`]):
//!   what is due beyond that waits here, in order, or is dropped without being sent;
//! - *silence*: what it has goes to others as soon as it answers nothing for longer than its answers
//!   took of late ([`falconet_client::Patience`]);
//! - *connection lost*: everything without a receipt is sent again, by way of another validator
//!   if need be. The same bytes execute at most once, so nothing is counted twice;
//! - *no room to send*: the frame waits; its wait is part of the latency.
//!
//! And when the generator does not: transactions that are sent late, or that the supply did not
//! have in time, are counted, and the outcome says that the generator was behind.

mod core;
mod frames;
mod live;
mod outcome;

use std::io;
use std::net::SocketAddrV6;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use falconet_client::{ClientError, ClientEvent, Hub, Link, Members};
use falconet_types::genesis::Genesis;
use falconet_types::{ChainId, PublicKey};

use self::core::{Core, Settings};
pub use self::live::{LiveHandle, LiveSnapshot};
pub(crate) use self::outcome::quantile_ms;
pub use self::outcome::{Counters, INTERVALS_MAX, Interval, LoadOutcome, SurgeSeen};
use crate::schedule::Schedule;
use crate::supply::Supply;
use crate::surge::Surge;

/// Time between two looks at the schedule, when transactions are due all the time.
const TICK: Duration = Duration::from_millis(1);
/// Longest sleep, so that a wish to stop is seen.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How often the live figures are renewed.
const LIVE_INTERVAL: Duration = Duration::from_millis(200);
/// Events handled before the schedule gets its turn.
const EVENTS_PER_TURN: usize = 256;
/// Niceness of the load's threads.
const NICENESS: i32 = -5;
/// How long to wait for the first validator.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the others then.
const CONNECT_OTHERS_TIMEOUT: Duration = Duration::from_secs(3);

/// A validator to load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its STOQ address.
    pub addr: SocketAddrV6,
    /// Its key.
    pub key: PublicKey,
}

/// What to do with a transaction that a validator is too busy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusyPolicy {
    /// Offer it again when the validator takes more.
    #[default]
    Retry,
    /// Drop it, counted, and what is due while no validator takes more.
    Drop,
}

/// A load.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// The validators, in the order that [`crate::supply::SupplyTx::home`] refers to, counted on from
    /// the first where it is more than there are.
    pub targets: Vec<Target>,
    /// The chain.
    pub chain_id: ChainId,
    /// Its genesis, for the load to follow the validators from epoch to epoch; without it `targets`
    /// are loaded for ever.
    pub genesis: Option<Genesis>,
    /// Transactions a second, over all validators.
    pub rate: u64,
    /// When more than that is sent.
    pub surge: Option<Surge>,
    /// Time at the start that is not measured.
    pub warmup: Duration,
    /// Time that is measured; without one the load ends by [`Load::stop`].
    pub duration: Option<Duration>,
    /// How long to wait at the end for the last receipts.
    pub drain: Duration,
    /// What to do when a validator is busy.
    pub busy: BusyPolicy,
    /// Transactions without a final answer that are kept at most; beyond, due ones are not sent
    /// and counted as shed.
    pub in_flight_max: usize,
}

impl LoadSpec {
    /// Default of [`LoadSpec::drain`].
    pub const DRAIN: Duration = Duration::from_secs(10);
    /// Default of [`LoadSpec::warmup`].
    pub const WARMUP: Duration = Duration::from_secs(2);
    /// Default of [`LoadSpec::in_flight_max`].
    pub const IN_FLIGHT_MAX: usize = 400_000;

    /// A load with default settings that runs until it is stopped.
    #[must_use]
    pub fn new(targets: Vec<Target>, chain_id: ChainId, rate: u64) -> Self {
        Self {
            targets,
            chain_id,
            genesis: None,
            rate,
            surge: None,
            warmup: Self::WARMUP,
            duration: None,
            drain: Self::DRAIN,
            busy: BusyPolicy::default(),
            in_flight_max: Self::IN_FLIGHT_MAX,
        }
    }
}

/// Why a load cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing to load.
    #[error("the load has no validator to send to")]
    NoTargets,
    /// The client failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No validator answers.
    #[error("none of the {0} validators accepts a connection; see their logs")]
    NoConnection(usize),
    /// No thread.
    #[error("cannot start the load thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// A load that runs.
pub struct Load {
    stop: Arc<AtomicBool>,
    live: LiveHandle,
    thread: JoinHandle<Result<LoadOutcome, LoadError>>,
}

impl Load {
    /// Starts the thread of a load.
    pub fn start(spec: LoadSpec, supply: impl Supply + 'static) -> Result<Self, LoadError> {
        if spec.targets.is_empty() {
            return Err(LoadError::NoTargets);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let live = LiveHandle::default();
        let (stop_seen, live_shown) = (stop.clone(), live.clone());
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || run(&spec, supply, &stop_seen, &live_shown))
            .map_err(LoadError::Thread)?;
        Ok(Self { stop, live, thread })
    }

    /// The latest figures, for a display; usable from any thread.
    #[must_use]
    pub fn live(&self) -> LiveHandle {
        self.live.clone()
    }

    /// Ends the measured time now. The load still waits for receipts on the way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the thread is done, so that [`Load::join`] does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end.
    pub fn join(self) -> Result<LoadOutcome, LoadError> {
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn run(
    spec: &LoadSpec,
    mut supply: impl Supply,
    stop: &AtomicBool,
    live: &LiveHandle,
) -> Result<LoadOutcome, LoadError> {
    // Before the hub starts its thread, which inherits it.
    go_first();
    let mut hub = Hub::open(spec.chain_id)?;
    let targets = spec.targets.iter();
    let targets: Vec<_> = targets.map(|t| (t.addr, t.key.clone())).collect();
    let mut members = Members::dial(&mut hub, &targets, spec.genesis.as_ref())?;
    connect(&mut hub, stop)?;

    let mut core = Core::new(Settings {
        schedule: match &spec.surge {
            Some(surge) => Schedule::with_surge(spec.rate, surge),
            None => Schedule::new(spec.rate),
        },
        warmup_ns: nanos(spec.warmup),
        measured_ns: spec.duration.map(nanos),
        drain_ns: nanos(spec.drain),
        tick_ns: nanos(TICK),
        busy: spec.busy,
        in_flight_max: spec.in_flight_max,
        links: spec.targets.len(),
        surge_ns: spec.surge.map(|surge| (nanos(surge.from), nanos(surge.to))),
    });
    for link in 0..hub.links() {
        if hub.is_connected(Link(link)) {
            core.on_up(link);
        }
    }
    let start = Instant::now();
    let now_ns = || nanos(start.elapsed());
    let mut live_due = Duration::ZERO;
    loop {
        for _ in 0..EVENTS_PER_TURN {
            let Some((link, event)) = hub.poll(None)? else {
                core.look(now_ns());
                break;
            };
            follow(&mut members, &mut hub, &mut core, link, &event)?;
            handle(&mut core, now_ns(), link, event);
        }
        members.ask(&hub, Instant::now());
        if stop.load(Ordering::Relaxed) {
            core.stop(now_ns());
        }
        let now = now_ns();
        for frame in core.turn(now, &mut supply) {
            let sent = hub.submit(Link(frame.link), frame.tag, &frame.txs);
            match sent {
                Ok(()) => {}
                Err(ClientError::Overrun | ClientError::NotConnected) => {
                    core.on_unsent(now, frame.link, frame.tag);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if start.elapsed() >= live_due {
            live.publish(core.snapshot(now));
            live_due = start.elapsed() + LIVE_INTERVAL;
        }
        if core.is_finished(now) {
            live.publish(core.snapshot(now));
            return Ok(core.into_outcome(now));
        }
        let wake = Duration::from_nanos(core.next_wake_ns());
        let deadline = (start + wake).min(Instant::now() + WAIT_MAX);
        if let Some((link, event)) = hub.poll(Some(deadline))? {
            follow(&mut members, &mut hub, &mut core, link, &event)?;
            handle(&mut core, now_ns(), link, event);
        }
    }
}

/// Raises the priority of this thread where that is allowed: the schedule must hold while the
/// validators use every core. Otherwise the thread competes like any other, and the report says
/// when it was behind.
fn go_first() {
    let thread = rustix::thread::gettid();
    let _ = rustix::process::setpriority_process(Some(thread), NICENESS);
}

/// Waits until one validator is connected, and a little longer for the others.
fn connect(hub: &mut Hub, stop: &AtomicBool) -> Result<(), LoadError> {
    let mut deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut connected = 0;
    while connected < hub.links() && Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
        let wait = deadline.min(Instant::now() + WAIT_MAX);
        if let Some((_, ClientEvent::Connected)) = hub.poll(Some(wait))?
            && connected == 0
        {
            deadline = Instant::now() + CONNECT_OTHERS_TIMEOUT;
        }
        connected = (0..hub.links())
            .filter(|link| hub.is_connected(Link(*link)))
            .count();
    }
    if connected == 0 && !stop.load(Ordering::Relaxed) {
        return Err(LoadError::NoConnection(hub.links()));
    }
    Ok(())
}

/// Turns to the validators of the next epoch when the event proves it.
fn follow(
    members: &mut Members,
    hub: &mut Hub,
    core: &mut Core,
    link: Link,
    event: &ClientEvent,
) -> Result<(), ClientError> {
    if members.heard(hub, link, event)?.is_some() {
        core.on_members(members.links().iter().map(|Link(link)| *link).collect());
    }
    Ok(())
}

fn handle(core: &mut Core, now_ns: u64, Link(link): Link, event: ClientEvent) {
    match event {
        ClientEvent::Connected => core.on_up(link),
        ClientEvent::Results { tag, results } => core.on_results(now_ns, link, tag, &results),
        ClientEvent::Receipts(receipts) => {
            core.on_heard(now_ns, link);
            core.on_receipts(now_ns, &receipts);
        }
        ClientEvent::Disconnected {
            was_connected: true,
            ..
        } => core.on_down(now_ns, link),
        ClientEvent::Disconnected { .. }
        | ClientEvent::Proof { .. }
        | ClientEvent::EpochProof { .. } => {}
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
