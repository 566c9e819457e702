//! Attaching, and each verdict.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use falconet_ebpf::live::Generator;
use falconet_ebpf::{
    Attach, Filter, FilterConfig, FilterError, Mode, PlainVerdict, PlainXdp, Steer,
};

use crate::need_root;
use crate::support::PORT;

#[test]
fn the_verifier_accepts_both_programs() {
    need_root!();
    for (how, mode) in [(Attach::Auto, Mode::Tc), (Attach::Generic, Mode::Generic)] {
        let filter = Filter::attach("lo", &FilterConfig::new(PORT), how, None).unwrap();
        assert_eq!(filter.attachment().mode, mode);
        assert!(filter.status().unwrap().alive);
        filter
            .block(
                "2001:db8::/32".parse().unwrap(),
                Some(Duration::from_secs(1)),
            )
            .unwrap();
        filter.counters().unwrap();
        filter.detach().unwrap();
    }
}

#[test]
fn the_verifier_accepts_the_programs_beside_the_filter() {
    need_root!();
    for verdict in [PlainVerdict::Pass, PlainVerdict::Drop] {
        // Loopback has no XDP in its driver: what is refused is the attaching, not the program.
        let refused = PlainXdp::attach("lo", verdict).unwrap_err();
        assert!(matches!(refused, FilterError::Attach { .. }), "{refused}");
    }
    let endpoint = SocketAddrV6::new(Ipv6Addr::LOCALHOST, PORT, 0, 0);
    let modes = [Mode::Native, Mode::Generic];
    let (steer, tried) = Steer::attach("lo", 1, &endpoint, 1792, &modes).unwrap();
    assert_eq!(steer.mode(), Mode::Generic);
    assert_eq!(tried.len(), 1);
    Generator::new("lo").unwrap();
    Generator::forging("lo").unwrap();
}
