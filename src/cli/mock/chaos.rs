//! Which fault strikes which turn.
//!
//! Owns the dice: they depend on the seed and the turn's number alone, so a play can be played again.

use crate::config::Chaos;
use std::time::Duration;

/// A turn's connection is dropped so many times at most.
const DROPS: usize = 3;
/// Within this time of being asked, in milliseconds.
const CUT_MS: u64 = 40;
/// What is read late is read within this, in milliseconds.
const LATE_MS: u64 = 60;

/// What happens to one turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fate {
    /// Connections that are dropped so long after the turn was asked.
    pub drops: Vec<Duration>,
    /// Whether it is asked on another connection at the same time.
    pub twin: bool,
    /// Whether it is asked once more when it was answered.
    pub again: bool,
    /// How late its answer is read.
    pub slow: Option<Duration>,
}

impl Fate {
    /// The fate of the turn with this number.
    pub fn of(chaos: &Chaos, n: u64) -> Self {
        let mut dice = Dice(chaos.seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut fate = Self::default();
        while fate.drops.len() < DROPS && dice.falls(chaos.drop) {
            fate.drops.push(Duration::from_millis(dice.below(CUT_MS)));
        }
        if dice.falls(chaos.dup) {
            fate.twin = dice.below(2) == 0;
            fate.again = !fate.twin || dice.below(2) == 0;
        }
        if dice.falls(chaos.slow) {
            fate.slow = Some(Duration::from_millis(1 + dice.below(LATE_MS)));
        }
        fate
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn falls(&mut self, chance: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let roll = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        roll < chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_fate() {
        let chaos = Chaos { drop: 0.2, dup: 0.2, slow: 0.2, seed: 7 };
        let fates = |chaos: &Chaos| (1..=1000).map(|n| Fate::of(chaos, n)).collect::<Vec<_>>();
        assert_eq!(fates(&chaos), fates(&chaos));
        assert_ne!(fates(&chaos), fates(&Chaos { seed: 8, ..chaos }));
        let all = fates(&chaos);
        let share = |hit: &dyn Fn(&Fate) -> bool| all.iter().filter(|fate| hit(fate)).count();
        for hits in [
            share(&|fate| !fate.drops.is_empty()),
            share(&|fate| fate.twin || fate.again),
            share(&|fate| fate.slow.is_some()),
        ] {
            assert!((150..=250).contains(&hits), "{hits} of 1000");
        }
        assert!(fates(&Chaos::default()).iter().all(|fate| *fate == Fate::default()));
    }
}
