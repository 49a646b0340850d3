//! Order statistics, resampling and rank correlation.

use crate::queue::{Draws, Stream};

/// The `level` (0 to 1) quantile, linear between neighbours; `None` without values. Sorts what it is given.
pub(crate) fn quantile(values: &mut [f64], level: f64) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let place = level.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    Some(values[below] + (place - below as f64) * (values[above] - values[below]))
}

/// The median; `None` without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&mut values.into_iter().collect::<Vec<f64>>(), 0.5)
}

/// The mean; `None` without values.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// Draws with replacement, in blocks of neighbours, because what follows each other is alike (moving blocks: Künsch, *The jackknife
/// and the bootstrap for general stationary observations*, Annals of Statistics 17, 1989).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resampler {
    draws: Draws,
    next: u64,
}

impl Resampler {
    pub(crate) fn new(seed: u64) -> Self {
        Self { draws: Draws::new(seed, Stream::Estimate), next: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next += 1;
        ((self.draws.uniform(self.next) * bound as f64) as usize).min(bound - 1)
    }

    /// As many groups as there are, drawn whole, and from each of them `most` items or as many as it has, in blocks of `block`.
    pub(crate) fn draw_groups<'a, T>(&mut self, groups: &[Vec<&'a T>], block: usize, most: usize) -> Vec<&'a T> {
        let mut drawn = Vec::new();
        for _ in 0..groups.len() {
            let group = &groups[self.below(groups.len())];
            let mut items = self.draw(group, block);
            items.truncate(most);
            drawn.extend(items);
        }
        drawn
    }

    /// As many of `items` as there are, in blocks of `block`.
    pub(crate) fn draw<'a, T>(&mut self, items: &[&'a T], block: usize) -> Vec<&'a T> {
        let mut drawn = Vec::with_capacity(items.len() + block);
        let block = block.clamp(1, items.len().max(1));
        while drawn.len() < items.len() {
            let first = self.below(items.len() + 1 - block);
            drawn.extend_from_slice(&items[first..first + block]);
        }
        drawn.truncate(items.len());
        drawn
    }
}

/// Kendall's rank correlation with ties counted off (tau-b: Kendall, *The treatment of ties in ranking problems*, Biometrika 33,
/// 1945); `None` where one side is all ties.
pub(crate) fn kendall_tau(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut agreeing, mut untied_x, mut untied_y) = (0.0, 0.0, 0.0);
    for (index, one) in pairs.iter().enumerate() {
        for other in &pairs[index + 1..] {
            let (x, y) = (sign(one.0 - other.0), sign(one.1 - other.1));
            agreeing += x * y;
            untied_x += x * x;
            untied_y += y * y;
        }
    }
    let pairs_untied = untied_x * untied_y;
    (pairs_untied > 0.0).then(|| agreeing / f64::sqrt(pairs_untied))
}

fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tau_counts_ties_off() {
        assert_eq!(kendall_tau(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), Some(1.0));
        assert_eq!(kendall_tau(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]), Some(-1.0));
        // Four pairs agree, one differs in x only and one is swapped: (4 - 1) / sqrt(5 * 6).
        let tau = kendall_tau(&[(1.0, 1.0), (1.0, 2.0), (2.0, 4.0), (3.0, 3.0)]).unwrap();
        assert!((tau - 3.0 / 30.0_f64.sqrt()).abs() < 1e-12, "{tau}");
        assert_eq!(kendall_tau(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        assert_eq!(quantile(&mut [4.0, 1.0, 2.0], 0.25), Some(1.5));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
