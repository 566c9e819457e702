//! Both programs against the parser in Rust, over generated packets.

use std::net::Ipv6Addr;

use falconet_ebpf::dry::DryRun;
use falconet_ebpf::parse::parse;
use falconet_ebpf::{CAUSES, Cause, Fate, FilterConfig, Limits, Mode, Owner, Prefix};

use crate::generate::frame;
use crate::need_root;
use crate::support::{HERE, PORT};

/// Packets a program; `FALCONET_PACKETS` asks for more.
const PACKETS: usize = 20_000;
/// Packets between two readings of the counters.
const ROUND: usize = 500;

/// The kernel feeds tc programs only with frames that hold the headers they announce.
const TC_BYTES_MIN: usize = 54;

/// What the whole filter must decide, with one blocked and one allowed source.
fn expected(frame: &[u8], config: &FilterConfig, blocked: Prefix, allowed: Ipv6Addr) -> Cause {
    match parse(frame, config) {
        Err(cause) => cause,
        Ok(packet) if blocked.covers(&Prefix::new(packet.source, 128)) => Cause::Blocked,
        Ok(packet) if packet.source == allowed => Cause::Validator,
        Ok(packet) if packet.small_initial => Cause::InitialSmall,
        Ok(_) => Cause::Client,
    }
}

fn compare(config: &FilterConfig, seed: u64) {
    let packets = std::env::var("FALCONET_PACKETS").map_or(PACKETS, |n| n.parse().unwrap());
    let mut dry = DryRun::load(config).unwrap();
    let allowed: Ipv6Addr = "fd00::1".parse().unwrap();
    let blocked = Prefix::new("fd00::2".parse().unwrap(), 128);
    dry.filter().allow(allowed, Owner::Node).unwrap();
    dry.filter().block(blocked, None).unwrap();
    let mut seen = [0usize; CAUSES];
    for mode in [Mode::Native, Mode::Tc] {
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..packets / ROUND {
            let before = dry.filter().counters().unwrap();
            let mut causes = [0u64; CAUSES];
            for _ in 0..ROUND {
                let frame = frame(&mut random);
                if mode == Mode::Tc && frame.len() < TC_BYTES_MIN {
                    continue;
                }
                let cause = expected(&frame, config, blocked, allowed);
                let (fate, _) = dry.run(mode, &frame, 1).unwrap();
                assert_eq!(fate, cause.fate(), "{mode}: {cause}: {frame:02x?}");
                causes[cause.index()] += 1;
                seen[cause.index()] += 1;
            }
            let counted = dry.filter().counters().unwrap().since(&before);
            for (cause, count) in counted.iter() {
                assert_eq!(
                    count,
                    causes[cause.index()],
                    "{mode}: {cause} in round {round} of seed {seed}"
                );
            }
        }
    }
    let unseen: Vec<_> = Cause::ALL
        .iter()
        .filter(|cause| {
            let of_parser = **cause <= Cause::QuicTruncated && cause.fate() != Fate::Redirect;
            of_parser && seen[cause.index()] == 0
        })
        .collect();
    assert!(unseen.is_empty(), "never generated: {unseen:?}");
}

fn unlimited() -> FilterConfig {
    FilterConfig {
        limits: Limits::UNLIMITED,
        ..FilterConfig::new(PORT)
    }
}

#[test]
fn the_programs_decide_as_the_reference_does() {
    need_root!();
    compare(&unlimited(), 1);
}

#[test]
fn also_for_one_address_and_other_connection_ids() {
    need_root!();
    let config = FilterConfig {
        address: Some(HERE),
        cid_bytes: 20,
        ..unlimited()
    };
    compare(&config, 2);
}
