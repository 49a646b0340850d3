//! How does Prometheus see a snapshot? Text format 0.0.4, units in the names.

use crate::many_jobs::HeartbeatCounts;
use crate::overview::Totals;
use petrel_core::live::{JobView, Snapshot};
use petrel_core::protocol::{EngineMode, ExecutorPhase};
use petrel_core::signal::{HORIZONS_S, QUANTILES};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// The media type of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Jobs that have samples of their own; the sums count all of them.
const JOBS_MAX: usize = 1_000;

/// All metrics of `snapshot`.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(8_192));
    about_job(&mut page, snapshot);
    about_load(&mut page, snapshot);
    about_executors(&mut page, snapshot);
    about_service(&mut page, snapshot);
    about_records(&mut page, snapshot);
    about_gateways(&mut page, snapshot);
    page.0
}

/// The metrics of many jobs: sums over all, and the main figures of the first [`JOBS_MAX`] with the label `job`. The rest
/// of one job's metrics is at `/metrics?job=NAME`.
pub(crate) fn render_jobs(jobs: &[JobView], now_ms: i64, heartbeats: &HeartbeatCounts) -> String {
    let mut page = Page(String::with_capacity(64 << 10));
    about_all_jobs(&mut page, jobs, now_ms, heartbeats);
    about_each_job(&mut page, &jobs[..jobs.len().min(JOBS_MAX)], now_ms);
    page.0
}

fn about_all_jobs(page: &mut Page, jobs: &[JobView], now_ms: i64, heartbeats: &HeartbeatCounts) {
    let totals = Totals::of(jobs, now_ms);
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) as f64;
    page.gauge("petrel_jobs", "Jobs known.", totals.jobs as f64);
    let unlisted = jobs.len().saturating_sub(JOBS_MAX) as f64;
    page.gauge("petrel_jobs_without_samples", "Jobs that only the sums count.", unlisted);
    page.gauge(
        "petrel_jobs_over_objective",
        "Jobs whose latency is above its objective.",
        totals.over_objective as f64,
    );
    page.gauge("petrel_jobs_silent", "Jobs without a recent heartbeat.", totals.silent as f64);
    page.gauge("petrel_jobs_on_their_own", "Jobs in fallback or holding.", totals.on_their_own as f64);
    page.counter("petrel_heartbeats_total", "Heartbeats answered.", count(&heartbeats.answered));
    page.counter("petrel_heartbeats_refused_total", "Heartbeats refused.", count(&heartbeats.refused));
}

fn about_each_job(page: &mut Page, jobs: &[JobView], now_ms: i64) {
    type Figure = fn(&JobView) -> f64;
    let name = "petrel_job_info";
    page.family(name, "gauge", "Engine, mode and policy of the job; always 1.");
    for job in jobs {
        let labels = [("job", job.job.as_str()), ("engine", &job.engine), ("policy", &job.policy)];
        page.sample(name, &[&labels[..], &[("mode", job.mode.map_or("", mode_name))]].concat(), 1.0);
    }
    let name = "petrel_heartbeat_age_seconds";
    page.family(name, "gauge", "Age of the job's last heartbeat; absent before the first one.");
    for (job, heard_ms) in jobs.iter().filter_map(|job| Some((job, job.heard_ms?))) {
        page.sample(name, &[("job", &job.job)], (now_ms - heard_ms).max(0) as f64 / 1e3);
    }
    let name = "petrel_executors";
    page.family(name, "gauge", "Executors by phase.");
    for job in jobs {
        page.sample(name, &[("job", job.job.as_str()), ("phase", "running")], f64::from(job.executors_running));
        page.sample(name, &[("job", job.job.as_str()), ("phase", "starting")], f64::from(job.executors_starting));
    }
    let figures: [(&str, &str, Figure); 4] = [
        ("petrel_executors_target", "Executors asked for by the last decision.", |job| f64::from(job.executors_target)),
        ("petrel_latency_p95_seconds", "Event time to commit, 0.95 quantile of the last interval.", |job| {
            job.latency_p95_ms / 1e3
        }),
        ("petrel_latency_objective_seconds", "Limit of the 0.95 quantile.", |job| job.slo_p95_ms / 1e3),
        ("petrel_lag_records", "Records in the log that are not committed.", |job| job.lag_records as f64),
    ];
    for (name, help, figure) in figures {
        page.family(name, "gauge", help);
        for job in jobs {
            page.sample(name, &[("job", &job.job)], figure(job));
        }
    }
}

