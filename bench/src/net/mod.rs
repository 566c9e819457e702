//! `falconet bench net`: STOQ beside other transports over loopback, in one run.
//!
//! All contenders take turns in short rounds, so that a machine that slows down slows all of them
//! down; ratios are taken round by round ([`Series::ratio`]). Sender and receiver have a core
//! each. All speak the same TLS 1.3: X25519MLKEM768, FALCON-1024 raw public keys both ways,
//! AES-128-GCM. What is compared with what and under which conditions: `docs/benchmarks.md`.

mod cases;
mod meter;
#[cfg(feature = "peers")]
mod peer;
mod place;
#[cfg(feature = "peers")]
mod quinn;
mod report;
#[cfg(feature = "peers")]
mod s2n;
mod stoq;
#[cfg(feature = "peers")]
mod tcp;

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_dataplane::{Backend, TrustedKeys};

pub use self::cases::{Case, Sample, Who, Work};
pub use self::place::Cores;
pub use self::report::{CaseReport, NetReport};
pub use self::stoq::How;

use self::meter::Meter;
use crate::environment::{Environment, NoiseMeter};

/// Rounds by default: enough for a median with quartiles.
pub const ROUNDS: usize = 7;
/// Most rounds of one run.
pub const ROUNDS_MAX: usize = crate::series::VALUES_MAX;
/// Turns that a case may take until something arrives in one.
const TURNS_MAX: usize = 3;
/// UDP payload of a packet at an Ethernet MTU of 1500: less the IPv6 and UDP headers.
pub const UDP_PAYLOAD_1500: u16 = 1500 - 48;
/// The same at an MTU of 9000.
pub const UDP_PAYLOAD_9000: u16 = 9000 - 48;

/// What to measure and for how long.
#[derive(Debug, Clone)]
pub struct NetBench {
    /// Backend of the STOQ contender that is compared with the others.
    pub backend: Backend,
    /// Rounds; each contender has its turn in each.
    pub rounds: usize,
    /// Time from the connection to the window: path MTU discovery and congestion windows settle.
    pub settle: Duration,
    /// Time that is measured, each turn.
    pub window: Duration,
    /// Only cases whose name contains this.
    pub only: Option<String>,
}

impl NetBench {
    /// The measurement whose figures are published.
    #[must_use]
    pub fn full(backend: Backend) -> Self {
        Self {
            backend,
            rounds: ROUNDS,
            settle: Duration::from_millis(400),
            window: Duration::from_millis(600),
            only: None,
        }
    }

    /// A look: fewer and shorter rounds, wide spreads.
    #[must_use]
    pub fn quick(backend: Backend) -> Self {
        Self {
            rounds: 3,
            settle: Duration::from_millis(250),
            window: Duration::from_millis(200),
            ..Self::full(backend)
        }
    }
}

/// Why the transports cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Which cores there are, or staying on one.
    #[error("cannot place a thread on a core: {0}; check the limits of this container (cpuset)")]
    Affinity(#[source] io::Error),
    /// No thread.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
    /// An endpoint could not be opened.
    #[error(transparent)]
    Bind(#[from] falconet_dataplane::BindError),
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// A contender failed.
    #[error("{who}: {what}")]
    Contender {
        /// Which.
        who: &'static str,
        /// What it said.
        what: String,
    },
    /// Nothing arrived while the window was open.
    #[error(
        "nothing arrived in the measured time; the machine is overloaded, or loopback is filtered"
    )]
    Silent,
    /// The same in every turn of a case.
    #[error(
        "{0}: nothing arrived in {TURNS_MAX} turns; the machine is overloaded, or loopback is \
         filtered"
    )]
    AlwaysSilent(String),
    /// No case is left.
    #[error("no case matches {0:?}; `--only bulk` keeps those whose name contains it")]
    NoCase(String),
    /// Too few or too many rounds.
    #[error("{0} rounds asked for; choose between 1 and {ROUNDS_MAX}")]
    Rounds(usize),
}

/// What every contender is given.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Keys of the receiver and of the sender.
    pub keys: [Arc<KeyPair>; 2],
    pub trusted: TrustedKeys,
    pub cores: Cores,
    pub work: Work,
    pub meter: Arc<Meter>,
}

impl Setup {
    fn new(cores: Cores) -> Self {
        let keys = [1, 2].map(|seed| Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[seed; 32])));
        Self {
            trusted: TrustedKeys::new(keys.iter().map(|pair| pair.public())),
            keys,
            cores,
            work: Work::Bulk { udp_payload: 0 },
            meter: Arc::default(),
        }
    }
}

/// Somewhere on loopback.
pub(crate) const ANYWHERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

/// A contender at work; its threads end when the meter says so.
pub(crate) trait Running {
    /// Waits for the threads; what they counted besides.
    fn finish(self: Box<Self>) -> Result<Extra, NetError>;
}

/// What a contender counted besides the meter.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Payload bytes copied between packet and consumer, for each payload byte.
    pub copies_per_byte: Option<f64>,
    /// The I/O backend, for people.
    pub backend: Option<String>,
}

/// Compares the transports. `progress` hears what is running and how much is done.
pub fn compare(
    bench: &NetBench,
    progress: &dyn Fn(&str, usize, usize),
) -> Result<NetReport, NetError> {
    if bench.rounds == 0 || bench.rounds > ROUNDS_MAX {
        return Err(NetError::Rounds(bench.rounds));
    }
    let cores = Cores::choose()?;
    let mut cases = cases::all(bench.backend);
    if let Some(only) = &bench.only {
        cases.retain(|case| case.name().contains(only.as_str()));
        if cases.is_empty() {
            return Err(NetError::NoCase(only.clone()));
        }
    }
    let setup = Setup::new(cores);
    let noise = NoiseMeter::start();
    let total = bench.rounds * cases.len();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); cases.len()];
    for round in 0..bench.rounds {
        for (index, case) in cases.iter().enumerate() {
            progress(&case.name(), round * cases.len() + index, total);
            samples[index].push(audible_turn(bench, case, &setup)?);
        }
    }
    let environment = Environment::detect();
    Ok(NetReport::new(
        bench,
        cores,
        &cases,
        samples,
        environment,
        noise.stop(),
    ))
}

/// A turn in which something arrived: on an overloaded machine a window can pass without.
fn audible_turn(bench: &NetBench, case: &Case, setup: &Setup) -> Result<Sample, NetError> {
    for _ in 0..TURNS_MAX {
        match turn(bench, case, setup) {
            Err(NetError::Silent) => {}
            result => return result,
        }
    }
    Err(NetError::AlwaysSilent(case.name()))
}

/// One contender at one task for one window.
fn turn(bench: &NetBench, case: &Case, setup: &Setup) -> Result<Sample, NetError> {
    let setup = Setup {
        work: case.work,
        meter: Arc::default(),
        ..setup.clone()
    };
    let running = case.who.start(&setup)?;
    std::thread::sleep(bench.settle);
    let window = setup.meter.measure(bench.window);
    setup.meter.stop();
    let extra = running.finish()?;
    Sample::new(case.work, &window?, setup.meter.round_trips(), extra)
}
