//! How many receive windows the kernel is given: few while few are used, since windows used again and
//! again stay in the processor's cache; all of them when much comes at a time.

use super::provided::RECEIVE_SLOTS;

/// Fewest windows in the kernel's hands.
const WANTED_MIN: usize = 4;

/// Looks that found little before fewer windows are wanted.
const QUIET_LOOKS: u32 = 64;

/// Windows wanted and given.
pub(super) struct Demand {
    pub(super) wanted: usize,
    /// In the kernel's hands now.
    pub(super) provided: usize,
    quiet_looks: u32,
}

impl Default for Demand {
    fn default() -> Self {
        Demand {
            wanted: WANTED_MIN,
            provided: 0,
            quiet_looks: 0,
        }
    }
}

impl Demand {
    /// A look found so many receptions.
    pub(super) fn taken(&mut self, receptions: usize) {
        if 2 * receptions >= self.wanted {
            self.wanted = (2 * self.wanted).min(RECEIVE_SLOTS.into());
            self.quiet_looks = 0;
        } else if receptions > 0 && 8 * receptions <= self.wanted {
            self.quiet_looks += 1;
            if self.quiet_looks >= QUIET_LOOKS {
                self.quiet_looks = 0;
                self.wanted = (self.wanted / 2).max(WANTED_MIN);
            }
        }
    }

    /// The kernel had none left while more was there.
    pub(super) fn fell_short(&mut self) {
        self.wanted = RECEIVE_SLOTS.into();
        self.quiet_looks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_follows_what_comes() {
        let slots = usize::from(RECEIVE_SLOTS);
        let mut demand = Demand::default();
        demand.taken(1);
        assert_eq!(demand.wanted, WANTED_MIN);
        demand.taken(2);
        assert_eq!(demand.wanted, 2 * WANTED_MIN);
        demand.fell_short();
        assert_eq!(demand.wanted, slots);
        demand.taken(slots);
        assert_eq!(demand.wanted, slots, "no more than there are");
        for _ in 0..QUIET_LOOKS {
            demand.taken(1);
        }
        assert_eq!(demand.wanted, slots / 2);
        for _ in 0..100 * QUIET_LOOKS {
            demand.taken(0);
        }
        assert_eq!(demand.wanted, slots / 2, "idling says nothing");
    }
}
