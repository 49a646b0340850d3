//! Which job, on which cluster? The flags that `petrel spark conf` and `petrel spark submit` share.

use super::install::Release;
use crate::options::{flags, whole};
use clap::Args;
use petrel_core::{Domain, InvalidValue};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where executors keep the archive of their classes when the user names no other place.
const USUAL_CLASS_ARCHIVE: &str = "/var/lib/petrel/executor.jsa";

/// A job and its cluster.
#[derive(Args, Debug, Clone)]
pub(super) struct JobOptions {
    /// Cluster: spark://HOST:PORT[,..], yarn, k8s://URL, or local-cluster[EXECUTORS,CORES,MB] to try it on one machine
    #[arg(long, default_value = "spark://127.0.0.1:7077", value_name = "URL", value_parser = master_url)]
    pub(super) master: String,
    /// The controller, `petrel control`; https where a proxy with TLS is before it
    #[arg(long, default_value = "http://127.0.0.1:8701", value_name = "URL", value_parser = controller_url)]
    pub(super) controller: String,
    /// Token that the controller asks of this job
    #[arg(long, env = "PETREL_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = token)]
    pub(super) token: Option<String>,
    /// Name of the job, the same at every start
    #[arg(long, default_value = "petrel", value_name = "NAME", value_parser = job_name)]
    pub(super) name: String,
    /// Fewest executors
    #[arg(long, default_value_t = 1, value_name = "EXECUTORS", value_parser = whole::<u32>(0..=1_000))]
    pub(super) min_executors: u32,
    /// Most executors
    #[arg(long, default_value_t = 6, value_name = "EXECUTORS", value_parser = whole::<u32>(1..=1_000))]
    pub(super) max_executors: u32,
    /// Executors at the start; the fewest where this is missing
    #[arg(long, value_name = "EXECUTORS", value_parser = whole::<u32>(0..=1_000))]
    pub(super) initial_executors: Option<u32>,
    /// Heap of an executor, such as 1g or 512m
    #[arg(long, default_value = "1g", value_name = "MEMORY", value_parser = memory)]
    pub(super) executor_memory: String,
    /// Tasks that one executor runs at the same time
    #[arg(long, default_value_t = 1, value_name = "CORES", value_parser = whole::<u32>(1..=256))]
    pub(super) executor_cores: u32,
    /// Let executors start from an archive of their classes, which is at this path on every worker
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = USUAL_CLASS_ARCHIVE, value_parser = absolute)]
    pub(super) fast_start: Option<PathBuf>,
    /// Jar of Petrel's plugin
    #[arg(long, value_name = "FILE")]
    pub(super) jar: Option<PathBuf>,
    /// Folder with the jars of Spark's Kafka connector; without it Spark fetches them from Maven Central
    #[arg(long, value_name = "DIR")]
    pub(super) connector: Option<PathBuf>,
    /// Streaming job, a Python file; Petrel's own where this is missing
    #[arg(long, value_name = "FILE")]
    pub(super) job: Option<PathBuf>,
    /// Arguments of a job of your own
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(super) arguments: Vec<String>,
    #[command(flatten)]
    pub(super) builtin: BuiltinOptions,
}

/// What Petrel's own job is told; a job of the user's gets these flags when `--brokers` is there.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Petrel's own job, or one that takes the same arguments")]
pub(super) struct BuiltinOptions {
    /// Kafka that it reads
    #[arg(long, value_name = "HOST:PORT[,..]", value_parser = brokers)]
    pub(super) brokers: Option<String>,
    /// Domain whose records it reads: smart-city, healthcare, industrial
    #[arg(long, default_value = "smart-city")]
    pub(super) domain: Domain,
    /// Folder of the sink, on storage that driver and executors share
    #[arg(long, value_name = "DIR")]
    pub(super) sink: Option<PathBuf>,
    /// Folder of the checkpoint, on storage that driver and executors share
    #[arg(long, value_name = "DIR")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Where it begins to read without a checkpoint: earliest, latest, or Spark's JSON of offsets
    #[arg(long, default_value = "earliest", value_name = "OFFSETS", value_parser = starting_offsets)]
    pub(super) starting_offsets: String,
    /// Trigger interval of the micro-batches, milliseconds
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = whole::<u32>(10..=3_600_000))]
    pub(super) trigger_ms: u32,
    /// How far behind the newest event time a window stays open for late records, milliseconds
    #[arg(long, default_value_t = 5_000, value_name = "MS", value_parser = whole::<u32>(0..=86_400_000))]
    pub(super) allowed_lateness_ms: u32,
    /// Most records in one micro-batch
    #[arg(long, default_value_t = 200_000, value_name = "RECORDS", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(super) max_batch_records: u64,
    /// Partitions of windowed state, fixed by the checkpoint; one per core of the most executors where this is missing
    #[arg(long, value_name = "PARTITIONS", value_parser = whole::<u32>(1..=10_000))]
    pub(super) state_partitions: Option<u32>,
}

