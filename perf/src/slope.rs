//! The line through samples: does something grow?

use crate::limits::SLOPE_SAMPLES_MIN;

const HOUR_US: f64 = 3_600e6;

/// One look: microseconds of any clock, and a value.
pub(crate) type Sample = (u64, u64);

/// Growth an hour by least squares; an error says why none can be told.
#[allow(
    clippy::cast_precision_loss,
    reason = "times of a run and bytes of a machine are below 2^53"
)]
pub(crate) fn per_hour(samples: &[Sample]) -> Result<f64, String> {
    let count = samples.len();
    if count < SLOPE_SAMPLES_MIN {
        return Err(format!(
            "{count} samples after the warm-up, and at least {SLOPE_SAMPLES_MIN} are needed"
        ));
    }
    let first_us = samples[0].0;
    let points = samples
        .iter()
        .map(|(at_us, value)| (at_us.saturating_sub(first_us) as f64 / HOUR_US, *value as f64));
    let number = count as f64;
    let (x_sum, y_sum) = points.clone().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    // Around the means, so that large values lose no digits.
    let (x_mean, y_mean) = (x_sum / number, y_sum / number);
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in points {
        covariance += (x - x_mean) * (y - y_mean);
        variance += (x - x_mean) * (x - x_mean);
    }
    if variance > 0.0 {
        Ok(covariance / variance)
    } else {
        Err("all samples are of one moment".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const SECOND_US: u64 = 1_000_000;

    fn line(samples: u64, at: impl Fn(u64) -> u64) -> Vec<Sample> {
        // Clocks begin anywhere.
        (0..samples).map(|second| (7_777 + second * SECOND_US, at(second))).collect()
    }

    #[test]
    fn a_known_line_has_its_slope() {
        let flat = per_hour(&line(100, |_| 5_000_000_000)).unwrap();
        assert!(flat.abs() < 1e-6, "{flat}");
        let grows = per_hour(&line(100, |second| 5_000_000_000 + second * 10)).unwrap();
        assert!((grows - 36_000.0).abs() < 1e-3, "{grows}");
        let shrinks = per_hour(&line(100, |second| 5_000_000_000 - second)).unwrap();
        assert!((shrinks + 3_600.0).abs() < 1e-3, "{shrinks}");
    }

    #[test]
    fn noise_hides_no_leak_and_makes_none() {
        let mut random = Rng::with_seed(5);
        let noise: Vec<u64> = (0..3_600).map(|_| random.u64(0..200_000)).collect();
        let of = |slope: u64| {
            per_hour(&line(3_600, |second| {
                100_000_000 + second * slope + noise[usize::try_from(second).unwrap()]
            }))
            .unwrap()
        };
        assert!(of(0).abs() < 20_000.0, "{}", of(0));
        assert!((of(100) - 360_000.0).abs() < 20_000.0, "{}", of(100));
    }

    #[test]
    fn too_few_samples_have_no_slope_but_a_reason() {
        let least = u64::try_from(SLOPE_SAMPLES_MIN).unwrap();
        assert!(per_hour(&line(least, |second| second)).is_ok());
        let reason = per_hour(&line(least - 1, |second| second)).unwrap_err();
        assert!(reason.starts_with("19 samples"), "{reason}");
        assert!(per_hour(&[]).unwrap_err().starts_with("0 samples"));
        let one_moment = vec![(3, 4); SLOPE_SAMPLES_MIN];
        assert_eq!(per_hour(&one_moment).unwrap_err(), "all samples are of one moment");
    }
}
