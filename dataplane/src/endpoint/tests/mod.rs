//! The endpoint under a virtual network: real QUIC and TLS, virtual time, seeded faults.
//!
//! The fate of each packet follows from the seed. TLS draws its own randomness, so two runs of a
//! seed differ in bytes, not in what the network does.

mod datagrams;
mod endings;
mod exchange;
mod flood;
mod hostile;
mod order;
mod paths;
mod raw;
mod security;
mod twins;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use quinn_proto::Transmit;

use crate::{
    Channel, ConnId, Event, EventBudget, Limits, PathInfo, Payload, PeerTarget, SendError, Stats,
    StatsSnapshot, StoqConfig, TargetId, TrustedKeys,
    endpoint::Endpoint,
    send::{Command, DatagramSize, Registry},
};

pub(super) const CHAIN: Digest = Digest([0xc4; 32]);

/// Key pairs are slow to make; tests share them. FALCON-512, and from 4 on FALCON-1024.
pub(super) fn key(index: usize) -> Arc<KeyPair> {
    static KEYS: OnceLock<Vec<Arc<KeyPair>>> = OnceLock::new();
    KEYS.get_or_init(|| {
        (0..6)
            .map(|seed| {
                let scheme = if seed < 4 {
                    Scheme::Falcon512
                } else {
                    Scheme::Falcon1024
                };
                Arc::new(KeyPair::from_seed(scheme, &[seed + 1; 32]))
            })
            .collect()
    })[index]
        .clone()
}

/// What the network does to packets, in parts of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    /// Added to the base delay, up to.
    pub(super) jitter: Duration,
}

/// Largest datagram that the virtual network carries, bytes.
const MTU: usize = 1452;

/// One-way delay.
const DELAY: Duration = Duration::from_micros(500);

/// Something with an address.
pub(super) trait Host {
    fn datagram(&mut self, now: Instant, from: SocketAddrV6, data: BytesMut);
    fn timeout(&mut self, now: Instant);
    fn next_timeout(&mut self) -> Option<Instant>;
    fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit>;
    fn as_node(&mut self) -> Option<&mut Node> {
        None
    }
    fn as_raw(&mut self) -> Option<&mut raw::RawPeer> {
        None
    }
}

/// The network.
pub(super) struct Net {
    pub(super) now: Instant,
    start: Instant,
    pub(super) faults: Faults,
    /// One-way delay.
    pub(super) delay: Duration,
    /// Time that a datagram occupies its sender's link; the next one follows it.
    pub(super) gap: Duration,
    link_free: BTreeMap<SocketAddrV6, Instant>,
    /// Largest datagram carried, bytes.
    pub(super) mtu: usize,
    hosts: Vec<(SocketAddrV6, Box<dyn Host>)>,
    flying: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    packets: Vec<Option<(SocketAddrV6, SocketAddrV6, Vec<u8>)>>,
    rng: u64,
    /// Bytes put on the wire, by sender and destination.
    pub(super) carried: BTreeMap<(SocketAddrV6, SocketAddrV6), u64>,
    /// Destination connection identifiers seen in short headers, by sender.
    pub(super) identifiers: BTreeSet<(SocketAddrV6, [u8; 8])>,
}