/// As in the heartbeat.
fn mode_name(mode: EngineMode) -> &'static str {
    match mode {
        EngineMode::Steered => "steered",
        EngineMode::Advised => "advised",
        EngineMode::Fallback => "fallback",
        EngineMode::Holding => "holding",
    }
}

fn about_job(page: &mut Page, snapshot: &Snapshot) {
    let labels = [
        ("policy", snapshot.policy.as_str()),
        ("trace", &snapshot.trace),
        ("domain", &snapshot.domain),
        ("tier", snapshot.tier.name()),
        ("codec", snapshot.codec.name()),
    ];
    page.family("petrel_job_info", "gauge", "Policy, trace, domains, shuffle tier and codec in force; always 1.");
    page.sample("petrel_job_info", &labels, 1.0);
    page.gauge(
        "petrel_snapshot_timestamp_seconds",
        "When these figures were made, Unix time.",
        snapshot.time_ms as f64 / 1e3,
    );
    page.gauge("petrel_job_uptime_seconds", "Time since the job started.", snapshot.time_s);
}

fn about_load(page: &mut Page, snapshot: &Snapshot) {
    page.gauge("petrel_arrival_rate_records_per_second", "Records into the gateways.", snapshot.arrival_rate);
    page.gauge("petrel_processed_rate_records_per_second", "Records into the sink.", snapshot.processed_rate);
    let name = "petrel_forecast_arrival_rate_records_per_second";
    page.family(name, "gauge", "Forecast of the arrival rate; absent until a gateway has forecast.");
    for (row, horizon) in snapshot.forecast.iter().flatten().zip(HORIZONS_S) {
        for (value, quantile) in row.iter().zip(QUANTILES) {
            let labels = [("horizon_seconds", horizon.to_string()), ("quantile", quantile.to_string())];
            page.sample(name, &labels, *value);
        }
    }
    page.gauge("petrel_burst_probability_ratio", "Probability of a burst, 0 to 1.", snapshot.burst_probability);
    page.gauge(
        "petrel_manual_burst",
        "1 while a burst started by hand lasts.",
        f64::from(u8::from(snapshot.manual_burst)),
    );
}

fn about_executors(page: &mut Page, snapshot: &Snapshot) {
    let name = "petrel_executors";
    page.family(
        name,
        "gauge",
        "Executors by phase; provisioning may be emulated, see petrel_executor_emulated_delay_seconds.",
    );
    let phases = [
        ("provisioning", ExecutorPhase::Provisioning),
        ("starting", ExecutorPhase::Starting),
        ("running", ExecutorPhase::Running),
        ("draining", ExecutorPhase::Draining),
    ];
    for (phase_name, phase) in phases {
        let count = snapshot.executors.iter().filter(|executor| executor.phase == phase).count();
        page.sample(name, &[("phase", phase_name)], count as f64);
    }
    page.gauge(
        "petrel_executors_target",
        "Executors asked for by the last decision.",
        f64::from(snapshot.executors_target),
    );
    page.gauge("petrel_executors_min", "Fewest executors allowed.", f64::from(snapshot.limits.min_executors));
    page.gauge("petrel_executors_max", "Most executors allowed.", f64::from(snapshot.limits.max_executors));
    let name = "petrel_executor_cpu_utilisation_ratio";
    page.family(name, "gauge", "CPU used as a share of the executor's limit, 0 to 1.");
    for executor in &snapshot.executors {
        page.sample(name, &[("executor", executor.id.to_string())], executor.cpu_utilisation);
    }
    let name = "petrel_executor_emulated_delay_seconds";
    page.family(name, "gauge", "Emulated provisioning delay drawn for the executor; 0 where the delay is real.");
    for executor in &snapshot.executors {
        page.sample(name, &[("executor", executor.id.to_string())], executor.emulated_delay_s);
    }
    page.counter(
        "petrel_executor_seconds_total",
        "Executor seconds from request to release.",
        snapshot.executor_seconds,
    );
    let decisions = snapshot.decisions.first().map_or(0, |decision| decision.id);
    page.counter("petrel_decisions_total", "Decisions taken.", decisions as f64);
    if let Some(decision) = snapshot.decisions.first() {
        page.gauge(
            "petrel_decision_duration_seconds",
            "Time the policy took for its last decision.",
            decision.took_us / 1e6,
        );
    }
}