impl JobOptions {
    /// Refuses what no single flag shows to be wrong.
    pub(super) fn check(&self) -> Result<(), InvalidValue> {
        if self.min_executors > self.max_executors {
            let expected = format!("at most --max-executors, {}", self.max_executors);
            return Err(InvalidValue::new("--min-executors", self.min_executors, expected));
        }
        if let Some(initial) = self.initial_executors
            && !(self.min_executors..=self.max_executors).contains(&initial)
        {
            let expected =
                format!("from --min-executors, {}, to --max-executors, {}", self.min_executors, self.max_executors);
            return Err(InvalidValue::new("--initial-executors", initial, expected));
        }
        if self.builtin.brokers.is_none() && self.job.is_none() {
            let expected = "HOST:PORT[,..] of the Kafka that Petrel's own job reads (or a job of your own with --job)";
            return Err(InvalidValue::new("--brokers", "", expected));
        }
        Ok(())
    }

    /// Executors that the job starts with.
    pub(super) fn executors_at_start(&self) -> u32 {
        self.initial_executors.unwrap_or(self.min_executors.max(1))
    }

    /// Cores of all executors together when there are most of them.
    pub(super) fn most_cores(&self) -> u32 {
        self.max_executors.saturating_mul(self.executor_cores)
    }

    /// Partitions of windowed state.
    pub(super) fn state_partitions(&self) -> u32 {
        self.builtin.state_partitions.unwrap_or(self.most_cores())
    }

    /// True when the job takes the arguments of Petrel's own.
    pub(super) fn takes_our_arguments(&self) -> bool {
        self.builtin.brokers.is_some()
    }

    /// The arguments of the job: those of Petrel's own where it takes them, then the user's.
    pub(super) fn job_arguments(&self, sink: &Path, checkpoint: &Path, drain_file: Option<&Path>) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(brokers) = &self.builtin.brokers {
            let builtin = &self.builtin;
            arguments = flags(&[
                ("domain", &builtin.domain),
                ("brokers", brokers),
                ("sink", &sink.display()),
                ("checkpoint", &checkpoint.display()),
                ("starting-offsets", &builtin.starting_offsets),
                ("trigger", &format!("{} milliseconds", builtin.trigger_ms)),
                ("lateness", &format!("{} milliseconds", builtin.allowed_lateness_ms)),
                ("max-offsets", &builtin.max_batch_records),
                // One task of a query for each core there may be: fewer would leave cores idle, more only cost.
                ("min-partitions", &self.most_cores()),
                ("max-tasks", &self.most_cores()),
                ("state-partitions", &self.state_partitions()),
            ]);
            arguments.extend(drain_file.map(|file| format!("--drain-file={}", file.display())));
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }
}

/// Jars as Spark is told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jars {
    /// The plugin's.
    pub(super) plugin: String,
    /// The Kafka connector.
    pub(super) connector: Connector,
}

/// Where Spark gets its Kafka connector from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connector {
    /// From its own jars.
    Installed,
    /// From these files.
    Files(Vec<String>),
    /// From Maven Central, by coordinates.
    Package(String),
}

impl Connector {
    /// From the folder that the user named, or from Maven Central.
    pub(super) fn find(folder: Option<&Path>, release: &Release) -> Result<Self, InvalidValue> {
        let Some(folder) = folder else { return Ok(Self::Package(release.connector())) };
        let jars = super::install::jars_in(folder).unwrap_or_default();
        if jars.is_empty() {
            let expected = format!("a folder with the jars of {} and of what it needs", release.connector());
            return Err(InvalidValue::new("--connector", folder.display(), expected));
        }
        let absolute = |jar: PathBuf| jar.canonicalize().unwrap_or(jar).display().to_string();
        Ok(Self::Files(jars.into_iter().map(absolute).collect()))
    }
}

