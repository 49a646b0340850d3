//! Which topics does Petrel need, with how many partitions, and what is in them?

use crate::log::TopicSpec;
use petrel_core::Domain;
use petrel_core::domain::{TOPIC_ALERTS, TOPIC_DEAD_LETTER, TOPIC_METADATA, TOPIC_RESULTS, TOPIC_VALIDATED};

/// Partitions of raw topics when nothing else is asked for.
pub const DEFAULT_PARTITIONS: u32 = 12;

/// Topics whose records nobody has to commit: they may be deleted by age and size alone.
pub const TOPICS_WITHOUT_RELEASE: [&str; 4] = [TOPIC_VALIDATED, TOPIC_ALERTS, TOPIC_RESULTS, TOPIC_DEAD_LETTER];

/// Topics that are read from their start by everybody who needs them: their newest records stay.
pub const KEPT_TOPICS: [&str; 1] = [TOPIC_METADATA];

/// All topics for `domains`: raw topics and `iot-validated` with `partitions` partitions, the others with one.
pub fn standard_topics(domains: &[Domain], partitions: u32) -> Vec<TopicSpec> {
    let partitions = partitions.max(1);
    let mut topics: Vec<TopicSpec> = Vec::new();
    for domain in domains {
        let name = domain.raw_topic();
        if topics.iter().all(|topic| topic.name != name) {
            topics.push(TopicSpec { name: name.to_string(), partitions });
        }
    }
    topics.push(TopicSpec { name: TOPIC_VALIDATED.to_string(), partitions });
    for name in [TOPIC_ALERTS, TOPIC_RESULTS, TOPIC_DEAD_LETTER, TOPIC_METADATA] {
        topics.push(TopicSpec { name: name.to_string(), partitions: 1 });
    }
    topics
}

/// What a topic holds, in words; `None` for a topic that is not Petrel's.
pub fn describe(topic: &str) -> Option<&'static str> {
    match topic {
        "iot-smart-city-raw" => Some("raw records of smart-city devices, keyed by device"),
        "iot-healthcare-raw" => Some("raw records of healthcare devices, keyed by device"),
        "iot-industrial-raw" => Some("raw records of industrial devices, keyed by device"),
        TOPIC_VALIDATED => Some("validated records, keyed by device (filled when publish_validated is set)"),
        TOPIC_ALERTS => Some("alerts that the pipeline raised, exactly once"),
        TOPIC_RESULTS => Some("closed windows of the pipeline"),
        TOPIC_DEAD_LETTER => Some("refused records, each with its reason"),
        TOPIC_METADATA => Some("device metadata (area, model, limits), keyed by device"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_topic_is_described_and_raw_topics_get_the_partitions() {
        let topics = standard_topics(&Domain::ALL, 7);
        assert_eq!(topics.len(), 8);
        for topic in &topics {
            assert!(describe(&topic.name).is_some(), "{} is not described", topic.name);
            let is_partitioned = topic.name.ends_with("-raw") || topic.name == TOPIC_VALIDATED;
            assert_eq!(topic.partitions, if is_partitioned { 7 } else { 1 }, "{}", topic.name);
        }
        assert_eq!(describe("someone-elses"), None);
    }

    #[test]
    fn a_domain_given_twice_and_zero_partitions_still_make_a_usable_list() {
        let topics = standard_topics(&[Domain::Healthcare, Domain::Healthcare], 0);
        assert_eq!(topics.iter().filter(|topic| topic.name.ends_with("-raw")).count(), 1);
        assert!(topics.iter().all(|topic| topic.partitions == 1));
    }
}
