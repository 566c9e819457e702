//! Lists, budgets and samples, with packets fed by hand.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use falconet_ebpf::dry::DryRun;
use falconet_ebpf::{Allowed, Budgets, Cause, Fate, FilterConfig, Limits, Mode, Owner, Rate};

use crate::need_root;
use crate::support::{Frame, PORT, THERE, initial, short};

fn dry(limits: Limits) -> DryRun {
    let config = FilterConfig {
        limits,
        sample_every: 4,
        ..FilterConfig::new(PORT)
    };
    DryRun::load(&config).unwrap()
}

/// A budget of `burst`, of which one packet comes back each second.
fn only(burst: u64) -> Rate {
    Rate::new(1, burst)
}

/// Sends `repeat` packets, of which the burst passes and the rest is dropped as `cause`; however
/// slow the machine, what came back since `start` may pass as well.
fn limited(
    dry: &mut DryRun,
    frame: &Frame,
    repeat: u32,
    burst: u64,
    (pass, cause): (Cause, Cause),
    start: Instant,
) {
    let found = counts(dry, frame, repeat);
    let of = |cause| {
        found
            .iter()
            .find(|(c, _)| *c == cause)
            .map_or(0, |(_, n)| *n)
    };
    let back = start.elapsed().as_secs() + 1;
    assert!(of(pass) >= burst && of(pass) <= burst + back, "{found:?}");
    assert_eq!(of(pass) + of(cause), u64::from(repeat), "{found:?}");
}

fn counts(dry: &mut DryRun, frame: &Frame, repeat: u32) -> Vec<(Cause, u64)> {
    let before = dry.filter().counters().unwrap();
    dry.run(Mode::Native, &frame.bytes(), repeat).unwrap();
    let counted = dry.filter().counters().unwrap().since(&before);
    counted.iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn initials_and_other_packets_have_budgets_of_their_own() {
    need_root!();
    let mut limits = Limits::UNLIMITED;
    limits.client = Budgets {
        initials: only(3),
        packets: only(50),
    };
    let mut dry = dry(limits);
    let first = Frame::new(initial(1200));
    let later = Frame::new(short(100));
    let start = Instant::now();
    let initials = (Cause::Client, Cause::ClientInitials);
    let packets = (Cause::Client, Cause::ClientPackets);
    limited(&mut dry, &first, 1000, 3, initials, start);
    limited(&mut dry, &later, 1000, 50, packets, start);
    // A neighbour in the same /64 shares them; one in another /64 does not.
    let neighbour = later.clone().from("fd00::aaaa".parse().unwrap());
    limited(&mut dry, &neighbour, 1000, 0, packets, start);
    let stranger = later.from("fd00:0:0:1::1".parse().unwrap());
    assert_eq!(counts(&mut dry, &stranger, 50), [(Cause::Client, 50)]);
}

#[test]
fn validators_pass_when_the_clients_budgets_are_used_up() {
    need_root!();
    let mut limits = Limits::UNLIMITED;
    limits.clients = Budgets {
        initials: only(1),
        packets: only(1),
    };
    let mut dry = dry(limits);
    let validator: Ipv6Addr = "fd00:9::1".parse().unwrap();
    dry.filter().allow(validator, Owner::Node).unwrap();
    // The budget of all clients is one a core; the loop stays on one core for each run.
    for (datagram, cause) in [
        (initial(1200), Cause::ClientsInitials),
        (short(64), Cause::ClientsPackets),
    ] {
        let mut passed = 0;
        let start = Instant::now();
        for source in 0..20u16 {
            let client = Ipv6Addr::new(0xfd01, 0, 0, source, 0, 0, 0, 1);
            let frame = Frame::new(datagram.clone()).from(client);
            for (found, count) in counts(&mut dry, &frame, 100) {
                match found {
                    Cause::Client => passed += count,
                    found => assert_eq!(found, cause),
                }
            }
        }
        let cores = std::thread::available_parallelism().unwrap().get() as u64;
        let back = cores * (start.elapsed().as_secs() + 1);
        assert!(
            (1..=cores + back).contains(&passed),
            "{passed} on {cores} cores"
        );
        let frame = Frame::new(datagram).from(validator);
        assert_eq!(counts(&mut dry, &frame, 100), [(Cause::Validator, 100)]);
    }
}

#[test]
fn even_a_validators_address_has_limits() {
    need_root!();
    let mut limits = Limits::UNLIMITED;
    limits.validator = Budgets {
        initials: only(2),
        packets: only(5),
    };
    let mut dry = dry(limits);
    dry.filter().allow(THERE, Owner::Operator).unwrap();
    // A validator that we dial may answer with small Initials.
    let found = counts(&mut dry, &Frame::new(initial(300)), 4);
    assert_eq!(
        found,
        [(Cause::Validator, 2), (Cause::ValidatorInitials, 2)]
    );
    let found = counts(&mut dry, &Frame::new(short(30)), 9);
    assert_eq!(found, [(Cause::Validator, 5), (Cause::ValidatorPackets, 4)]);
}

#[test]
fn a_budget_comes_back_with_time() {
    need_root!();
    let mut limits = Limits::UNLIMITED;
    limits.client.packets = Rate::new(1_000_000, 1);
    let mut dry = dry(limits);
    let frame = Frame::new(short(30));
    let mut passed = 0;
    for _ in 0..50 {
        // Far longer than the microsecond that a packet costs.
        std::thread::sleep(Duration::from_millis(1));
        passed += usize::from(counts(&mut dry, &frame, 1) == [(Cause::Client, 1)]);
    }
    assert_eq!(passed, 50);
}

#[test]
fn a_closed_door_lets_only_the_allow_list_in() {
    need_root!();
    let mut dry = dry(Limits::default());
    let frame = Frame::new(initial(1200));
    dry.filter().set_clients(false).unwrap();
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::NotAllowed, 1)]);
    dry.filter().allow(THERE, Owner::Operator).unwrap();
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::Validator, 1)]);
    dry.filter().set_clients(true).unwrap();
    assert!(dry.filter().disallow(THERE, Owner::Operator).unwrap());
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::Client, 1)]);
}

