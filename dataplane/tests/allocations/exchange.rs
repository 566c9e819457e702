//! A load between two endpoints over loopback, and what it costs each side.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{
    Channel, ConnId, Event, PeerTarget, StatsSnapshot, Stoq, StoqConfig, StoqHandle, TrustedKeys,
};

use crate::counting::allocations;

/// Frames that go one way before the other side asks for more.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub channel: Channel,
    pub frame_bytes: usize,
    pub frames: usize,
}

pub const BULK: Load = Load {
    channel: Channel::Bulk,
    frame_bytes: 512 << 10,
    frames: 8,
};

pub const SMALL: Load = Load {
    channel: Channel::Control,
    frame_bytes: 300,
    frames: 400,
};

/// Windows of a load before and while it is measured. Queues and buffers have grown by then.
pub const WARM_UP: usize = 150;
pub const MEASURED: usize = 300;

/// What a side has spent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub allocations: u64,
    pub datagrams: u64,
}

/// What a window cost one side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub allocations: f64,
    pub datagrams: f64,
}

impl Cost {
    pub fn of_datagram(self) -> f64 {
        self.allocations / self.datagrams
    }
}

/// Notes what each window after the warm-up costs.
struct Meter {
    windows: usize,
    last: Spent,
    costs: Vec<Spent>,
}

impl Meter {
    fn new() -> Self {
        Self {
            windows: 0,
            last: Spent::default(),
            costs: Vec::with_capacity(MEASURED),
        }
    }

    /// A window is over; the cost of the middle one when all have been measured. Not the mean:
    /// where the machine stands still packets are lost, and QUIC gathers what came too early.
    fn window(&mut self, datagrams: u64) -> Option<Cost> {
        self.windows += 1;
        let now = Spent {
            allocations: allocations(),
            datagrams,
        };
        let last = std::mem::replace(&mut self.last, now);
        if self.windows > WARM_UP && self.windows <= WARM_UP + MEASURED {
            self.costs.push(Spent {
                allocations: now.allocations - last.allocations,
                datagrams: now.datagrams - last.datagrams,
            });
        }
        if self.windows != WARM_UP + MEASURED {
            return None;
        }
        self.costs.sort_unstable_by_key(|cost| cost.allocations);
        let middle = self.costs[MEASURED / 2];
        Some(Cost {
            allocations: middle.allocations as f64,
            datagrams: middle.datagrams as f64,
        })
    }
}

const GO_ON: u8 = 17;
const FRAME: u8 = 16;

pub fn key(seed: u8) -> Arc<KeyPair> {
    Arc::new(KeyPair::from_seed(Scheme::Falcon512, &[seed; 32]))
}

/// Moves a load between two endpoints over loopback. Both consume in their network threads, where
/// the counting is done; returns the costs of the sender and of the receiver, and what the
/// receiver counted meanwhile.
pub fn exchange(load: Load) -> (Cost, Cost, StatsSnapshot) {
    let keys = [key(1), key(2)];
    let trusted = TrustedKeys::new(keys.iter().map(|pair| pair.public()));
    let config = |own: usize| {
        let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), Digest([0xc4; 32]));
        config.identity = Some(keys[own].clone());
        config.trusted = trusted.clone();
        config
    };
    let (results, result): (Sender<(bool, Cost)>, Receiver<_>) = bounded(2);
    let datagrams = |stoq: &StoqHandle| {
        let stats = stoq.stats();
        stats.datagrams_in + stats.datagrams_out
    };

    let receiver = {
        let state = Mutex::new((0, Meter::new()));
        let results = results.clone();
        Stoq::bind_with_handler(config(1), move |stoq: &StoqHandle, event: Event| {
            let Event::Frame {
                conn,
                kind,
                payload,
                ..
            } = event
            else {
                return;
            };
            assert_eq!((kind, payload.len()), (FRAME, load.frame_bytes));
            let (frames, meter) = &mut *state.lock().unwrap();
            *frames += 1;
            if *frames < load.frames {
                return;
            }
            *frames = 0;
            if let Some(cost) = meter.window(datagrams(stoq)) {
                results.send((false, cost)).unwrap();
            }
            stoq.send(conn, Channel::Control, GO_ON, Bytes::from_static(b"more"))
                .unwrap();
        })
        .unwrap()
    };
    let sender = {
        let meter = Mutex::new(Meter::new());
        let payload = Bytes::from(vec![5; load.frame_bytes]);
        let window = move |stoq: &StoqHandle, conn: ConnId| {
            for _ in 0..load.frames {
                stoq.send(conn, load.channel, FRAME, payload.clone())
                    .unwrap();
            }
        };
        Stoq::bind_with_handler(
            config(0),
            move |stoq: &StoqHandle, event: Event| match event {
                Event::Connected { conn, .. } => window(stoq, conn),
                Event::Frame { conn, kind, .. } => {
                    assert_eq!(kind, GO_ON);
                    match meter.lock().unwrap().window(datagrams(stoq)) {
                        Some(cost) => results.send((true, cost)).unwrap(),
                        None => window(stoq, conn),
                    }
                }
                _ => {}
            },
        )
        .unwrap()
    };
    sender
        .handle()
        .connect(PeerTarget {
            addr: receiver.local_addr(),
            key: keys[1].public().clone(),
            persistent: true,
        })
        .unwrap();
    let mut costs = [Cost::default(); 2];
    for _ in 0..2 {
        let (is_sender, cost) = result.recv().expect("both sides finish");
        costs[usize::from(is_sender)] = cost;
    }
    (costs[1], costs[0], receiver.handle().stats())
}
