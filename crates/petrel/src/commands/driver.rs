//! `petrel driver`: the driver of the embedded engine. It ends on a line `{"command":"drain"}` or `{"command":"stop"}`
//! on standard input.

use super::die_with_parent;
use crate::error::CommandError;
use crate::options::{EngineOptions, check_domains, domain_list, whole};
use clap::Args;
use petrel_core::{Domain, InvalidValue};
use petrel_engine::driver::{DriverSettings, run_driver};
use petrel_engine::pipeline;
use petrel_engine::task::{JobSpec, PipelineSpec};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `petrel driver`.
#[derive(Args)]
pub(crate) struct DriverArgs {
    /// Directory of the job: commits, state, sink
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// The log: petrel://HOST:PORT or kafka://HOST:PORT[,..]
    #[arg(long, env = "PETREL_LOG_URL", value_name = "URL")]
    log: String,
    /// The controller, for example http://127.0.0.1:8700; without one the number of executors stays
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
    /// Domains whose records are processed
    #[arg(long, value_delimiter = ',', default_value = "smart-city", value_name = "LIST")]
    domains: Vec<Domain>,
    /// Name of the job
    #[arg(long, default_value = "petrel", value_name = "NAME")]
    job: String,
    /// Executors until the controller says otherwise
    #[arg(long, default_value_t = 1, value_name = "EXECUTORS", value_parser = whole::<u32>(0..=1_000))]
    initial_executors: u32,
    /// More executors than this are never started
    #[arg(long, default_value_t = 64, value_name = "EXECUTORS", value_parser = whole::<u32>(1..=1_000))]
    max_executors: u32,
    /// Seed of the emulated delays
    #[arg(long, default_value_t = 1, value_parser = whole::<u64>(0..=u64::MAX))]
    seed: u64,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: EngineOptions,
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

pub(crate) fn run(args: DriverArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    die_with_parent(args.parent);
    let options = &args.options;
    let spec = JobSpec {
        pipelines: pipelines(options, &args.domains)?,
        sink_codec: options.sink_codec,
        max_devices_per_partition: options.devices_per_partition as usize,
        publish_validated: options.publish_validated,
    };
    let settings = DriverSettings {
        controller: args.controller.clone(),
        trigger: Duration::from_millis(u64::from(options.trigger_ms)),
        allowed_lateness: Duration::from_millis(u64::from(options.allowed_lateness_ms)),
        max_records_per_batch: options.max_batch_records,
        reduces: options.reduce_partitions,
        slots_per_executor: options.executor_slots as usize,
        executor_cpu: Some(options.executor_cpu).filter(|cores| *cores > 0.0),
        executor_memory_bytes: options.executor_memory_mb << 20,
        initial_executors: args.initial_executors,
        max_executors: args.max_executors,
        provisioning: options.provisioning.parse()?,
        seed: args.seed,
        shuffle_memory_bytes: options.shuffle_memory_mb << 20,
        shuffle_disk_bytes: options.shuffle_disk_mb << 20,
        always_pace: options.pace_executors,
        ..DriverSettings::new(&args.job, &args.data_dir, &args.log, spec)
    };
    run_driver(settings, BufReader::new(std::io::stdin()))?;
    Ok(ExitCode::SUCCESS)
}

/// The pipeline of each domain: the user's own, which is planned here so that its errors come first, or the built-in.
pub(crate) fn pipelines(options: &EngineOptions, domains: &[Domain]) -> Result<Vec<PipelineSpec>, CommandError> {
    check_domains(domains)?;
    let Some(path) = &options.sql else {
        let built_in = |domain: &Domain| PipelineSpec { domain: *domain, sql: pipeline::builtin(*domain).to_string() };
        return Ok(domains.iter().map(built_in).collect());
    };
    let [domain] = domains else {
        let expected = "exactly one domain together with --sql";
        return Err(InvalidValue::new("--domains", domain_list(domains), expected).into());
    };
    let sql = std::fs::read_to_string(path).map_err(CommandError::io(format!("--sql {}", path.display())))?;
    let spec = PipelineSpec { domain: *domain, sql };
    pipeline::check(&spec)?;
    Ok(vec![spec])
}