#[test]
fn blocks_go_before_the_allow_list_and_expire() {
    need_root!();
    let mut dry = dry(Limits::default());
    let frame = Frame::new(short(64));
    let filter = dry.filter();
    filter.allow(THERE, Owner::Node).unwrap();
    filter
        .block(
            "fd00::/16".parse().unwrap(),
            Some(Duration::from_secs(3600)),
        )
        .unwrap();
    filter
        .block("fd00::/64".parse().unwrap(), Some(Duration::from_secs(60)))
        .unwrap();
    let blocked = filter.blocked().unwrap();
    assert_eq!(
        blocked.len(),
        1,
        "the longer and broader block is enough: {blocked:?}"
    );
    assert!(blocked[0].remaining.unwrap() <= Duration::from_secs(3600));
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::Blocked, 1)]);
    assert!(dry.filter().unblock("fd00::/16".parse().unwrap()).unwrap());
    assert!(!dry.filter().unblock("fd00::/16".parse().unwrap()).unwrap());
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::Validator, 1)]);
    // Time up at once: in the table, and without effect.
    dry.filter()
        .block("fd00::/64".parse().unwrap(), Some(Duration::ZERO))
        .unwrap();
    assert_eq!(dry.filter().blocked().unwrap(), []);
    assert_eq!(counts(&mut dry, &frame, 1), [(Cause::Validator, 1)]);
}

#[test]
fn each_owner_keeps_its_part_of_the_allow_list() {
    need_root!();
    let dry = dry(Limits::default());
    let filter = dry.filter();
    let [a, b, c]: [Ipv6Addr; 3] = ["fd00::a", "fd00::b", "fd00::c"].map(|a| a.parse().unwrap());
    filter.allow(a, Owner::Operator).unwrap();
    filter.allow_exactly(&[a, b], Owner::Node).unwrap();
    filter.allow_exactly(&[b, c], Owner::Node).unwrap();
    let allowed = |address, operator, node| Allowed {
        address,
        operator,
        node,
    };
    assert_eq!(
        filter.allowed().unwrap(),
        [
            allowed(a, true, false),
            allowed(b, false, true),
            allowed(c, false, true)
        ]
    );
    filter.allow_exactly(&[], Owner::Node).unwrap();
    assert_eq!(filter.allowed().unwrap(), [allowed(a, true, false)]);
}

#[test]
fn the_allow_list_is_bounded() {
    need_root!();
    let dry = dry(Limits::default());
    for i in 0..falconet_ebpf::ALLOWED_MAX as u128 {
        dry.filter()
            .allow(Ipv6Addr::from_bits(i), Owner::Operator)
            .unwrap();
    }
    let error = dry.filter().allow(THERE, Owner::Operator).unwrap_err();
    assert!(error.to_string().contains("1024"), "{error}");
}

#[test]
fn dropped_packets_are_sampled() {
    need_root!();
    let mut dry = dry(Limits::default());
    let mut frame = Frame::new(short(10));
    frame.source_port = 777;
    let bytes = frame.bytes();
    for _ in 0..8 {
        let (fate, _) = dry.run(Mode::Tc, &bytes, 1).unwrap();
        assert_eq!(fate, Fate::Drop);
    }
    let samples: Vec<_> = dry
        .filter()
        .read_samples(|samples| samples.collect())
        .unwrap();
    // The first of each core, and every fourth.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(
        samples.len() >= 2 && samples.len() <= 2 + cores,
        "{}",
        samples.len()
    );
    for sample in samples {
        assert_eq!(sample.cause, Cause::QuicShort);
        assert_eq!(sample.frame_bytes as usize, bytes.len());
        assert_eq!(sample.bytes, bytes);
    }
}