fn about_service(page: &mut Page, snapshot: &Snapshot) {
    let name = "petrel_latency_seconds";
    page.family(name, "gauge", "Event time to commit, quantiles of the last interval.");
    let quantiles =
        [("0.5", snapshot.latency_p50_ms), ("0.95", snapshot.latency_p95_ms), ("0.99", snapshot.latency_p99_ms)];
    for (quantile, latency_ms) in quantiles {
        page.sample(name, &[("quantile", quantile)], latency_ms / 1e3);
    }
    page.gauge("petrel_latency_objective_seconds", "Limit of the 0.95 quantile.", snapshot.slo.p95_ms / 1e3);
    page.counter("petrel_intervals_total", "Decision intervals.", snapshot.intervals_total as f64);
    let over = snapshot.intervals_over_objective as f64;
    page.counter("petrel_intervals_over_objective_total", "Decision intervals above the objective.", over);
    page.gauge("petrel_backlog_records", "Records accepted and not in the sink yet.", snapshot.backlog_records);
    page.gauge("petrel_cost_usd_per_hour", "Cost rate of running and starting executors.", snapshot.cost_usd_per_hour);
    page.gauge("petrel_budget_usd_per_hour", "Most that executors may cost.", snapshot.limits.budget_usd_per_hour);
    page.counter("petrel_cost_usd_total", "Cost since the job started.", snapshot.cost_usd);
}

fn about_records(page: &mut Page, snapshot: &Snapshot) {
    let counters = [
        ("petrel_records_produced_total", "Records produced by the fleet.", snapshot.records_produced),
        ("petrel_records_acknowledged_total", "Records acknowledged to devices.", snapshot.records_acknowledged),
        ("petrel_records_committed_total", "Records in the sink.", snapshot.records_in_sink),
        ("petrel_records_duplicate_total", "Repeats dropped before the sink.", snapshot.duplicates),
        ("petrel_records_dead_letter_total", "Records in the dead-letter topic.", snapshot.dead_letter),
        ("petrel_alerts_total", "Alerts raised by the pipeline.", snapshot.alerts_total),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value as f64);
    }
}

fn about_gateways(page: &mut Page, snapshot: &Snapshot) {
    type Figure = fn(&petrel_core::live::GatewayView) -> f64;
    let figures: [(&str, &str, Figure); 5] = [
        ("petrel_gateway_arrival_rate_records_per_second", "Records into the gateway.", |g| g.arrival_rate),
        ("petrel_gateway_queued_records", "Records in the gateway's write-ahead queue.", |g| g.queued_records as f64),
        ("petrel_gateway_queued_bytes", "Bytes in the gateway's write-ahead queue.", |g| g.queued_bytes as f64),
        ("petrel_gateway_throttled", "1 while the gateway slows its devices.", |g| f64::from(u8::from(g.throttled))),
        ("petrel_gateway_signal_age_seconds", "Age of the gateway's last signal.", |g| g.age_s),
    ];
    for (name, help, figure) in figures {
        page.family(name, "gauge", help);
        for gateway in &snapshot.gateways {
            page.sample(name, &[("gateway", gateway.gateway.as_str())], figure(gateway));
        }
    }
}

/// Writing into a `String` cannot fail, so results are not looked at.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample<L: AsRef<str>>(&mut self, name: &str, labels: &[(&str, L)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            for letter in text.as_ref().chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = if value.is_infinite() {
            writeln!(self.0, " {}Inf", if value > 0.0 { '+' } else { '-' })
        } else {
            writeln!(self.0, " {value}")
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample::<&str>(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample::<&str>(name, &[], value);
    }
}
