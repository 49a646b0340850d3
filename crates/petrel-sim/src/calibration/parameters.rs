//! Which parameters does calibration write, and how do they get into a parameter file without losing its comments?

use crate::queue::{QueueParams, StartupClass};

/// A parameter that calibration may set: its table, its name, and where it is.
pub(crate) type Slot = (&'static str, &'static str, fn(&mut QueueParams) -> &mut f64);

/// Every figure that calibration may set; the start-up classes and whole numbers are written by themselves.
pub(crate) const SLOTS: [Slot; 30] = [
    ("job", "slo_p95_ms", |params| &mut params.job.slo_p95_ms),
    ("job", "scale_down_hold_s", |params| &mut params.job.scale_down_hold_s),
    ("time", "trigger_ms", |params| &mut params.time.trigger_ms),
    ("time", "trigger_offset_ms", |params| &mut params.time.trigger_offset_ms),
    ("time", "ingest_delay_ms", |params| &mut params.time.ingest_delay_ms),
    ("batch", "overhead_ms", |params| &mut params.batch.overhead_ms),
    ("batch", "overhead_per_executor_ms", |params| &mut params.batch.overhead_per_executor_ms),
    ("batch", "max_records_per_executor", |params| &mut params.batch.max_records_per_executor),
    ("batch", "record_cpu_us", |params| &mut params.batch.record_cpu_us),
    ("batch", "contention", |params| &mut params.batch.contention),
    ("batch", "coherency", |params| &mut params.batch.coherency),
    ("batch", "tasks_per_executor", |params| &mut params.batch.tasks_per_executor),
    ("batch", "straggler_spread", |params| &mut params.batch.straggler_spread),
    ("batch", "tasks", |params| &mut params.batch.tasks),
    ("batch", "task_cpu_ms", |params| &mut params.batch.task_cpu_ms),
    ("batch", "max_records", |params| &mut params.batch.max_records),
    ("batch", "unjoined_share", |params| &mut params.batch.unjoined_share),
    ("batch", "removal_ms", |params| &mut params.batch.removal_ms),
    ("memory", "reserved_gb", |params| &mut params.memory.reserved_gb),
    ("memory", "working_bytes_per_record", |params| &mut params.memory.working_bytes_per_record),
    ("memory", "state_bytes_per_record", |params| &mut params.memory.state_bytes_per_record),
    ("shuffle", "bytes_per_record", |params| &mut params.shuffle.bytes_per_record),
    ("shuffle", "rounds", |params| &mut params.shuffle.rounds),
    ("shuffle", "recompute_share", |params| &mut params.shuffle.recompute_share),
    ("startup", "failure_probability", |params| &mut params.startup.failure_probability),
    ("startup", "preemptions_per_executor_hour", |params| &mut params.startup.preemptions_per_executor_hour),
    ("startup", "first_task_s", |params| &mut params.startup.first_task_s),
    ("startup", "jit_slowdown", |params| &mut params.startup.jit_slowdown),
    ("startup", "jit_decay_s", |params| &mut params.startup.jit_decay_s),
    ("prices", "vcpus_per_executor", |params| &mut params.prices.vcpus_per_executor),
];

/// `value` with `digits` significant digits.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let power = 10_f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    // Divided by a whole number where there is one, so that it prints short.
    if power >= 1.0 { (value * power).round() / power } else { (value * power).round() * (1.0 / power).round() }
}

/// Rounds everything that calibration sets, so that a file holds exactly what is in memory.
pub(crate) fn round(params: &mut QueueParams) {
    for (_, _, slot) in SLOTS {
        let value = slot(params);
        *value = rounded(*value, 4);
    }
    let startup = &mut params.startup;
    for class in [&mut startup.warm, &mut startup.cached, &mut startup.pull, &mut startup.node] {
        class.low_s = rounded(class.low_s, 3);
        class.high_s = rounded(class.high_s, 3).max(class.low_s);
    }
}

/// A start-up class as the value of a TOML line.
pub(crate) fn class_toml(class: StartupClass) -> String {
    format!("{{ share = {:?}, low_s = {:?}, high_s = {:?} }}", class.share, class.low_s, class.high_s)
}

/// Begins the comment that calibration writes above a figure.
const MARK: &str = "# Calibrated";

/// Puts `value` at `key` of `table` into TOML text, under a comment that says where it is from; a comment of an earlier
/// calibration goes, all others stay. The text stays as it is where there is no such key.
pub(crate) fn set_line(text: &str, table: &str, key: &str, value: &str, source: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_in_table = false;
    for line in text.lines() {
        if line.starts_with('[') {
            is_in_table = line.trim() == format!("[{table}]");
        }
        let is_key = line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
        if !(is_in_table && is_key) {
            lines.push(line.to_string());
            continue;
        }
        if lines.last().is_some_and(|line| line.starts_with(MARK)) {
            lines.pop();
        }
        lines.push(format!("{MARK} {source}"));
        lines.push(format!("{key} = {value}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_a_line_of_the_shipped_file() {
        for (table, key, slot) in SLOTS {
            let text = set_line(QueueParams::TOML, table, key, "0.25", "from nothing.");
            assert_ne!(text, QueueParams::TOML, "{table}.{key}");
            let mut params: QueueParams = toml::from_str(&text).unwrap();
            assert_eq!(*slot(&mut params), 0.25, "{table}.{key}");
        }
    }

    #[test]
    fn a_second_calibration_replaces_the_first_and_keeps_other_comments() {
        let first = set_line("[batch]\n# Why.\noverhead_ms = 1.0\n", "batch", "overhead_ms", "2.0", "once.");
        let second = set_line(&first, "batch", "overhead_ms", "3.0", "again.");
        assert_eq!(second, "[batch]\n# Why.\n# Calibrated again.\noverhead_ms = 3.0\n");
    }

    #[test]
    fn rounding_keeps_significant_digits() {
        assert_eq!(rounded(123_456.0, 4), 123_500.0);
        assert_eq!(rounded(0.001_234_56, 4), 0.001_235);
        assert_eq!(rounded(0.0, 4), 0.0);
        assert_eq!(format!("{:?}", rounded(30_123.0, 3)), "30100.0");
    }
}
