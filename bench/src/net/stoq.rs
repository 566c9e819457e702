//! STOQ: an endpoint a side with its network thread. What arrives is consumed by a handler in the
//! network thread, as quinn's and s2n-quic's applications run on the thread of their endpoint; who
//! floods is a thread of its own beside the network thread, on the same core.
//!
//! Messages are frames on Bulk, which do not wait for each other's retransmission beyond the
//! stream that small ones share; datagrams hold as many messages as fit.

use std::net::SocketAddrV6;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use falconet_dataplane::{
    Backend, Channel, ConnId, Event, KIND_APPLICATION_MIN, PathPolicy, PeerTarget, SendError, Spin,
    Stoq, StoqConfig, StoqHandle,
};

use super::meter::{Meter, RoundTrips};
use super::{ANYWHERE, Extra, NetError, Running, Setup, Work, place};

const WHO: &str = "STOQ";
const KIND: u8 = KIND_APPLICATION_MIN;
/// How often a waiting application thread looks for the end of the run.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// What a sender does when its queue is full.
const FULL_PAUSE: Duration = Duration::from_micros(50);
/// Bytes of datagram messages that the application hands over at a time: about two bursts. quinn's
/// application queues up to 8 MB before its endpoint has its turn.
const DATAGRAM_BYTES_AT_ONCE: usize = 128 << 10;

type Thread<T> = JoinHandle<Result<T, NetError>>;

struct Ours {
    server: Thread<Extra>,
    client: Thread<()>,
}

impl Running for Ours {
    fn finish(self: Box<Self>) -> Result<Extra, NetError> {
        place::join(self.client)?;
        place::join(self.server)
    }
}

/// Settings that a case varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// Its I/O backend.
    pub backend: Backend,
    /// How it treats paths.
    pub paths: PathPolicy,
    /// Whether large frames are copied together for the consumer.
    pub gathered: bool,
}

pub(super) fn start(setup: &Setup, how: How) -> Result<Box<dyn Running>, NetError> {
    let (addr_in, addr) = crossbeam_channel::bounded(1);
    let (ready_in, ready) = crossbeam_channel::bounded(1);
    let own = setup.clone();
    let server = place::spawn(setup.cores.receiver, "stoq-server", move || {
        serve(&own, how, &addr_in)
    })?;
    let Ok(addr) = addr.recv() else {
        place::join(server)?;
        return Err(failed("the server ended"));
    };
    let own = setup.clone();
    let client = place::spawn(setup.cores.sender, "stoq-client", move || {
        request(&own, how, addr, &ready_in)
    })?;
    if ready.recv().is_err() {
        setup.meter.stop();
        place::join(client)?;
        place::join(server)?;
        return Err(failed("no connection"));
    }
    Ok(Box::new(Ours { server, client }))
}

fn config(setup: &Setup, how: How, own: usize) -> StoqConfig {
    let mut config = StoqConfig::new(ANYWHERE, falconet_crypto::hash::hash("bench-net", &[]));
    config.identity = Some(Arc::clone(&setup.keys[own]));
    config.trusted = setup.trusted.clone();
    config.datagrams = true;
    config.io.backend = how.backend;
    config.io.paths = how.paths;
    config.bulk_in_pieces = !how.gathered;
    config.io.mtu_max_loopback = setup.work.udp_payload();
    if setup.work == (Work::RoundTrip { spin: true }) {
        config.io.spin = Spin::Always;
    }
    config
}

/// The receiver until the end of the run. Network threads are started by this thread and stay on
/// its core.
fn serve(setup: &Setup, how: How, addr: &Sender<SocketAddrV6>) -> Result<Extra, NetError> {
    let config = config(setup, how, 0);
    let stoq = if let Work::RoundTrip { .. } = setup.work {
        Stoq::bind_with_handler(config, echo)?
    } else {
        let meter = setup.meter.clone();
        Stoq::bind_with_handler(config, move |_: &StoqHandle, event| count(&meter, event))?
    };
    let _ = addr.send(stoq.local_addr());
    wait(&setup.meter);
    let extra = Extra {
        copies_per_byte: stoq.handle().stats().copies_per_byte(),
        backend: Some(stoq.backend().to_owned()),
    };
    stoq.shutdown();
    Ok(extra)
}

