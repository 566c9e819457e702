//! Rule Z9: when others are asked whether an epoch is over.

use falconet_types::Height;
use falconet_types::time::Now;

use crate::limits::{EPOCHS_ASK_AFTER_US, EPOCHS_ASK_INTERVAL_US, EPOCHS_ASKED, EPOCHS_HEDGE_US};
use crate::sources::{Asking, Sources};

fn at(mono_us: u64) -> Now {
    Now {
        mono_us,
        wall_ms: 0,
    }
}

#[test]
fn who_told_of_an_epoch_and_is_silent_then_costs_a_fraction_of_a_second() {
    let mut sources = Sources::default();
    for peer in 0..5u64 {
        let key = falconet_crypto::hash::hash("test", &[&peer.to_le_bytes()]);
        assert_eq!(sources.up(peer, key), None, "no member of any set");
    }
    let mut asking = Asking::new(at(0));
    assert_eq!(asking.due_us(), None, "it keeps up");
    asking.progress(at(0), Height(7), true);
    assert!(!asking.is_due(at(EPOCHS_ASK_AFTER_US - 1)));
    assert_eq!(asking.due_us(), Some(EPOCHS_ASK_AFTER_US));
    let mut now = at(EPOCHS_ASK_AFTER_US);
    for _ in 0..100 {
        // Some are asked; one of them tells of an epoch and then nothing more.
        assert!(asking.is_due(now));
        let first = asking.choose(now, &sources);
        assert_eq!(first.len(), EPOCHS_ASKED);
        assert!(!asking.is_due(at(now.mono_us + EPOCHS_HEDGE_US)), "not yet");
        asking.learned(now);
        now = at(now.mono_us + EPOCHS_HEDGE_US);
        assert_eq!(asking.due_us(), Some(now.mono_us));
        assert!(asking.is_due(now));
        let next = asking.choose(now, &sources);
        assert_ne!(first, next, "others have their turn");
        // Nobody knows of a newer one: there is time.
        assert_eq!(asking.due_us(), Some(now.mono_us + EPOCHS_ASK_INTERVAL_US));
        now = at(now.mono_us + EPOCHS_ASK_INTERVAL_US);
    }
    asking.progress(now, Height(8), true);
    assert!(!asking.is_due(now), "it got on");
}
