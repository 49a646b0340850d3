//! What is different when Apache Spark is in the engine's place?
//!
//! The driver is `petrel spark submit`, which runs `spark-submit` with the plugin; the plugin's heartbeats come to the port
//! of the page like those of the embedded driver.

use super::{Engine, UpArgs, directory};
use crate::commands::spark::{SparkFolder, SparkInstall, find_jar, find_job};
use crate::error::CommandError;
use crate::options::{domain_list, flags};
use petrel_core::InvalidValue;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A JVM, a session and the first executor take their time, and the more so on a busy machine.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(600);
/// Records/s that one core of an executor is taken to commit until the first batches tell: Petrel's own job has five
/// queries, which cost some 10 µs a record each.
pub(super) const RECORDS_PER_S_AND_CORE: f64 = 20_000.0;
/// Spark itself refuses less: 300 MB that it reserves, times one and a half.
const LEAST_MEMORY_MB: u64 = 450;
const KAFKA: &str = "kafka://";

/// Refuses what can be known to be wrong before anything starts.
pub(super) fn check(args: &UpArgs) -> Result<(), CommandError> {
    if !cfg!(feature = "kafka") {
        let expected = "embedded, as this petrel was built without Kafka, which Spark reads; with it: \
                        cargo build --release --workspace --features petrel/kafka";
        return Err(InvalidValue::new("--engine", Engine::Spark, expected).into());
    }
    let log = args.log.as_deref().unwrap_or_default();
    if !log.starts_with(KAFKA) {
        let expected = "kafka://HOST:PORT[,..] together with --engine spark, as Spark reads its records from Kafka";
        return Err(InvalidValue::new("--log", log, expected).into());
    }
    if args.spark.spark_master.is_none() {
        let expected = "the cluster, spark://HOST:PORT[,..], together with --engine spark";
        return Err(InvalidValue::new("--spark-master", "", expected).into());
    }
    let domains = &args.fleet.domains;
    if domains.len() != 1 {
        let expected = "exactly one domain together with --engine spark, as a Spark job reads one";
        return Err(InvalidValue::new("--domains", domain_list(domains), expected).into());
    }
    if let Some(sql) = &args.engine.sql {
        let expected = "no pipeline for the embedded engine together with --engine spark; a Spark job is --spark-job";
        return Err(InvalidValue::new("--sql", sql.display(), expected).into());
    }
    if args.gateway.upstream_broker.is_some() {
        // Its URL may hold a password.
        let expected = "no upstream broker together with --engine spark: its devices keep no ledger to compare with";
        return Err(InvalidValue::new("--upstream-broker", "***", expected).into());
    }
    let memory_mb = args.engine.executor_memory_mb;
    if memory_mb < LEAST_MEMORY_MB {
        let expected = format!("at least {LEAST_MEMORY_MB} together with --engine spark");
        return Err(InvalidValue::new("--executor-memory-mb", memory_mb, expected).into());
    }
    let install = install(args)?;
    find_jar("--spark-jar", args.spark.spark_jar.as_deref(), &install.release)?;
    find_job("--spark-job", args.spark.spark_job.as_deref())?;
    Ok(())
}

fn install(args: &UpArgs) -> Result<SparkInstall, InvalidValue> {
    SparkInstall::find("--spark-home", args.spark.spark_home.as_deref())
}

/// Offsets at which the job begins, as Spark reads them: where the topic ended when the data directory was made, as what
/// was in it before belongs to others. Devices send nothing before that is written down.
fn first_offsets(args: &UpArgs, log_url: &str) -> Result<String, CommandError> {
    let path = SparkFolder::of(&args.data_dir).first_offsets();
    let failed = || CommandError::io(path.display().to_string());
    match std::fs::read_to_string(&path) {
        Ok(offsets) => return Ok(offsets),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed()(error)),
    }
    let log = petrel_ingest::connect(log_url)?;
    let mut topics = BTreeMap::new();
    for topic in args.fleet.domains.iter().map(|domain| domain.raw_topic()) {
        let ends: BTreeMap<String, u64> = (0..)
            .zip(log.offsets(topic)?)
            .map(|(partition, range): (u32, _)| (partition.to_string(), range.end))
            .collect();
        topics.insert(topic, ends);
    }
    let offsets = json!(topics).to_string();
    directory::replace(&path, &offsets)?;
    Ok(offsets)
}

