//! What does the page look like? Serves it with a made-up script instead of a job.
//!
//! `cargo run -p petrel-dash --example dash_demo [-- ADDRESS [SECONDS]]`
//!
//! Nothing here is measured: a scripted day with two crowds, told as "demo script" on the page. The
//! buttons work: a burst by hand raises the scripted rate.

use petrel_core::live::{AlertView, DecisionView, GatewayView, Snapshot};
use petrel_core::policy::{Limits, Prices, Slo};
use petrel_core::protocol::{EngineMode, ExecutorPhase, ExecutorStatus, PROTOCOL_VERSION};
use petrel_core::signal::HORIZONS_S;
use petrel_core::{Codec, DesiredState, Tier};
use petrel_dash::{BurstCommand, DashSources};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PAST_S: i64 = 600;
const CAPACITY: f64 = 4_200.0;
const DELAY_S: f64 = 24.0;
const OBJECTIVE_MS: f64 = 3_000.0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8701".to_string()).parse()?;
    let run_s: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let boost = Arc::new(Mutex::new((1.0, Instant::now())));
    let mut script = Script::new();
    let (sender, snapshots) = tokio::sync::watch::channel(Arc::new(script.next(1.0)));
    let pressed = Arc::clone(&boost);
    let page = petrel_dash::serve(
        address,
        DashSources {
            snapshots,
            heartbeat: Arc::new(|heartbeat| {
                Ok(DesiredState {
                    version: PROTOCOL_VERSION,
                    decision_id: heartbeat.applied_decision,
                    executors: heartbeat.executors.len() as u32,
                    tier: Tier::Memory,
                    codec: Codec::Lz4,
                    advice_only: false,
                })
            }),
            burst: Arc::new(move |command| {
                let (factor, seconds) = match command {
                    BurstCommand::Start { factor, seconds } => (factor, u64::from(seconds)),
                    BurstCommand::Stop => (1.0, 0),
                };
                let ends = Instant::now() + Duration::from_secs(seconds);
                *pressed.lock().unwrap_or_else(PoisonError::into_inner) = (factor, ends);
                Ok(())
            }),
        },
    )?;
    // The past of the script, fast, so that the page has ten minutes to show.
    for _ in 0..PAST_S {
        sender.send_replace(Arc::new(script.next(1.0)));
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("http://{}", page.address());
    for _ in 0..run_s {
        let (factor, ends) = *boost.lock().unwrap_or_else(PoisonError::into_inner);
        let factor = if Instant::now() < ends { factor } else { 1.0 };
        sender.send_replace(Arc::new(script.next(factor)));
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// A small fluid queue with executors that start late.
struct Script {
    start_ms: i64,
    second: i64,
    executors: Vec<ExecutorStatus>,
    next_executor: u64,
    backlog: f64,
    lag_ms: f64,
    cost_usd: f64,
    executor_seconds: f64,
    records: f64,
    committed: f64,
    over: u64,
    alerts_total: u64,
    noise: u64,
    decisions: Vec<DecisionView>,
    alerts: Vec<AlertView>,
}

impl Script {
    fn new() -> Self {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let mut script = Self {
            start_ms: now_ms - PAST_S * 1_000,
            second: 0,
            executors: Vec::new(),
            next_executor: 1,
            backlog: 0.0,
            lag_ms: 900.0,
            cost_usd: 0.0,
            executor_seconds: 0.0,
            records: 0.0,
            committed: 0.0,
            over: 0,
            alerts_total: 0,
            noise: 7,
            decisions: Vec::new(),
            alerts: Vec::new(),
        };
        for _ in 0..3 {
            script.ask_for_executor(-40.0);
        }
        script
    }

    fn random(&mut self) -> f64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn rate(second: f64) -> f64 {
        let crowd = |onset: f64, peak: f64, end: f64, height: f64| {
            if second < onset {
                0.0
            } else if second < peak {
                height * ((second - onset) / (peak - onset)).powi(2)
            } else if second < end {
                height
            } else {
                height * (-(second - end) / 22.0).exp()
            }
        };
        9_000.0
            + 1_200.0 * (second / 95.0).sin()
            + crowd(170.0, 200.0, 245.0, 21_000.0)
            + crowd(385.0, 425.0, 470.0, 29_000.0)
            + crowd(585.0, 640.0, 690.0, 33_000.0)
            + crowd(900.0, 940.0, 990.0, 30_000.0)
    }

    fn ask_for_executor(&mut self, age_s: f64) {
        let id = self.next_executor;
        self.next_executor += 1;
        let emulated_delay_s = DELAY_S - 10.0 + 14.0 * self.random();
        self.executors.push(ExecutorStatus {
            id,
            pid: None,
            phase: ExecutorPhase::Provisioning,
            requested_ms: self.now_ms() + (age_s * 1e3) as i64,
            registered_ms: None,
            first_task_ms: None,
            emulated_delay_s,
            cpu_utilisation: 0.0,
            ..ExecutorStatus::default()
        });
    }

    fn running(&self) -> usize {
        self.executors.iter().filter(|executor| executor.phase == ExecutorPhase::Running).count()
    }

    fn now_ms(&self) -> i64 {
        self.start_ms + self.second * 1_000
    }

    fn next(&mut self, factor: f64) -> Snapshot {
        self.second += 1;
        let now_ms = self.now_ms();
        let time_s = self.second as f64;
        let wobble = 0.94 + 0.12 * self.random();
        let arrival_rate = Self::rate(time_s) * factor * wobble;
        let growth = factor.max(1.0);
        let forecast = HORIZONS_S.map(|ahead| {
            // The first crowd comes unforeseen, so that the page shows what a miss looks like.
            let seen_s = if time_s < 205.0 { time_s } else { time_s + f64::from(ahead) };
            let centre = Self::rate(seen_s) * growth;
            let spread = 0.05 + f64::from(ahead) / 420.0;
            [centre * (1.0 - spread), centre, centre * (1.0 + 1.3 * spread)]
        });
        self.advance_executors(now_ms);
        let capacity = self.running() as f64 * CAPACITY;
        let processed_rate = (self.backlog + arrival_rate - 0.55 * arrival_rate).min(capacity).max(0.0);
        self.backlog = (self.backlog + arrival_rate - processed_rate).max(0.0);
        let wanted_ms = 650.0 + 1_000.0 * self.backlog / processed_rate.max(1.0);
        self.lag_ms += 0.35 * (wanted_ms - self.lag_ms);
        let busy = (processed_rate / capacity.max(1.0)).min(1.0);
        for index in 0..self.executors.len() {
            let jitter = 0.9 + 0.12 * self.random();
            let executor = &mut self.executors[index];
            let works = executor.phase == ExecutorPhase::Running;
            executor.cpu_utilisation = if works { (busy * jitter).min(1.0) } else { 0.0 };
        }
        let peak = forecast[2][2].max(arrival_rate);
        if self.second % 5 == 0 {
            self.decide(peak, now_ms, arrival_rate);
            self.over += u64::from(self.lag_ms * 1.35 > OBJECTIVE_MS);
        }
        if self.random() < 0.12 {
            self.raise_alert(now_ms);
        }
        let (count, running) = (self.executors.len() as u32, self.running() as u32);
        let cost_usd_per_hour = Prices::default().usd_per_hour(count, 1.0);
        self.cost_usd += cost_usd_per_hour / 3_600.0;
        self.executor_seconds += f64::from(count);
        self.records += arrival_rate;
        self.committed += processed_rate;
        let shares = [0.31, 0.27, 0.24, 0.18];
        let gateways = shares.iter().enumerate().map(|(index, share)| GatewayView {
            gateway: format!("edge-{index}"),
            arrival_rate: arrival_rate * share,
            queued_records: (self.backlog * share * 0.1) as u64,
            queued_bytes: (self.backlog * share * 25.0) as u64,
            throttled: index == 0 && self.lag_ms > 9_000.0,
            age_s: 0.3 + 0.2 * index as f64,
        });
        let gateways = gateways.collect();
        Snapshot {
            time_ms: now_ms,
            job: "demo".to_string(),
            engine: String::new(),
            mode: EngineMode::Steered,
            advice_only: false,
            pinned_executors: None,
            heard_ms: Some(now_ms),
            executors_missing: 0,
            time_s,
            policy: "forecast".to_string(),
            trace: "demo script".to_string(),
            domain: "smart-city, healthcare, industrial".to_string(),
            manual_burst: factor > 1.0,
            arrival_rate,
            processed_rate,
            forecast: Some(forecast),
            burst_probability: ((forecast[2][1] / arrival_rate - 1.0) / 1.2).clamp(0.02, 0.98),
            executors_running: running,
            executors_starting: count - running,
            executors_target: count,
            executor_capacity: CAPACITY,
            executors: self.executors.clone(),
            latency_p50_ms: self.lag_ms * 0.8,
            latency_p95_ms: self.lag_ms * 1.35,
            latency_p99_ms: self.lag_ms * 1.6 + 120.0 * wobble,
            slo: Slo { p95_ms: OBJECTIVE_MS },
            intervals_total: (self.second / 5) as u64,
            intervals_over_objective: self.over,
            backlog_records: self.backlog,
            cost_usd_per_hour,
            cost_usd: self.cost_usd,
            executor_seconds: self.executor_seconds,
            tier: Tier::Memory,
            codec: if arrival_rate > 20_000.0 { Codec::Lz4 } else { Codec::Zstd },
            records_produced: self.records as u64 + 412,
            records_acknowledged: self.records as u64,
            records_in_sink: self.committed as u64,
            duplicates: self.second as u64 / 7,
            dead_letter: self.second as u64 / 23,
            alerts_total: self.alerts_total,
            decisions: self.decisions.clone(),
            alerts: self.alerts.clone(),
            gateways,
            limits: Limits {
                min_executors: 2,
                max_executors: 12,
                max_step_up: 6,
                max_step_down: 2,
                scale_down_hold_s: 30.0,
                budget_usd_per_hour: 2.5,
                max_prewarm: 0,
                coldest_tier: petrel_core::Tier::Nvme,
            },
            provisioning_note:
                "Demo script: nothing on this page is measured. Start-up is the real one plus an emulated \
                                provisioning delay."
                    .to_string(),
        }
    }

    fn advance_executors(&mut self, now_ms: i64) {
        for executor in &mut self.executors {
            let age_s = (now_ms - executor.requested_ms) as f64 / 1e3;
            executor.phase = if age_s < executor.emulated_delay_s {
                ExecutorPhase::Provisioning
            } else if age_s < executor.emulated_delay_s + 2.0 {
                ExecutorPhase::Starting
            } else {
                ExecutorPhase::Running
            };
            if executor.phase == ExecutorPhase::Running && executor.registered_ms.is_none() {
                executor.registered_ms = Some(executor.requested_ms + ((executor.emulated_delay_s + 1.4) * 1e3) as i64);
            }
        }
    }

    fn decide(&mut self, peak: f64, now_ms: i64, arrival_rate: f64) {
        let before = self.executors.len();
        let floor = ((peak / (CAPACITY * 0.82)).ceil() as usize).clamp(2, 12);
        let wanted = if floor >= before { floor } else { before - 1 };
        let calm = arrival_rate < 15_000.0 && self.second % 15 == 0;
        let executors = if wanted < before && !calm { before } else { wanted };
        for _ in before..executors {
            self.ask_for_executor(0.0);
        }
        self.executors.truncate(executors.max(1));
        if executors == before && self.second % 20 != 0 {
            return;
        }
        let reason = match executors.cmp(&before) {
            std::cmp::Ordering::Greater => format!(
                "upper forecast at 30 s is {peak:.0} records/s; {executors} executors hold it at 82 % and need {DELAY_S:.0} s to start"
            ),
            std::cmp::Ordering::Less => "a lower wish has lasted 30 s; one executor is enough less".to_string(),
            std::cmp::Ordering::Equal => {
                format!("{executors} executors hold the upper forecast of {peak:.0} records/s")
            }
        };
        if let Some(last) = self.decisions.first_mut() {
            last.effect =
                format!("p95 {:.1} s at the next decision, backlog {:.0} records", self.lag_ms * 1.35e-3, self.backlog);
        }
        self.decisions.insert(
            0,
            DecisionView {
                id: (self.second / 5) as u64,
                time_ms: now_ms,
                executors_before: before as u32,
                executors: executors as u32,
                tier: Tier::Memory,
                codec: if arrival_rate > 20_000.0 { Codec::Lz4 } else { Codec::Zstd },
                reason,
                effect: String::new(),
                took_us: 38.0 + 20.0 * (self.second % 3) as f64,
            },
        );
        self.decisions.truncate(20);
    }

    fn raise_alert(&mut self, time_ms: i64) {
        self.alerts_total += 1;
        let kinds = [
            ("healthcare", "patient-monitor-17", "abnormal vital-signs reading"),
            ("industrial", "press-4", "abnormal machine-sensor reading"),
            ("smart-city", "air-quality-203", "abnormal air-quality reading"),
        ];
        let (domain, device_id, message) = kinds[(self.alerts_total % 3) as usize];
        let alert = AlertView {
            time_ms,
            domain: domain.to_string(),
            device_id: device_id.to_string(),
            message: message.to_string(),
        };
        self.alerts.insert(0, alert);
        self.alerts.truncate(20);
    }
}
