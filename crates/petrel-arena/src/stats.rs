//! How sure are the figures of a tournament? Interquartile means, bootstrap intervals and probabilities of improvement,
//! as Agarwal et al. recommend (*Deep reinforcement learning at the edge of the statistical precipice*, NeurIPS 2021;
//! their library `rliable`).
//!
//! Everything is seeded: the same runs give the same intervals.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Replicates of a bootstrap; the ends of a 95 % interval then rest on 50 replicates each.
pub const REPLICATES: usize = 2_000;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The statistic of the values as they are.
    pub estimate: f64,
    /// The 2.5 % quantile of the replicates.
    pub lo: f64,
    /// The 97.5 % quantile of the replicates.
    pub hi: f64,
}

impl Interval {
    /// An interval that says nothing: the figure does not exist.
    pub const NONE: Interval = Interval { estimate: f64::NAN, lo: f64::NAN, hi: f64::NAN };
}

/// Arithmetic mean; NaN without values.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Mean of the middle half: `⌊n/4⌋` values are left out at each end, as `scipy.stats.trim_mean(values, 0.25)` does. It is less moved by a
/// single run than the mean and uses more of the runs than the median. NaN without values.
pub fn interquartile_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    interquartile_mean_in_place(&mut sorted)
}

fn interquartile_mean_in_place(values: &mut [f64]) -> f64 {
    let cut = values.len() / 4;
    let middle = values.len() - 2 * cut;
    if middle == 0 {
        return f64::NAN;
    }
    if cut > 0 {
        // Two partitions instead of a sort: the order within the middle half does not matter.
        values.select_nth_unstable_by(cut, f64::total_cmp);
        values[cut..].select_nth_unstable_by(middle - 1, f64::total_cmp);
    }
    mean(&values[cut..cut + middle])
}

/// The `level` quantile (0 to 1) with linear interpolation, numpy's default; NaN without values.
pub fn quantile(values: &[f64], level: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile_of_sorted(&sorted, level)
}

fn quantile_of_sorted(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = level.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

fn generator(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed ^ 0x626f_6f74)
}

fn interval_of(estimate: f64, mut replicates: Vec<f64>) -> Interval {
    replicates.sort_unstable_by(f64::total_cmp);
    Interval { estimate, lo: quantile_of_sorted(&replicates, 0.025), hi: quantile_of_sorted(&replicates, 0.975) }
}

/// 95 % percentile interval of `statistic` over all values; each stratum (a trace) is resampled with replacement on its
/// own, so that no replicate plays one trace more often than another.
///
/// `statistic` may reorder what it is given.
pub fn stratified_bootstrap(
    strata: &[Vec<f64>],
    statistic: impl Fn(&mut [f64]) -> f64,
    replicates: usize,
    seed: u64,
) -> Interval {
    let mut values: Vec<f64> = strata.iter().flatten().copied().collect();
    if values.is_empty() {
        return Interval::NONE;
    }
    let estimate = statistic(&mut values);
    let mut random = generator(seed);
    let drawn = (0..replicates)
        .map(|_| {
            values.clear();
            for stratum in strata {
                values.extend(stratum.iter().map(|_| stratum[random.random_range(0..stratum.len())]));
            }
            statistic(&mut values)
        })
        .collect();
    interval_of(estimate, drawn)
}

/// Mean with its 95 % interval.
pub fn mean_interval(strata: &[Vec<f64>], replicates: usize, seed: u64) -> Interval {
    stratified_bootstrap(strata, |values| mean(values), replicates, seed)
}

/// Interquartile mean with its 95 % interval.
pub fn interquartile_mean_interval(strata: &[Vec<f64>], replicates: usize, seed: u64) -> Interval {
    stratified_bootstrap(strata, interquartile_mean_in_place, replicates, seed)
}

/// 95 % interval of a figure of paired runs: `statistic` gets the indices of the resampled pairs. Pairs stay together,
/// so that what both runs share (the trace, the draws of that seed) does not widen the interval.
pub fn paired_bootstrap(
    strata_lengths: &[usize],
    statistic: impl Fn(&[(usize, usize)]) -> f64,
    replicates: usize,
    seed: u64,
) -> Interval {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (stratum, length) in strata_lengths.iter().enumerate() {
        pairs.extend((0..*length).map(|index| (stratum, index)));
    }
    if pairs.is_empty() {
        return Interval::NONE;
    }
    let estimate = statistic(&pairs);
    let mut random = generator(seed);
    let drawn = (0..replicates)
        .map(|_| {
            pairs.clear();
            for (stratum, length) in strata_lengths.iter().enumerate() {
                pairs.extend((0..*length).map(|_| (stratum, random.random_range(0..*length))));
            }
            statistic(&pairs)
        })
        .collect();
    interval_of(estimate, drawn)
}