/// Reads the URL of a cluster whose executors can be counted.
pub(crate) fn master_url(text: &str) -> Result<String, String> {
    let is_cluster = match text.split_once("://") {
        Some(("spark", hosts)) => hosts.split(',').all(is_host_and_port),
        Some(("k8s", rest)) => !rest.is_empty(),
        Some(_) => false,
        None => text == "yarn" || (text.starts_with("local-cluster[") && text.ends_with(']')),
    };
    if is_cluster {
        return Ok(text.to_string());
    }
    let no_executors = if text.starts_with("local") { " (`local` has no executors to scale)" } else { "" };
    Err(format!("expected spark://HOST:PORT[,..], yarn, k8s://URL or local-cluster[EXECUTORS,CORES,MB]{no_executors}"))
}

fn controller_url(text: &str) -> Result<String, String> {
    let address = text.trim_end_matches('/');
    match address.split_once("://") {
        Some(("http" | "https", host)) if is_host_and_port(host) => Ok(address.to_string()),
        _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_string()),
    }
}

fn brokers(text: &str) -> Result<String, String> {
    if text.split(',').all(is_host_and_port) {
        Ok(text.to_string())
    } else {
        Err("expected HOST:PORT[,..]".to_string())
    }
}

fn starting_offsets(text: &str) -> Result<String, String> {
    type Offsets = BTreeMap<String, BTreeMap<u32, i64>>;
    if matches!(text, "earliest" | "latest") || serde_json::from_str::<Offsets>(text).is_ok() {
        return Ok(text.to_string());
    }
    Err(r#"expected earliest, latest, or an offset for each partition such as {"topic":{"0":17}}"#.to_string())
}

fn is_host_and_port(text: &str) -> bool {
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', ' ', ',']);
    text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn job_name(text: &str) -> Result<String, String> {
    let is_name = !text.trim().is_empty() && text.len() <= 200 && !text.contains(char::is_control);
    if is_name { Ok(text.to_string()) } else { Err("expected 1 to 200 characters on one line".to_string()) }
}

fn token(text: &str) -> Result<String, String> {
    if petrel_control::is_token(text) {
        Ok(text.to_string())
    } else {
        Err("expected 1 to 1024 printable characters without spaces".to_string())
    }
}

fn memory(text: &str) -> Result<String, String> {
    let amount =
        text.strip_suffix('g').map(|number| (number, 1_024)).or(text.strip_suffix('m').map(|number| (number, 1)));
    let megabytes = amount.and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit));
    // Spark itself refuses less: 300 MB that it reserves, times one and a half.
    match megabytes.filter(|megabytes| (450..=1_048_576).contains(megabytes)) {
        Some(_) => Ok(text.to_string()),
        None => Err("expected 450m to 1024g, with the unit m or g".to_string()),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains(char::is_whitespace) {
        Ok(path)
    } else {
        Err("expected an absolute path without spaces, as every worker reads it from a folder of its own".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_a_cluster() {
        for right in ["spark://h:7077", "spark://a:1,b:2", "yarn", "k8s://https://h:6443", "local-cluster[2,1,512]"] {
            assert_eq!(master_url(right).unwrap(), right);
        }
        for wrong in ["", "local", "local[4]", "spark://", "spark://h", "spark://h:0", "spark://h:99999", "http://h:1"]
        {
            assert!(master_url(wrong).is_err(), "{wrong}");
        }
        assert!(master_url("local[*]").unwrap_err().contains("no executors to scale"));
    }

    #[test]
    fn addresses_memory_and_paths_are_judged() {
        assert_eq!(controller_url("http://h:8701/").unwrap(), "http://h:8701");
        assert_eq!(controller_url("https://h:443").unwrap(), "https://h:443");
        for wrong in ["h:8701", "ftp://h:1", "http://h", "https://h", "http://h:1/x"] {
            assert!(controller_url(wrong).is_err(), "{wrong}");
        }
        assert!(memory("512m").is_ok() && memory("2g").is_ok());
        for wrong in ["400m", "512", "1t", "-1g", "g", "99999999999999999999g", "18446744073709551615g"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
        assert!(absolute("/a/b.jsa").is_ok());
        assert!(absolute("b.jsa").is_err() && absolute("/a b.jsa").is_err());
        assert!(starting_offsets("latest").is_ok() && starting_offsets(r#"{"t":{"0":17,"1":-2}}"#).is_ok());
        assert!(starting_offsets("17").is_err() && starting_offsets(r#"{"t":17}"#).is_err());
        assert!(brokers("a:1,b:2").is_ok() && brokers("a:1,b").is_err() && brokers("kafka://a:1").is_err());
    }
}
