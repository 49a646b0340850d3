//! Which mixture of start-up delays explains the starts that were seen? The histogram of at most four uniform pieces that makes
//! them most likely, with as many pieces as the Bayesian information criterion pays for.

use crate::queue::{StartupClass, StartupParams};

/// Starts below which the mixture stays as it is.
pub(crate) const FEWEST_STARTS: usize = 4;

/// Delays that the search looks at; more are thinned to their quantiles.
const MOST_DELAYS: usize = 160;

/// Narrowest piece, seconds: the world counts in whole ones.
const NARROWEST_S: f64 = 0.5;

/// The world makes an executor ready at the next whole second, which is half a second late on average.
const ROUNDED_UP_S: f64 = 0.5;

/// Puts the mixture that explains `delays_s` into `startup`; leaves it alone when they are too few.
pub(crate) fn fit_mixture(delays_s: &[f64], startup: &mut StartupParams) {
    if delays_s.len() < FEWEST_STARTS {
        return;
    }
    let mut sorted: Vec<f64> = delays_s.iter().map(|delay_s| (delay_s - ROUNDED_UP_S).max(0.0)).collect();
    sorted.sort_by(f64::total_cmp);
    let thinned: Vec<f64> = if sorted.len() <= MOST_DELAYS {
        sorted
    } else {
        (0..MOST_DELAYS).map(|index| sorted[index * (sorted.len() - 1) / (MOST_DELAYS - 1)]).collect()
    };
    // Each delay stands for as much around it as clocks and heartbeats leave open.
    let gaps = thinned.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 1e-6);
    let resolution_s = gaps.fold(1.0, f64::min);
    let pieces = likeliest_pieces(&thinned, delays_s.len(), resolution_s);
    let last = pieces[pieces.len() - 1];
    let class = |index: usize| pieces.get(index).copied().unwrap_or(StartupClass { share: 0.0, ..last });
    (startup.warm, startup.cached, startup.pull, startup.node) = (class(0), class(1), class(2), class(3));
    // Shares are written with a few digits and must still add up to 1.
    let others = startup.cached.share + startup.pull.share + startup.node.share;
    startup.warm.share = (1e4 * (1.0 - others)).round() / 1e4;
}

/// Uniform pieces of `sorted`, fastest first; `count` delays stand behind it.
fn likeliest_pieces(sorted: &[f64], count: usize, resolution_s: f64) -> Vec<StartupClass> {
    let len = sorted.len();
    let log_likelihood = |delays: &[f64]| {
        let own = piece(delays, len, resolution_s);
        delays.len() as f64 * (own.share / (own.high_s - own.low_s)).ln()
    };
    // best[k][end]: greatest log-likelihood of the first `end` delays in k + 1 pieces, and where the last one begins.
    let mut best = vec![vec![(f64::NEG_INFINITY, 0_usize); len + 1]; 4];
    for end in 1..=len {
        best[0][end] = (log_likelihood(&sorted[..end]), 0);
        for pieces in 1..4 {
            let mut found = (f64::NEG_INFINITY, 0);
            for begin in pieces..end {
                let value = best[pieces - 1][begin].0 + log_likelihood(&sorted[begin..end]);
                if value > found.0 {
                    found = (value, begin);
                }
            }
            best[pieces][end] = found;
        }
    }
    let weight = count as f64 / len as f64;
    let criterion = |pieces: usize| weight * best[pieces][len].0 - 1.5 * (pieces + 1) as f64 * (count as f64).ln();
    let chosen = (0..4).max_by(|one, other| criterion(*one).total_cmp(&criterion(*other))).unwrap_or(0);
    let mut cuts = vec![len];
    for pieces in (1..=chosen).rev() {
        cuts.push(best[pieces][cuts[cuts.len() - 1]].1);
    }
    cuts.push(0);
    cuts.reverse();
    cuts.windows(2).map(|cut| piece(&sorted[cut[0]..cut[1]], len, resolution_s)).collect()
}

/// The piece around `delays`, a part of a sample of `len`: as wide as the range of so many uniform draws says.
fn piece(delays: &[f64], len: usize, resolution_s: f64) -> StartupClass {
    let (low_s, high_s) = (delays[0], delays[delays.len() - 1]);
    let between_s = (high_s - low_s) / (delays.len() - 1).max(1) as f64;
    let beyond_s = 0.5 * between_s.max(resolution_s);
    let narrow_s = (0.5 * (NARROWEST_S - (high_s - low_s) - 2.0 * beyond_s)).max(0.0);
    let low_s = (low_s - beyond_s - narrow_s).max(0.0);
    let share = (1e4 * delays.len() as f64 / len as f64).round() / 1e4;
    StartupClass { share, low_s, high_s: (high_s + beyond_s + narrow_s).max(low_s + NARROWEST_S) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{QueueParams, StartupDraws};

    #[test]
    fn the_shipped_mixture_is_found_again() {
        let shipped = StartupParams { failure_probability: 0.0, ..QueueParams::default().startup };
        let draws = StartupDraws::new(&shipped);
        let delays: Vec<f64> = (0..400).map(|index| draws.delay_s(5, index).ceil()).collect();
        let mut found = shipped;
        fit_mixture(&delays, &mut found);
        for quantile in [0.25, 0.5, 0.75, 0.9, 0.97] {
            let (expected, got) = (shipped.quantile_s(quantile), found.quantile_s(quantile));
            assert!((got - expected).abs() < 0.6 + 0.15 * expected, "quantile {quantile}: {got}, shipped {expected}");
        }
        let shares: f64 = found.classes().iter().map(|(_, class)| class.share).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }

    #[test]
    fn few_and_equal_delays_make_one_narrow_piece() {
        let mut startup = QueueParams::default().startup;
        fit_mixture(&[3.0; 5], &mut startup);
        assert_eq!(startup.warm.share, 1.0);
        assert!(startup.warm.low_s <= 2.5 && startup.warm.high_s >= 2.5 && startup.quantile_s(0.99) < 3.1);
        let before = startup;
        fit_mixture(&[9.0; 3], &mut startup);
        assert_eq!(startup, before, "three starts say nothing");
    }
}