/// Probability that a run of X is better (lower) than a run of Y, averaged over the strata; a tie counts half. This is
/// the Mann-Whitney statistic divided by the number of pairs (Agarwal et al., section 4.3). `is_better(x, y)` compares.
pub fn probability_of_improvement<T>(x: &[Vec<T>], y: &[Vec<T>], order: impl Fn(&T, &T) -> std::cmp::Ordering) -> f64 {
    let per_stratum: Vec<f64> = x
        .iter()
        .zip(y)
        .filter(|(x, y)| !x.is_empty() && !y.is_empty())
        .map(|(x, y)| {
            let wins: f64 = x.iter().map(|x| y.iter().map(|y| win(&order, x, y)).sum::<f64>()).sum();
            wins / (x.len() * y.len()) as f64
        })
        .collect();
    mean(&per_stratum)
}

fn win<T>(order: &impl Fn(&T, &T) -> std::cmp::Ordering, x: &T, y: &T) -> f64 {
    match order(x, y) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    }
}

/// [`probability_of_improvement`] with its 95 % interval; X and Y are resampled on their own within each stratum.
pub fn probability_of_improvement_interval<T: Copy>(
    x: &[Vec<T>],
    y: &[Vec<T>],
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
    replicates: usize,
    seed: u64,
) -> Interval {
    let estimate = probability_of_improvement(x, y, &order);
    if estimate.is_nan() {
        return Interval::NONE;
    }
    // Comparing once and drawing from the table of wins: a replicate costs look-ups only.
    let tables: Vec<WinTable> = x
        .iter()
        .zip(y)
        .filter(|(x, y)| !x.is_empty() && !y.is_empty())
        .map(|(x, y)| WinTable::new(x, y, &order))
        .collect();
    let mut random = generator(seed);
    let mut columns = Vec::new();
    let drawn = (0..replicates)
        .map(|_| {
            let sum: f64 = tables.iter().map(|table| table.draw(&mut random, &mut columns)).sum();
            sum / tables.len() as f64
        })
        .collect();
    interval_of(estimate, drawn)
}

