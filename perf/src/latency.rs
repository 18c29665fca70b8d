//! Latencies: recorded in microseconds, told in milliseconds.

use hdrhistogram::Histogram;

/// The longest latency that is told apart; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;

#[derive(Debug)]
pub(crate) struct Latencies(Option<Histogram<u64>>);

impl Latencies {
    pub(crate) fn new() -> Self {
        // Three significant digits; fails only for nonsensical bounds.
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).ok())
    }

    pub(crate) fn record_us(&mut self, latency_us: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(latency_us);
        }
    }

    pub(crate) fn add(&mut self, more: &Self) {
        if let (Some(histogram), Some(more)) = (&mut self.0, &more.0) {
            // Fails only for histograms of different bounds.
            let _ = histogram.add(more);
        }
    }

    /// Milliseconds at a quantile from 0 to 1; 0 if nothing was recorded.
    pub(crate) fn ms_at(&self, quantile: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |it| ms(it.value_at_quantile(quantile)))
    }

    pub(crate) fn ms_max(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |it| ms(it.max()))
    }
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^53")]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// A quotient for people: 0 where there is nothing to divide by.
#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn per(amount: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { amount as f64 / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_milliseconds_and_an_empty_one_is_zero() {
        let mut latencies = Latencies::new();
        assert_eq!((latencies.ms_at(0.5), latencies.ms_max()), (0.0, 0.0));
        for us in 1..=1_000 {
            latencies.record_us(us * 100);
        }
        assert!((latencies.ms_at(0.5) - 50.0).abs() < 0.1, "{}", latencies.ms_at(0.5));
        assert!((latencies.ms_max() - 100.0).abs() < 0.2);
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
