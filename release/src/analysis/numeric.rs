//! Sums and means of values that are known by their logarithms, and the logarithm of Γ.

/// The natural logarithm of the sum of values, given theirs; −∞ for none. It does not overflow.
pub(super) fn ln_sum(logarithms: &[f64]) -> f64 {
    let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    let sum: f64 = logarithms.iter().map(|logarithm| (logarithm - largest).exp()).sum();
    largest + sum.ln()
}

/// The natural logarithm of the mean of values, given theirs.
pub(super) fn ln_mean(logarithms: &[f64]) -> f64 {
    ln_sum(logarithms) - (logarithms.len() as f64).ln()
}

/// ln Γ(x) for x > 0, to 10 digits: Stirling's series (NIST DLMF 5.11.1) from 8 up, and
/// Γ(x + 1) = x Γ(x) below.
pub(super) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 8.0 {
        below += x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series =
        (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / 1680.0 / square) / square) / square) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - below
}

/// ln B(a, b) for a, b > 0.
pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}