impl Net {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let now = Instant::now();
        Net {
            now,
            start: now,
            faults,
            delay: DELAY,
            gap: Duration::ZERO,
            link_free: BTreeMap::new(),
            mtu: MTU,
            hosts: Vec::new(),
            flying: BinaryHeap::new(),
            packets: Vec::new(),
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            carried: BTreeMap::new(),
            identifiers: BTreeSet::new(),
        }
    }

    /// Adds a host; each gets a /64 of its own.
    pub(super) fn add(&mut self, host: impl Host + 'static) -> usize {
        let index = self.hosts.len();
        self.hosts.push((address(index), Box::new(host)));
        index
    }

    pub(super) fn node(&mut self, index: usize) -> &mut Node {
        self.hosts[index].1.as_node().expect("host is a node")
    }

    pub(super) fn raw(&mut self, index: usize) -> &mut raw::RawPeer {
        self.hosts[index].1.as_raw().expect("host is a raw peer")
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng >> 16
    }

    /// Runs until `done` or until `limit` of virtual time passed; says which.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Net) -> bool,
    ) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let packet = self.flying.peek().map(|Reverse((at, ..))| *at);
            let timer = self
                .hosts
                .iter_mut()
                .filter_map(|(_, host)| host.next_timeout())
                .min();
            let Some(next) = packet
                .into_iter()
                .chain(timer)
                .min()
                .filter(|at| *at <= end)
            else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            while let Some(Reverse((at, _, packet))) = self.flying.peek().copied()
                && at <= self.now
            {
                self.flying.pop();
                let (from, to, data) = self.packets[packet].take().expect("delivered once");
                if let Some((_, host)) = self.hosts.iter_mut().find(|(addr, _)| *addr == to) {
                    host.datagram(self.now, from, BytesMut::from(&data[..]));
                }
            }
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets every host act on what it has.
    fn settle(&mut self) {
        let now = self.now;
        for index in 0..self.hosts.len() {
            let from = self.hosts[index].0;
            self.hosts[index].1.timeout(now);
            let mut buf = Vec::new();
            loop {
                buf.clear();
                let Some(transmit) = self.hosts[index].1.transmit(now, &mut buf) else {
                    break;
                };
                let SocketAddr::V6(to) = transmit.destination else {
                    panic!("IPv4 destination");
                };
                let segment = transmit.segment_size.unwrap_or(transmit.size);
                for datagram in buf[..transmit.size].chunks(segment) {
                    self.carry(from, to, datagram);
                }
            }
        }
    }

    /// Puts one datagram on the wire; also for tests that forge them.
    pub(super) fn carry(&mut self, from: SocketAddrV6, to: SocketAddrV6, data: &[u8]) {
        *self.carried.entry((from, to)).or_default() += data.len() as u64;
        if let [first, identifier @ ..] = data
            && first & 0x80 == 0
            && let Some(identifier) = identifier.first_chunk()
        {
            self.identifiers.insert((from, *identifier));
        }
        if data.len() > self.mtu || self.random() % 1000 < self.faults.lost {
            return;
        }
        let free = self.link_free.entry(from).or_insert(self.now);
        *free = self.now.max(*free) + self.gap;
        let start = *free;
        let copies = 1 + usize::from(self.random() % 1000 < self.faults.duplicated);
        for _ in 0..copies {
            let mut data = data.to_vec();
            if self.random() % 1000 < self.faults.corrupted {
                let at = self.random() as usize % data.len();
                data[at] ^= 1 << (self.random() % 8);
            }
            let jitter_us = self.faults.jitter.as_micros() as u64;
            let jitter = Duration::from_micros(self.random() % (jitter_us + 1));
            let id = self.packets.len();
            self.packets.push(Some((from, to, data)));
            self.flying
                .push(Reverse((start + self.delay + jitter, id as u64, id)));
        }
    }
}

pub(super) fn address(index: usize) -> SocketAddrV6 {
    let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, index as u16, 0, 0, 0, 1);
    SocketAddrV6::new(ip, 4433, 0, 0)
}

/// An honest endpoint.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) events: Vec<Event>,
    registry: Arc<Registry>,
    stats: Arc<Stats>,
    pub(super) budget: Arc<EventBudget>,
    limits: Limits,
    trusted: TrustedKeys,
    next_target: u64,
    /// Whether events are collected; otherwise they stay in the endpoint.
    pub(super) consumes: bool,
}

/// Configuration of a node: its key, and the keys that it trusts.
pub(super) fn config(identity: Option<usize>, trusted: &[usize]) -> StoqConfig {
    let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), CHAIN);
    config.identity = identity.map(key);
    let trusted: Vec<Arc<KeyPair>> = trusted.iter().map(|index| key(*index)).collect();
    config
        .trusted
        .replace(trusted.iter().map(|pair| pair.public()));
    config
}