/// Who wins, every run of X against every run of Y.
struct WinTable {
    wins: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl WinTable {
    fn new<T>(x: &[T], y: &[T], order: &impl Fn(&T, &T) -> std::cmp::Ordering) -> Self {
        let wins = x.iter().flat_map(|x| y.iter().map(move |y| win(order, x, y) as f32)).collect();
        Self { wins, rows: x.len(), columns: y.len() }
    }

    fn draw(&self, random: &mut Pcg64Mcg, columns: &mut Vec<usize>) -> f64 {
        columns.clear();
        columns.extend((0..self.columns).map(|_| random.random_range(0..self.columns)));
        let mut sum = 0.0;
        for _ in 0..self.rows {
            let row = random.random_range(0..self.rows) * self.columns;
            sum += columns.iter().map(|column| f64::from(self.wins[row + column])).sum::<f64>();
        }
        sum / (self.rows * self.columns) as f64
    }
}

/// Positions of the points that no other point beats: none is at most as high on both axes and lower on one. In order
/// of the first axis; of equal points the first one.
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..points.len()).filter(|i| points[*i].0.is_finite() && points[*i].1.is_finite()).collect();
    order.sort_by(|a, b| {
        points[*a].0.total_cmp(&points[*b].0).then(points[*a].1.total_cmp(&points[*b].1)).then(a.cmp(b))
    });
    let mut lowest = f64::INFINITY;
    order.retain(|index| {
        let is_lower = points[*index].1 < lowest;
        lowest = lowest.min(points[*index].1);
        is_lower
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    fn ascending(x: &f64, y: &f64) -> std::cmp::Ordering {
        x.total_cmp(y)
    }

    #[test]
    fn the_interquartile_mean_is_scipys_trimmed_mean() {
        // scipy.stats.trim_mean([9, 1, 100, 4, 5, 6, 7, 2, 3, 0], 0.25) = 4.5: two left out at each end.
        assert!(close(interquartile_mean(&[9.0, 1.0, 100.0, 4.0, 5.0, 6.0, 7.0, 2.0, 3.0, 0.0]), 4.5));
        // Fewer than four values: nothing is left out.
        assert!(close(interquartile_mean(&[1.0, 2.0, 9.0]), 4.0));
        assert!(close(interquartile_mean(&[1.0, 2.0, 3.0, 90.0]), 2.5));
        assert!(interquartile_mean(&[]).is_nan());
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6], [0.025, 0.5, 0.975]) = [1.0, 3.5, 8.475]
        let values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        assert!(close(quantile(&values, 0.025), 1.0));
        assert!(close(quantile(&values, 0.5), 3.5));
        assert!((quantile(&values, 0.975) - 8.475).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        // 400 values of 0 and 400 of 1: standard error 0.5 / sqrt(800) = 0.01768, 95 % is ± 0.03465.
        let stratum: Vec<f64> = (0..800).map(|i| f64::from(i % 2)).collect();
        let interval = mean_interval(&[stratum], 4_000, 1);
        assert!(close(interval.estimate, 0.5));
        assert!((interval.lo - 0.465_35).abs() < 0.004, "{interval:?}");
        assert!((interval.hi - 0.534_65).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn strata_are_resampled_on_their_own() {
        // Each stratum is constant: however far apart they are, no replicate differs.
        let interval = mean_interval(&[vec![0.0; 10], vec![100.0; 10]], 500, 1);
        assert_eq!(interval, Interval { estimate: 50.0, lo: 50.0, hi: 50.0 });
        let mixed: Vec<f64> = [vec![0.0; 10], vec![100.0; 10]].concat();
        assert!(mean_interval(&[mixed], 500, 1).hi > 60.0);
    }

    #[test]
    fn a_seed_gives_its_interval() {
        let strata = [vec![1.0, 2.0, 4.0, 8.0], vec![3.0, 1.0, 7.0]];
        let once = interquartile_mean_interval(&strata, 300, 7);
        assert_eq!(once, interquartile_mean_interval(&strata, 300, 7));
        assert_ne!(once, interquartile_mean_interval(&strata, 300, 8));
        assert!(once.lo <= once.estimate && once.estimate <= once.hi);
        assert!(mean_interval(&[], 300, 7).estimate.is_nan());
    }

    #[test]
    fn improvement_is_the_mann_whitney_statistic() {
        // scipy.stats.mannwhitneyu([1, 2, 3], [2, 4]).statistic = 1.5 counts the other way round: 6 pairs, four wins, a tie.
        let x = vec![vec![1.0, 2.0, 3.0]];
        let y = vec![vec![2.0, 4.0]];
        assert!(close(probability_of_improvement(&x, &y, ascending), 4.5 / 6.0));
        assert!(close(probability_of_improvement(&y, &x, ascending), 1.5 / 6.0));
        // The mean over strata, not over pairs.
        let x = vec![vec![1.0, 2.0, 3.0], vec![9.0]];
        let y = vec![vec![2.0, 4.0], vec![1.0]];
        assert!(close(probability_of_improvement(&x, &y, ascending), (4.5 / 6.0) / 2.0));
    }

    #[test]
    fn the_interval_of_an_improvement_holds_it_and_is_certain_where_all_runs_agree() {
        let low = vec![vec![1.0, 2.0, 3.0]];
        let high = vec![vec![4.0, 5.0, 6.0]];
        let sure = probability_of_improvement_interval(&low, &high, ascending, 300, 1);
        assert_eq!(sure, Interval { estimate: 1.0, lo: 1.0, hi: 1.0 });
        let x = vec![(0..10).map(f64::from).collect::<Vec<f64>>()];
        let even = probability_of_improvement_interval(&x, &x, ascending, 2_000, 1);
        assert!(close(even.estimate, 0.5));
        assert!(even.lo < 0.35 && even.hi > 0.65, "{even:?}");
    }

    #[test]
    fn pairs_stay_together() {
        // The difference of every pair is 1 although the runs spread over 0 to 900.
        let a: Vec<f64> = (0..10).map(|i| f64::from(i) * 100.0).collect();
        let difference =
            |pairs: &[(usize, usize)]| pairs.iter().map(|(_, i)| a[*i] + 1.0 - a[*i]).sum::<f64>() / pairs.len() as f64;
        let interval = paired_bootstrap(&[10], difference, 200, 1);
        assert!(close(interval.lo, 1.0) && close(interval.hi, 1.0));
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let points = [(1.0, 9.0), (2.0, 5.0), (3.0, 5.0), (4.0, 1.0), (4.0, 2.0), (f64::NAN, 0.0), (2.0, 5.0)];
        assert_eq!(pareto_front(&points), vec![0, 1, 3]);
        assert!(pareto_front(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_point_is_on_the_front_or_beaten_by_it(
            points in prop::collection::vec((0u8..6, 0u8..6), 1..20)
        ) {
            let points: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let front = pareto_front(&points);
            for (index, point) in points.iter().enumerate() {
                let beats = |other: &(f64, f64)| other.0 <= point.0 && other.1 <= point.1 && other != point;
                prop_assert_eq!(points.iter().any(beats), !front.iter().any(|f| points[*f] == *point), "point {}", index);
            }
        }
    }
}
