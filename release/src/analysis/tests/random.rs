//! Random numbers of a simulation, from a seed.

/// A generator (splitmix64).
pub(crate) struct Random(u64);

// === impl Random ===

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Uniform in 0..`end`.
    pub(crate) fn below(&mut self, end: u16) -> u16 {
        (self.uniform() * f64::from(end)) as u16
    }

    /// Normal, with mean 0 and variance 1 (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let angle = std::f64::consts::TAU * self.uniform();
        (-2.0 * self.uniform().ln()).sqrt() * angle.cos()
    }

    /// Poisson: exact up to a mean of 100, above it by a normal distribution.
    pub(crate) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 100.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        self.poisson_of(mean, (-mean).exp())
    }

    /// Poisson, where `none` is the probability of 0 (Knuth).
    pub(crate) fn poisson_of(&mut self, mean: f64, none: f64) -> u64 {
        if mean > 100.0 {
            return self.poisson(mean);
        }
        let (mut product, mut count) = (self.uniform(), 0);
        while product > none {
            product *= self.uniform();
            count += 1;
        }
        count
    }
}
