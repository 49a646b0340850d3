//! The documented messages are the ones that are spoken.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use petrel_control::{Jobs, JobsFile, JobsSettings};
use petrel_core::{DesiredState, Heartbeat};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The text of the `index`th block of `language` in the document.
fn block(language: &str, index: usize) -> &'static str {
    let begin = format!("```{language}\n");
    let after = DOCUMENT.split(&begin).nth(index + 1).unwrap();
    after.split("```").next().unwrap()
}

/// Names of all fields of `value`, those of objects within included, but not keys that users choose.
fn fields(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                names.push(name.clone());
                if name != "lag" && name != "parts_ms" {
                    fields(inner, names);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, names)),
        _ => {}
    }
}

#[test]
fn the_example_heartbeat_has_every_field_and_is_answered_as_documented() {
    let example: Value = serde_json::from_str(block("json", 0)).unwrap();
    let heartbeat: Heartbeat = serde_json::from_value(example.clone()).unwrap();
    let (mut shown, mut spoken) = (Vec::new(), Vec::new());
    fields(&example, &mut shown);
    fields(&serde_json::to_value(&heartbeat).unwrap(), &mut spoken);
    shown.sort();
    spoken.sort();
    assert_eq!(shown, spoken);
    for name in &spoken {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name} is not described");
    }

    let folder = tempfile::tempdir().unwrap();
    let settings = JobsSettings { data_dir: folder.path().to_path_buf(), file: JobsFile::default(), record: false };
    let now_ms = heartbeat.time_ms;
    let jobs = Jobs::start(settings, now_ms).unwrap();
    let reply = serde_json::to_value(jobs.heartbeat(None, heartbeat, now_ms).unwrap()).unwrap();
    let documented: Value = serde_json::from_str(block("json", 1)).unwrap();
    serde_json::from_value::<DesiredState>(documented.clone()).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&reply), names(&documented));
}

#[test]
fn fields_that_are_optional_may_be_absent_and_unknown_ones_are_ignored() {
    let mut example: Value = serde_json::from_str(block("json", 0)).unwrap();
    let object = example.as_object_mut().unwrap();
    for optional in ["engine", "mode", "queries", "tasks", "outcomes"] {
        object.remove(optional).unwrap();
    }
    object.insert("colour".to_string(), Value::from("red"));
    for (list, optional) in [
        ("executors", &["pid", "host", "slots"][..]),
        ("batches", &["query", "parts_ms", "task_run_ms", "tasks", "executors", "input_bytes"][..]),
    ] {
        let entry = object[list][0].as_object_mut().unwrap();
        optional.iter().for_each(|name| drop(entry.remove(*name).unwrap()));
    }
    assert_eq!(serde_json::from_value::<Heartbeat>(example).unwrap().sequence, 17);
}

#[test]
fn the_example_jobs_file_is_read() {
    let file = JobsFile::parse(block("toml", 0)).unwrap();
    assert_eq!((file.names().collect::<Vec<_>>(), file.accepts_unknown()), (vec!["smart-city"], false));
}
