//! Which settings does a Spark job need under Petrel, and why each?

use super::job::{Connector, Jars, JobOptions};
use std::path::Path;

/// One line of Spark's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) value: String,
    /// In half a line.
    pub(super) why: &'static str,
}

/// Settings under a heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) heading: &'static str,
    pub(super) settings: Vec<Setting>,
}

impl Group {
    fn new(heading: &'static str) -> Self {
        Self { heading, settings: Vec::new() }
    }

    fn set(&mut self, key: &'static str, value: impl ToString, why: &'static str) {
        self.settings.push(Setting { key, value: value.to_string(), why });
    }
}

/// Setting of the token.
pub(super) const TOKEN: &str = "spark.petrel.token";

/// All settings of a job, in groups.
pub(super) fn settings(options: &JobOptions, jars: &Jars) -> Vec<Group> {
    let mut groups = vec![plugin(options, jars), scaling(options), batches(options)];
    groups.extend(options.fast_start.as_deref().map(fast_start));
    groups.extend(one_machine(&options.master));
    groups
}

fn plugin(options: &JobOptions, jars: &Jars) -> Group {
    let mut group = Group::new("Petrel's plugin");
    group.set(
        "spark.plugins",
        "io.petrel.spark.PetrelPlugin",
        "reports every second and does what the controller decides",
    );
    let mut files = vec![jars.plugin.as_str()];
    if let Connector::Files(connector) = &jars.connector {
        files.extend(connector.iter().map(String::as_str));
    }
    group.set("spark.jars", files.join(","), "the plugin, and Spark's Kafka connector where it is given as files");
    if let Connector::Package(coordinates) = &jars.connector {
        group.set("spark.jars.packages", coordinates, "Spark's Kafka connector; drop it if the job reads no Kafka");
    }
    group.set("spark.petrel.url", &options.controller, "the controller");
    if let Some(token) = &options.token {
        group.set(TOKEN, token, "shows the controller that this is the job; Spark hides it in its UI");
    }
    group.set("spark.petrel.job", &options.name, "what the controller knows the job by, over all its starts");
    group
}

fn scaling(options: &JobOptions) -> Group {
    let mut group = Group::new("scaling while the job runs");
    group.set(
        "spark.dynamicAllocation.enabled",
        true,
        "executors may come and go; the plugin steers, and Spark's own rule takes over when the controller is silent",
    );
    let tracking = "executors may go without an external shuffle service";
    group.set("spark.dynamicAllocation.shuffleTracking.enabled", true, tracking);
    group.set("spark.dynamicAllocation.minExecutors", options.min_executors, "bounds of Spark's own rule: fewest,");
    group.set("spark.dynamicAllocation.initialExecutors", options.executors_at_start(), "at the start,");
    group.set("spark.dynamicAllocation.maxExecutors", options.max_executors, "and most");
    group.set("spark.executor.cores", options.executor_cores, "else an executor takes a whole worker");
    group.set("spark.executor.memory", &options.executor_memory, "heap of an executor");
    if options.master.starts_with("spark://") {
        let delay = "an executor that was removed is gone at once, not after 5 s";
        group.set("spark.standalone.executorRemoveDelayOnDisconnection", "0s", delay);
    }
    group.set(
        "spark.locality.wait",
        "0s",
        "a new executor gets tasks at once, not after 3 s of waiting for the old ones",
    );
    group
}

fn batches(options: &JobOptions) -> Group {
    let mut group = Group::new("micro-batches");
    let partitions =
        "one per core of the most executors (200 otherwise); the first checkpoint fixes it for a stateful query";
    group.set("spark.sql.shuffle.partitions", options.state_partitions(), partitions);
    group.set(
        "spark.sql.streaming.stateStore.providerClass",
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
        "state outside the heap: no long garbage collections; fixed by the first checkpoint",
    );
    let changelog = "a commit writes what changed, not a snapshot";
    group.set("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled", true, changelog);
    if options.takes_our_arguments() {
        group.set(
            "spark.sql.parquet.compression.codec",
            "zstd",
            "smaller files in the sink; `petrel verify` reads them",
        );
    }
    group
}

/// JVM options of an executor that writes the archive of its classes when it ends.
pub(super) fn archive_writing(archive: &Path) -> String {
    format!("-XX:ArchiveClassesAtExit={} -XX:+UseSerialGC", archive.display())
}

fn fast_start(archive: &Path) -> Group {
    let mut group = Group::new("fast start of executors");
    let options = format!("-XX:SharedArchiveFile={} -XX:+UseSerialGC", archive.display());
    let why = "classes come parsed from the archive (a missing one does no harm), and one thread collects a small heap; \
               executors of less than a core start in half the time with -XX:TieredStopAtLevel=1 beside these, which gives \
               up the optimising compiler";
    group.set("spark.executor.defaultJavaOptions", options, why);
    group
}

/// A cluster on the driver's own machine: the driver listens there, not on the first network card.
fn one_machine(master: &str) -> Option<Group> {
    let is_here =
        ["spark://127.0.0.1:", "spark://localhost:", "local-cluster["].iter().any(|here| master.starts_with(here));
    is_here.then(|| {
        let mut group = Group::new("cluster on this machine");
        group.set("spark.driver.host", "127.0.0.1", "executors find the driver on this machine");
        group.set("spark.driver.bindAddress", "127.0.0.1", "and nobody from outside does");
        group
    })
}