impl Node {
    pub(super) fn new(config: StoqConfig, seed: u8) -> Self {
        let (stats, registry) = (Arc::new(Stats::default()), Arc::new(Registry::default()));
        let budget = EventBudget::new(
            config.limits.event_frames_max,
            config.limits.event_bytes_max,
        );
        let endpoint = Endpoint::new(
            &config,
            stats.clone(),
            budget.clone(),
            registry.clone(),
            Some([seed; 32]),
        )
        .expect("a valid configuration");
        Node {
            endpoint,
            events: Vec::new(),
            registry,
            stats,
            budget,
            limits: config.limits,
            trusted: config.trusted,
            next_target: 1,
            consumes: true,
        }
    }

    pub(super) fn dial(&mut self, now: Instant, to: usize, key_index: usize, persistent: bool) {
        let id = TargetId(self.next_target);
        self.next_target += 1;
        let target = PeerTarget {
            addr: address(to),
            key: key(key_index).public().clone(),
            persistent,
        };
        self.endpoint
            .handle_command(now, Command::Connect { id, target });
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        conn: ConnId,
        channel: Channel,
        kind: u8,
        payload: impl Into<Payload>,
    ) -> Result<(), SendError> {
        let payload = payload.into();
        self.registry
            .take(conn, channel, kind, payload.len(), &self.limits)?;
        let command = Command::Send {
            conn,
            channel,
            kind,
            payload,
        };
        self.endpoint.handle_command(now, command);
        Ok(())
    }

    /// Queues one datagram of encoded messages.
    pub(super) fn send_datagram(
        &mut self,
        now: Instant,
        conn: ConnId,
        messages: &[u8],
    ) -> Result<(), SendError> {
        let budget = self.registry.get(conn)?;
        budget.take_datagram(messages.len(), self.limits.datagram_queue_bytes_max)?;
        let messages = Bytes::copy_from_slice(messages);
        self.command(now, Command::Datagram { conn, messages });
        Ok(())
    }

    /// What the connection says about datagrams.
    pub(super) fn datagram_size(&self, conn: ConnId) -> DatagramSize {
        self.registry.get(conn).expect("open").datagram_size()
    }

    /// What is known of a connection's path.
    pub(super) fn path(&self, conn: ConnId) -> PathInfo {
        let budget = self.registry.get(conn).expect("open");
        budget.path().expect("known from the start")
    }

    pub(super) fn command(&mut self, now: Instant, command: Command) {
        self.endpoint.handle_command(now, command);
    }

    pub(super) fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    pub(super) fn trusted(&self) -> TrustedKeys {
        self.trusted.clone()
    }

    /// Established connections that have not ended.
    pub(super) fn open(&self) -> Vec<ConnId> {
        let mut open = Vec::new();
        for event in &self.events {
            match event {
                Event::Connected { conn, .. } => open.push(*conn),
                Event::Closed { conn, .. } => open.retain(|other| other != conn),
                _ => {}
            }
        }
        open
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = (ConnId, Channel, u8, &[u8])> {
        self.events.iter().filter_map(|event| match event {
            Event::Frame {
                conn,
                channel,
                kind,
                payload,
                ..
            } => Some((*conn, *channel, *kind, &payload[..])),
            _ => None,
        })
    }
}

impl Host for Node {
    fn datagram(&mut self, now: Instant, from: SocketAddrV6, data: BytesMut) {
        self.endpoint.handle_datagram(now, from, None, None, data);
    }

    fn timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.endpoint.advance(now);
        while self.consumes
            && let Some(event) = self.endpoint.poll_event()
        {
            self.events.push(event);
        }
    }

    fn next_timeout(&mut self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.endpoint.poll_transmit(now, buf)
    }

    fn as_node(&mut self) -> Option<&mut Node> {
        Some(self)
    }
}
