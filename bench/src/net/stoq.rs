//! STOQ: an endpoint a side with its network thread, and one thread of the application beside
//! each, on the same core.
//!
//! Messages are frames on Bulk, which do not wait for each other's retransmission beyond the
//! stream that small ones share; datagrams hold as many messages as fit.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use falconet_dataplane::{
    Backend, Channel, ConnId, Event, KIND_APPLICATION_MIN, PeerTarget, SendError, Spin, Stoq,
    StoqConfig, StoqHandle,
};

use super::meter::RoundTrips;
use super::{ANYWHERE, Extra, NetError, Running, Setup, Work, place};

const WHO: &str = "STOQ";
const KIND: u8 = KIND_APPLICATION_MIN;
/// How often a waiting application thread looks for the end of the run.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// What a sender does when its queue is full.
const FULL_PAUSE: Duration = Duration::from_micros(50);
/// Datagram messages that the application hands over at a time.
const DATAGRAMS_AT_ONCE: usize = 64;

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

pub(super) fn start(setup: &Setup, backend: Backend) -> Result<Box<dyn Running>, NetError> {
    let (addr_in, addr) = crossbeam_channel::bounded(1);
    let (ready_in, ready) = crossbeam_channel::bounded(1);
    let own = setup.clone();
    let server = place::spawn(setup.cores.receiver, "stoq-server", move || {
        let (stoq, events) = bind(&own, backend, 0)?;
        let _ = addr_in.send(stoq.local_addr());
        let served =
            connected(&own, &events).and_then(|conn| serve(&own, &stoq.handle(), conn, &events));
        let stats = stoq.handle().stats();
        let copies = stats.payload_bytes_copied as f64 / stats.payload_bytes_delivered as f64;
        let extra = Extra {
            copies_per_byte: copies.is_finite().then_some(copies),
            backend: Some(stoq.backend().to_owned()),
        };
        stoq.shutdown();
        served.map(|()| extra)
    })?;
    let Ok(addr) = addr.recv() else {
        place::join(server)?;
        return Err(failed("the server ended"));
    };
    let own = setup.clone();
    let client = place::spawn(setup.cores.sender, "stoq-client", move || {
        let (stoq, events) = bind(&own, backend, 1)?;
        let handle = stoq.handle();
        handle
            .connect(PeerTarget {
                addr,
                key: own.keys[0].public().clone(),
                persistent: false,
            })
            .map_err(failed)?;
        let requested = connected(&own, &events).and_then(|conn| {
            let _ = ready_in.send(());
            request(&own, &handle, conn, &events)
        });
        stoq.shutdown();
        requested
    })?;
    if ready.recv().is_err() {
        setup.meter.stop();
        place::join(client)?;
        place::join(server)?;
        return Err(failed("no connection"));
    }
    Ok(Box::new(Ours { server, client }))
}

/// The network thread is started by the caller's thread and stays on its core.
fn bind(setup: &Setup, backend: Backend, own: usize) -> Result<(Stoq, Receiver<Event>), NetError> {
    let mut config = StoqConfig::new(ANYWHERE, falconet_crypto::hash::hash("bench-net", &[]));
    config.identity = Some(Arc::clone(&setup.keys[own]));
    config.trusted = setup.trusted.clone();
    config.datagrams = true;
    config.io.backend = backend;
    config.io.mtu_max_loopback = setup.work.udp_payload();
    if setup.work == (Work::RoundTrip { spin: true }) {
        config.io.spin = Spin::Always;
    }
    Ok(Stoq::bind(config)?)
}

/// The next event; nothing when the run is over.
fn next(setup: &Setup, events: &Receiver<Event>) -> Result<Option<Event>, NetError> {
    let spin = setup.work == (Work::RoundTrip { spin: true });
    loop {
        if spin {
            match events.try_recv() {
                Ok(event) => return Ok(Some(event)),
                Err(TryRecvError::Disconnected) => return Err(failed("the endpoint ended")),
                // It shares the core with its network thread, which spins as well.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        } else {
            match events.recv_timeout(STOP_INTERVAL) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Disconnected) => return Err(failed("the endpoint ended")),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if setup.meter.is_stopped() {
            return Ok(None);
        }
    }
}

fn connected(setup: &Setup, events: &Receiver<Event>) -> Result<ConnId, NetError> {
    match next(setup, events)? {
        Some(Event::Connected { conn, .. }) => Ok(conn),
        other => Err(failed(format!("not connected: {other:?}"))),
    }
}

fn serve(
    setup: &Setup,
    handle: &StoqHandle,
    conn: ConnId,
    events: &Receiver<Event>,
) -> Result<(), NetError> {
    let meter = &setup.meter;
    let echo = matches!(setup.work, Work::RoundTrip { .. });
    while let Some(event) = next(setup, events)? {
        match event {
            Event::Frame {
                channel, payload, ..
            } if echo => handle.send(conn, channel, KIND, payload).map_err(failed)?,
            Event::Frame { payload, .. } => meter.arrived(1, payload.len() as u64),
            Event::Datagram { messages, .. } => {
                let bytes: usize = messages.iter().map(|(_, payload)| payload.len()).sum();
                meter.arrived(messages.count() as u64, bytes as u64);
            }
            Event::Closed { .. } => break,
            other => return Err(failed(format!("unexpected: {other:?}"))),
        }
    }
    Ok(())
}

fn request(
    setup: &Setup,
    handle: &StoqHandle,
    conn: ConnId,
    events: &Receiver<Event>,
) -> Result<(), NetError> {
    let payload = Bytes::from(vec![7; setup.work.message_bytes()]);
    if let Work::RoundTrip { .. } = setup.work {
        return round_trips(setup, handle, conn, events, &payload);
    }
    while !setup.meter.is_stopped() {
        let sent = if let Work::Datagrams { .. } = setup.work {
            let messages = std::iter::repeat_n((KIND, &payload), DATAGRAMS_AT_ONCE);
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

fn round_trips(
    setup: &Setup,
    handle: &StoqHandle,
    conn: ConnId,
    events: &Receiver<Event>,
    payload: &Bytes,
) -> Result<(), NetError> {
    let mut trips = RoundTrips::new();
    while !setup.meter.is_stopped() {
        let sent = Instant::now();
        handle
            .send(conn, Channel::Control, KIND, payload.clone())
            .map_err(failed)?;
        match next(setup, events)? {
            Some(Event::Frame { payload, .. }) => trips.record(&setup.meter, sent, payload.len()),
            None => break,
            Some(other) => return Err(failed(format!("unexpected: {other:?}"))),
        }
    }
    setup.meter.hand_in(trips);
    Ok(())
}

fn failed(what: impl std::fmt::Display) -> NetError {
    NetError::Contender {
        who: WHO,
        what: what.to_string(),
    }
}
