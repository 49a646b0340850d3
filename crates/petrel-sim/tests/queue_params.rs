//! Parameters are read from TOML and refused with words.

use petrel_sim::queue::QueueParams;

#[test]
fn the_shipped_file_is_valid_and_every_figure_has_a_source() {
    let params = QueueParams::from_toml(QueueParams::TOML).unwrap();
    assert_eq!(params, QueueParams::default());
    let mut has_source = false;
    for line in QueueParams::TOML.lines() {
        has_source = if line.starts_with('[') { false } else { has_source || line.contains("Source:") };
        // A tier's or a codec's figures share the comment at their head.
        let is_figure = line.contains(" = ") && !line.starts_with('#');
        let in_shared_table = ["latency_ms", "ratio", "encode", "decode", "executor_mb", "capacity"]
            .iter()
            .any(|name| line.starts_with(name));
        assert!(!is_figure || has_source || in_shared_table, "no source above `{line}`");
    }
}

#[test]
fn a_figure_out_of_range_is_refused_by_name() {
    for (from, to, expected) in [
        ("contention = 0.009", "contention = 1.5", "batch.contention: got `1.5`, expected 0 to 1"),
        ("grants_per_s = 10", "grants_per_s = 0", "startup.grants_per_s: got `0`, expected 1 to 1000000"),
        ("share = 0.55", "share = 0.65", "startup shares: got `1.1"),
        (
            "lost_with_executor = 1.0",
            "lost_with_executor = 2.0",
            "tier.nvme.lost_with_executor: got `2`, expected 0 to 1",
        ),
        ("ratio = 0.35", "ratio = nan", "codec.zstd.ratio: got `NaN`"),
    ] {
        assert!(QueueParams::TOML.contains(from), "{from}");
        let error = QueueParams::from_toml(&QueueParams::TOML.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn unknown_and_missing_fields_are_refused_by_name() {
    let unknown = QueueParams::TOML.replace("contention = 0.009", "contention = 0.009\nspeed = 3");
    assert!(QueueParams::from_toml(&unknown).unwrap_err().to_string().contains("speed"));
    let missing = QueueParams::TOML.replace("contention = 0.009", "");
    assert!(QueueParams::from_toml(&missing).unwrap_err().to_string().contains("contention"));
}