/// Sends back what arrives. A full queue or a closed connection ends the conversation, and the
/// measurement notices the silence.
fn echo(stoq: &StoqHandle, event: Event) {
    if let Event::Frame {
        conn,
        channel,
        payload,
        ..
    } = event
    {
        let _ = stoq.send(conn, channel, KIND, payload);
    }
}

/// Counts what arrives.
fn count(meter: &Meter, event: Event) {
    match event {
        Event::Frame { payload, .. } => meter.arrived(1, payload.len() as u64),
        Event::FramePieces { pieces, .. } => {
            meter.arrived(1, pieces.iter().map(|piece| piece.len() as u64).sum());
        }
        Event::Datagram { messages, .. } => {
            meter.arrived(messages.count() as u64, messages.payload_bytes() as u64);
        }
        _ => {}
    }
}

/// The next event; nothing when the run is over.
fn next(meter: &Meter, events: &Receiver<Event>) -> Result<Option<Event>, NetError> {
    loop {
        match events.recv_timeout(STOP_INTERVAL) {
            Ok(event) => return Ok(Some(event)),
            Err(RecvTimeoutError::Disconnected) => return Err(failed("the endpoint ended")),
            Err(RecvTimeoutError::Timeout) if meter.is_stopped() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn wait(meter: &Meter) {
    while !meter.is_stopped() {
        std::thread::sleep(STOP_INTERVAL);
    }
}

/// The sender until the end of the run.
fn request(
    setup: &Setup,
    how: How,
    addr: SocketAddrV6,
    ready: &Sender<()>,
) -> Result<(), NetError> {
    let config = config(setup, how, 1);
    let target = PeerTarget {
        addr,
        key: setup.keys[0].public().clone(),
        persistent: false,
    };
    if let Work::RoundTrip { .. } = setup.work {
        // The handler alone owns the round trips, so they are handed in when the endpoint goes.
        let trips = RoundTrips::new(setup.meter.clone());
        let shared = Mutex::new((trips, Instant::now()));
        let payload = Bytes::from(vec![7; setup.work.message_bytes()]);
        let ready = ready.clone();
        let handler = move |stoq: &StoqHandle, event: Event| {
            let conn = match event {
                Event::Connected { conn, .. } => {
                    let _ = ready.try_send(());
                    conn
                }
                Event::Frame { conn, payload, .. } => {
                    let (trips, sent) = &mut *shared.lock().expect("never poisoned");
                    trips.record(*sent, payload.len());
                    conn
                }
                _ => return,
            };
            shared.lock().expect("never poisoned").1 = Instant::now();
            let _ = stoq.send(conn, Channel::Control, KIND, payload.clone());
        };
        let stoq = Stoq::bind_with_handler(config, handler)?;
        stoq.handle().connect(target).map_err(failed)?;
        wait(&setup.meter);
        stoq.shutdown();
        return Ok(());
    }
    let (stoq, events) = Stoq::bind(config)?;
    let handle = stoq.handle();
    handle.connect(target).map_err(failed)?;
    let conn = match next(&setup.meter, &events)? {
        Some(Event::Connected { conn, .. }) => conn,
        other => return Err(failed(format!("not connected: {other:?}"))),
    };
    let _ = ready.send(());
    flood(setup, &handle, conn)?;
    stoq.shutdown();
    Ok(())
}

fn flood(setup: &Setup, handle: &StoqHandle, conn: ConnId) -> Result<(), NetError> {
    let payload = Bytes::from(vec![7; setup.work.message_bytes()]);
    while !setup.meter.is_stopped() {
        let sent = if let Work::Datagrams { .. } = setup.work {
            let count = DATAGRAM_BYTES_AT_ONCE / payload.len();
            let messages = std::iter::repeat_n((KIND, &payload), count);
            handle.send_datagrams(conn, messages).map(|_| ())
        } else {
            handle.send(conn, Channel::Bulk, KIND, payload.clone())
        };
        match sent {
            Ok(()) => {}
            Err(SendError::Full) => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn failed(what: impl std::fmt::Display) -> NetError {
    NetError::Contender {
        who: WHO,
        what: what.to_string(),
    }
}
