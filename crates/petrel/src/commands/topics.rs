//! `petrel topics apply|describe`: the topics of a log.

use crate::error::CommandError;
use crate::options::{check_domains, whole};
use clap::{Args, Subcommand};
use petrel_core::Domain;
use petrel_ingest::topics::{describe, standard_topics};
use std::process::ExitCode;

/// Arguments of `petrel topics`.
#[derive(Args)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    action: TopicsAction,
}

#[derive(Subcommand)]
enum TopicsAction {
    /// Makes the topics that are missing
    Apply {
        /// The log: petrel://HOST:PORT or kafka://HOST:PORT
        #[arg(long, env = "PETREL_LOG_URL", value_name = "URL")]
        log: String,
        /// Domains whose raw topics are made
        #[arg(long, value_delimiter = ',', default_value = "smart-city,healthcare,industrial", value_name = "LIST")]
        domains: Vec<Domain>,
        /// Partitions of the raw topics
        #[arg(long, default_value_t = 12, value_parser = whole::<u32>(1..=1_000))]
        partitions: u32,
    },
    /// Lists the topics with their partitions, records and purpose
    Describe {
        /// The log: petrel://HOST:PORT or kafka://HOST:PORT
        #[arg(long, env = "PETREL_LOG_URL", value_name = "URL")]
        log: String,
    },
}

pub(crate) fn run(args: &TopicsArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    match &args.action {
        TopicsAction::Apply { log, domains, partitions } => {
            check_domains(domains)?;
            let topics = standard_topics(domains, *partitions);
            petrel_ingest::connect(log)?.create_topics(&topics)?;
            println!("{} topics are in place", topics.len());
        }
        TopicsAction::Describe { log } => {
            let log = petrel_ingest::connect(log)?;
            println!("{:<26} {:>10} {:>14}  purpose", "topic", "partitions", "records kept");
            for topic in log.topics()? {
                let kept: u64 = log.offsets(&topic.name)?.iter().map(|range| range.end - range.start).sum();
                let purpose = describe(&topic.name).unwrap_or("not one of Petrel's");
                println!("{:<26} {:>10} {:>14}  {purpose}", topic.name, topic.partitions, kept);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
