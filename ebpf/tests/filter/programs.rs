//! Attaching, and each verdict.

use std::time::Duration;

use falconet_ebpf::{Attach, Filter, FilterConfig, Mode};

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
