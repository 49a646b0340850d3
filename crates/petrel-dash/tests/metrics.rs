//! The metrics as Prometheus parses them.

#![allow(clippy::expect_used)] // This is test code.

mod support;

use petrel_dash::render_metrics;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use support::{serve, snapshot};

/// Reads the text format 0.0.4 strictly; gives the samples by name with labels.
fn parse(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line has to end");
    let (mut samples, mut types, mut helps) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("HELP has a text");
            assert!(!help.is_empty() && helps.insert(name.to_string()), "HELP twice: {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("TYPE has a kind");
            assert!(matches!(kind, "gauge" | "counter"), "{line}");
            assert!(types.insert(name.to_string(), kind.to_string()).is_none(), "TYPE twice: {name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            family = name.to_string();
        } else {
            let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(name == family && helps.contains(&name), "{line} outside its family {family}");
            let rest = &line[name.len()..];
            let value_at = match rest.strip_prefix('{') {
                Some(labels) => name.len() + 1 + labels_end(labels),
                None => name.len(),
            };
            let value = line[value_at..].strip_prefix(' ').expect("a blank before the value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(line[..value_at].to_string(), value).is_none(), "sample twice: {line}");
        }
    }
    samples
}

/// Position after the closing brace; checks quoting on the way.
fn labels_end(labels: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in labels.char_indices() {
        match letter {
            _ if escaped => {
                assert!(matches!(letter, '\\' | '"' | 'n'), "bad escape in {labels}");
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return at + 1,
            _ => {}
        }
    }
    panic!("labels do not end: {labels}");
}

#[test]
fn metrics_are_served_in_the_text_format_with_units() {
    let reply = serve().get("/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", reply.head);
    let samples = parse(&reply.body);
    let expected = [
        ("petrel_arrival_rate_records_per_second", 12_000.0),
        ("petrel_latency_seconds{quantile=\"0.95\"}", 1.5),
        ("petrel_latency_objective_seconds", 3.0),
        ("petrel_executors{phase=\"running\"}", 1.0),
        ("petrel_executors{phase=\"provisioning\"}", 1.0),
        ("petrel_executors{phase=\"draining\"}", 0.0),
        ("petrel_executors_target", 2.0),
        ("petrel_cost_usd_total", 1.25),
    ];
    for (name, value) in expected {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(
        samples
            .contains_key("petrel_forecast_arrival_rate_records_per_second{horizon_seconds=\"120\",quantile=\"0.9\"}")
    );
    assert!(samples.contains_key("petrel_gateway_queued_bytes{gateway=\"edge-1\"}"));
}

#[test]
fn without_forecast_or_gateways_the_rest_is_there() {
    let mut bare = snapshot();
    bare.forecast = None;
    bare.gateways.clear();
    bare.decisions.clear();
    bare.executors.clear();
    let samples = parse(&render_metrics(&bare));
    assert!(!samples.keys().any(|name| name.starts_with("petrel_forecast") || name.starts_with("petrel_gateway")));
    assert_eq!(samples["petrel_decisions_total"], 0.0);
}

proptest! {
    #[test]
    fn any_name_and_any_number_keeps_the_format(name in ".{0,40}", rate in any::<f64>()) {
        let mut odd = snapshot();
        odd.policy = name.clone();
        odd.arrival_rate = rate;
        odd.gateways[0].gateway = format!("{name}-0");
        odd.gateways[1].gateway = format!("{name}-1");
        // Carriage returns are ordinary letters to Prometheus but line ends to `str::lines`.
        prop_assume!(!name.contains('\r'));
        let samples = parse(&render_metrics(&odd));
        let shown = samples["petrel_arrival_rate_records_per_second"];
        prop_assert!(shown == rate || (shown.is_nan() && rate.is_nan()));
    }
}