/// Arguments of the `petrel spark submit` that runs the driver of `job`.
pub(super) fn arguments(
    args: &UpArgs,
    job: &str,
    log_url: &str,
    controller: &str,
    wanted: u32,
) -> Result<Vec<String>, CommandError> {
    let (spark, engine, control) = (&args.spark, &args.engine, &args.control);
    // An earlier run may have had other bounds.
    let at_start = wanted.clamp(control.min_executors, control.max_executors);
    let install = install(args)?;
    let master = spark.spark_master.as_deref().unwrap_or_default();
    let jar = find_jar("--spark-jar", spark.spark_jar.as_deref(), &install.release)?;
    let program = find_job("--spark-job", spark.spark_job.as_deref())?;
    let mut arguments = vec!["submit".to_string()];
    arguments.extend(flags(&[
        ("spark-home", &install.home.display()),
        ("master", &master),
        ("controller", &controller),
        ("name", &job),
        ("jar", &jar.display()),
        ("job", &program.display()),
        ("brokers", &log_url.trim_start_matches(KAFKA)),
        ("domain", &domain_list(&args.fleet.domains)),
        ("starting-offsets", &first_offsets(args, log_url)?),
        ("min-executors", &control.min_executors),
        ("max-executors", &control.max_executors),
        ("initial-executors", &at_start),
        ("executor-memory", &format!("{}m", engine.executor_memory_mb)),
        ("executor-cores", &engine.executor_slots),
        ("trigger-ms", &engine.trigger_ms),
        ("allowed-lateness-ms", &engine.allowed_lateness_ms),
        ("max-batch-records", &engine.max_batch_records),
        ("state-partitions", &engine.reduce_partitions),
    ]));
    if let Some(folder) = &spark.spark_connector {
        arguments.extend(flags(&[("connector", &folder.display())]));
    }
    if let Some(archive) = &spark.spark_fast_start {
        arguments.extend(flags(&[("fast-start", &archive.display())]));
    }
    Ok(arguments)
}

/// The engine in half a line.
pub(super) fn describe(args: &UpArgs) -> Result<String, CommandError> {
    let master = args.spark.spark_master.as_deref().unwrap_or_default();
    Ok(format!("Spark {} on {master}", install(args)?.release.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::spark::SparkArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Up {
        #[command(flatten)]
        args: UpArgs,
    }

    #[derive(Parser)]
    struct Spark {
        #[command(flatten)]
        _args: SparkArgs,
    }

    #[test]
    fn submit_takes_what_up_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for directory in ["home/bin", "home/jars", "data/spark"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        let offsets = r#"{"iot-healthcare-raw":{"0":17,"1":0}}"#;
        for (file, content) in [
            ("home/bin/spark-submit", ""),
            ("home/jars/spark-core_2.13-4.2.0.jar", ""),
            ("plugin.jar", ""),
            ("job.py", ""),
            ("data/spark/first-offsets.json", offsets),
        ] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        #[rustfmt::skip]
        let words = [
            "up", "--engine", "spark", "--log", "kafka://127.0.0.1:9092", "--spark-master", "spark://127.0.0.1:7077",
            "--domains", "healthcare", "--min-executors", "2", "--max-executors", "5", "--data-dir", &path("data"),
            "--spark-home", &path("home"), "--spark-jar", &path("plugin.jar"), "--spark-job", &path("job.py"),
            "--spark-connector", &path("jars"), "--spark-fast-start", "/opt/executor.jsa",
        ];
        let args = Up::try_parse_from(words).unwrap().args;
        let given = arguments(&args, "job", "kafka://127.0.0.1:9092", "http://127.0.0.1:8700", 3).unwrap();
        for expected in [
            "--brokers=127.0.0.1:9092",
            "--controller=http://127.0.0.1:8700",
            "--initial-executors=3",
            "--executor-memory=512m",
            &format!("--starting-offsets={offsets}"),
        ] {
            assert!(given.iter().any(|word| word == expected), "{expected} is missing in {given:?}");
        }
        let submit = std::iter::once("spark".to_string()).chain(given);
        assert!(Spark::try_parse_from(submit.clone()).is_ok(), "{:?}", Spark::try_parse_from(submit).err());
        assert_eq!(describe(&args).unwrap(), "Spark 4.2.0 on spark://127.0.0.1:7077");
    }
}
