//! What do the gateways foresee together? Keeps the newest signal of each and adds them up.

use crate::check::is_ahead;
use petrel_core::live::GatewayView;
use petrel_core::signal::PatternFeatures;
use petrel_core::{InvalidValue, Signal};
use std::collections::BTreeMap;

/// Signals older than this are left out of the forecast, milliseconds.
const SIGNAL_LIFE_MS: i64 = 10_000;
const MAX_GATEWAYS: usize = 1_024;
/// A gateway that was silent for this long no longer counts against [`MAX_GATEWAYS`].
const GATEWAY_FORGOTTEN_MS: i64 = 3_600_000;
/// Age of the forecast while there is none, seconds.
const NEVER_S: f64 = u16::MAX as f64;

/// A gateway's newest signal.
#[derive(Debug, Clone)]
struct HeardSignal {
    signal: Signal,
    heard_ms: i64,
}

/// Sums over the gateways that were heard lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Totals {
    /// Quantile by quantile: exact for medians of proportional series, and on the safe side for the upper quantile, as if
    /// bursts hit all gateways at once (they do in a flash crowd). `None` while no gateway is heard.
    pub(crate) forecast: Option<[[f64; 3]; 5]>,
    /// Age of the oldest signal, seconds.
    pub(crate) age_s: f64,
    pub(crate) features: PatternFeatures,
    /// Records/s into the gateways.
    pub(crate) arrival_rate: f64,
    /// Records that wait in the gateways.
    pub(crate) queued_records: u64,
}

impl Totals {
    /// The sums over no gateway at all.
    pub(crate) const NONE: Self = Self {
        forecast: None,
        age_s: NEVER_S,
        features: PatternFeatures {
            velocity: 0.0,
            acceleration: 0.0,
            rolling_mean: 0.0,
            rolling_std: 0.0,
            burst_probability: 0.0,
            hour_sin: 0.0,
            hour_cos: 0.0,
        },
        arrival_rate: 0.0,
        queued_records: 0,
    };
}

/// The newest signal of every gateway.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    heard: BTreeMap<String, HeardSignal>,
    /// The last sums and the time that they are of: many jobs ask for the same ones.
    known: Option<(i64, Totals)>,
}

impl Signals {
    /// Takes a signal that is valid; one that is older than the last of the same gateway is ignored.
    pub(crate) fn hear(&mut self, signal: Signal, now_ms: i64) -> Result<(), InvalidValue> {
        // One heard in the future, as it seems since the clock was set back, would make the new ones old.
        let is_kept = |heard_ms: i64| now_ms - heard_ms <= GATEWAY_FORGOTTEN_MS && !is_ahead(heard_ms, now_ms);
        self.heard.retain(|_, heard| is_kept(heard.heard_ms));
        let known = self.heard.get(&signal.gateway);
        if known.is_some_and(|heard| heard.signal.time_ms >= signal.time_ms) {
            return Ok(());
        }
        if known.is_none() && self.heard.len() >= MAX_GATEWAYS {
            let expected = format!("one of the first {MAX_GATEWAYS} gateways");
            return Err(InvalidValue::new("gateway", &signal.gateway, expected));
        }
        self.heard.insert(signal.gateway.clone(), HeardSignal { signal, heard_ms: now_ms });
        self.known = None;
        Ok(())
    }

    /// The sums at `now_ms`.
    pub(crate) fn totals(&mut self, now_ms: i64) -> Totals {
        match self.known {
            Some((of_ms, totals)) if of_ms == now_ms => totals,
            _ => {
                let totals = self.add_up(now_ms);
                self.known = Some((now_ms, totals));
                totals
            }
        }
    }

    fn add_up(&self, now_ms: i64) -> Totals {
        let mut forecast = [[0.0; 3]; 5];
        let mut totals = Totals::NONE;
        let mut oldest_ms = 0;
        let mut is_heard = false;
        let mut variance = 0.0;
        for heard in self.heard.values() {
            let age_ms = (now_ms - heard.heard_ms).max(0);
            // A gateway that fell silent leaves the sums, and makes the rest as old as is still believed.
            oldest_ms = oldest_ms.max(age_ms.min(SIGNAL_LIFE_MS));
            if age_ms > SIGNAL_LIFE_MS {
                continue;
            }
            is_heard = true;
            for (sums, row) in forecast.iter_mut().zip(heard.signal.quantiles) {
                for (sum, rate) in sums.iter_mut().zip(row) {
                    *sum += rate;
                }
            }
            totals.arrival_rate += heard.signal.arrival_rate;
            totals.queued_records = totals.queued_records.saturating_add(heard.signal.queued_records);
            let own = heard.signal.features;
            let features = &mut totals.features;
            features.velocity += own.velocity;
            features.acceleration += own.acceleration;
            features.rolling_mean += own.rolling_mean;
            variance += own.rolling_std * own.rolling_std;
            features.burst_probability = features.burst_probability.max(own.burst_probability);
            (features.hour_sin, features.hour_cos) = (own.hour_sin, own.hour_cos);
        }
        totals.features.rolling_std = variance.sqrt();
        if is_heard {
            totals.forecast = Some(forecast);
            totals.age_s = oldest_ms as f64 / 1_000.0;
        }
        totals
    }

    /// Every gateway, for people.
    pub(crate) fn views(&self, now_ms: i64) -> Vec<GatewayView> {
        let view = |heard: &HeardSignal| GatewayView {
            gateway: heard.signal.gateway.clone(),
            arrival_rate: heard.signal.arrival_rate,
            queued_records: heard.signal.queued_records,
            queued_bytes: heard.signal.queued_bytes,
            throttled: heard.signal.throttled,
            age_s: (now_ms - heard.heard_ms).max(0) as f64 / 1_000.0,
        };
        self.heard.values().map(view).collect()
    }
}
