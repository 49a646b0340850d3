//! How do the settings look on paper? As a shell script, or as a properties file.

use super::conf::{Group, TOKEN, archive_writing, settings};
use super::install::{Release, find_jar};
use super::job::{Connector, Jars, JobOptions};
use crate::commands::print;
use crate::error::CommandError;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `petrel spark conf`.
#[derive(Args)]
pub(super) struct ConfArgs {
    /// Release of Spark: 3.5, 4, or a full version such as 3.5.7
    #[arg(long, default_value = "3.5", value_name = "VERSION", value_parser = Release::parse)]
    spark: Release,
    /// What to print: the command with its settings, lines for spark-defaults.conf, or a file for --properties-file
    #[arg(long, value_enum, default_value_t = Format::Submit)]
    format: Format,
    #[command(flatten)]
    options: JobOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Submit,
    Defaults,
    Properties,
}

pub(super) fn run(args: &ConfArgs) -> Result<ExitCode, CommandError> {
    let options = &args.options;
    options.check()?;
    let plugin = match &options.jar {
        Some(jar) => find_jar("--jar", Some(jar), &args.spark)?.display().to_string(),
        None => args.spark.jar_name(),
    };
    let jars = Jars { plugin, connector: Connector::find(options.connector.as_deref(), &args.spark)? };
    print(&page(args, &jars));
    Ok(ExitCode::SUCCESS)
}

fn page(args: &ConfArgs, jars: &Jars) -> String {
    let groups = settings(&args.options, jars);
    let mut text =
        format!("# Spark {} under Petrel. The controller: petrel control --listen HOST:PORT\n", args.spark.version);
    text.push_str(match args.format {
        Format::Submit => "#\n# A setting that your job makes itself wins over one of these.\n",
        Format::Defaults => "#\n# Lines for conf/spark-defaults.conf.\n",
        Format::Properties => {
            "#\n# A file for spark-submit --properties-file, which takes the place of spark-defaults.conf.\n"
        }
    });
    match args.format {
        Format::Submit => text.push_str(&script(&args.options, &groups)),
        Format::Defaults => text.push_str(&lines(&groups, " ")),
        Format::Properties => text.push_str(&lines(&groups, "=")),
    }
    if args.options.fast_start.is_some() && args.format != Format::Submit {
        text.push_str("\n# How the archive of classes is made: the same with --format submit\n");
    }
    text.push_str(ASYNCHRONOUS_PROGRESS);
    text
}

/// An option of a query, not of the job, and refused by Spark everywhere else.
const ASYNCHRONOUS_PROGRESS: &str = "
# A query from Kafka to Kafka without state may also write its progress beside the next batch, which saves 100 ms and more
# of each: .option(\"asyncProgressTrackingEnabled\", \"true\") on its writeStream. Its results are then at least once.
# Not for file sinks, aggregates or joins.
";

/// Settings one a line, each below its reason.
pub(super) fn lines(groups: &[Group], separator: &str) -> String {
    let mut text = String::new();
    for group in groups {
        text.push_str(&format!("\n# -- {}\n", group.heading));
        for setting in &group.settings {
            // Spark reads both kinds of file as Java properties, where a backslash escapes.
            let value = setting.value.replace('\\', r"\\");
            text.push_str(&format!("# {}\n{}{separator}{value}\n", setting.why, setting.key));
        }
    }
    text
}

fn script(options: &JobOptions, groups: &[Group]) -> String {
    let mut text = "conf=(\n".to_string();
    for group in groups {
        text.push_str(&format!("  # -- {}\n", group.heading));
        for setting in &group.settings {
            if setting.key == TOKEN {
                text.push_str(
                    "  # The token is not here, where everybody on the host could read it: export PETREL_TOKEN=...\n",
                );
                continue;
            }
            let pair = quoted(&format!("{}={}", setting.key, setting.value));
            text.push_str(&format!("  # {}\n  --conf {pair}\n", setting.why));
        }
    }
    text.push_str(")\n");
    let job = command(options);
    let master = quoted(&options.master);
    if let Some(archive) = &options.fast_start {
        let options = quoted(&format!("spark.executor.defaultJavaOptions={}", archive_writing(archive)));
        let folder = archive.parent().unwrap_or(Path::new("/")).display();
        text.push_str(&format!(
            "
# Once, and again after an update of Java, Spark or the plugin: let one executor run for a minute, then Ctrl-C. When it
# ends it writes the archive on its worker. Copy that to the same path on every worker ({folder} must be there).
#
# spark-submit --master {master} \"${{conf[@]}}\" --conf spark.plugins= \\
#   --conf spark.dynamicAllocation.minExecutors=1 --conf spark.dynamicAllocation.initialExecutors=1 \\
#   --conf spark.dynamicAllocation.maxExecutors=1 --conf {options} \\
#   {}
",
            job.replace('\n', "\n#")
        ));
    }
    text.push_str(&format!("\nspark-submit --master {master} \"${{conf[@]}}\" \\\n  {job}\n"));
    text
}

/// The job and its arguments, one to a line.
fn command(options: &JobOptions) -> String {
    let job = options.job.clone().unwrap_or_else(|| PathBuf::from("stream.py"));
    let folder = |given: &Option<PathBuf>, usual: &str| given.clone().unwrap_or_else(|| PathBuf::from(usual));
    let sink = folder(&options.builtin.sink, "/shared/petrel/sink");
    let checkpoint = folder(&options.builtin.checkpoint, "/shared/petrel/checkpoint");
    let mut words = vec![quoted(&job.display().to_string())];
    words.extend(options.job_arguments(&sink, &checkpoint, None).iter().map(|word| quoted(word)));
    words.join(" \\\n    ")
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_word_back() {
        for word in ["plain-1.jar", "", "two words", "it's", "$HOME `x` \"y\" \\", "spark://h:1", "a;b"] {
            let output =
                std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
