//! Where does a setting come from? Command line, then environment, then `--config FILE` (TOML), then
//! the built-in default: the first that names it wins.
//!
//! A TOML key is the long flag without dashes (`max-executors = 6`); keys for one subcommand stand under its
//! name (`[up]`). The file's values become the defaults of the flags, so that one parser judges all sources.

use crate::error::CommandError;
use clap::{CommandFactory, FromArgMatches};
use petrel_core::InvalidValue;
use std::ffi::OsString;

pub(crate) fn parse<C: CommandFactory + FromArgMatches>() -> Result<C, CommandError> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut command = C::command();
    let subcommand = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default().to_string();
    if let Some(path) = config_path(&arguments) {
        let text = std::fs::read_to_string(&path).map_err(CommandError::io(format!("--config {path}")))?;
        command = with_file_defaults(command, &subcommand, &path, &text)?;
    }
    let mut matches = command.clone().try_get_matches_from_mut(arguments)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command).into())
}

fn config_path(arguments: &[OsString]) -> Option<String> {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(str::to_string);
        }
        if let Some(path) = word.strip_prefix("--config=") {
            return Some(path.to_string());
        }
    }
    std::env::var("PETREL_CONFIG").ok()
}

fn with_file_defaults(
    mut command: clap::Command,
    subcommand: &str,
    path: &str,
    text: &str,
) -> Result<clap::Command, CommandError> {
    let file: toml::Table = text.parse().map_err(|error| not_toml(path, text, &error))?;
    let Some(target) = command.find_subcommand_mut(subcommand) else { return Ok(command) };
    let known: Vec<String> = target.get_arguments().filter_map(|arg| arg.get_long().map(str::to_string)).collect();
    let mut tuned = std::mem::take(target);
    for (key, value) in settings_for(&file, subcommand, path)? {
        let flag = key.replace('_', "-");
        if !known.contains(&flag) || flag == "config" {
            let allowed = format!("one of {}", known.join(", "));
            return Err(InvalidValue::new(format!("{path}: key"), key, allowed).into());
        }
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) => items.iter().map(scalar_text).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        let id = tuned.get_arguments().find(|arg| arg.get_long() == Some(&flag)).map(|arg| arg.get_id().clone());
        if let Some(id) = id {
            tuned = tuned.mut_arg(id, |arg| arg.default_value(text));
        }
    }
    *target = tuned;
    Ok(command)
}

fn not_toml(path: &str, text: &str, error: &toml::de::Error) -> InvalidValue {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
    let line_number = before.matches('\n').count();
    let line = text.lines().nth(line_number).unwrap_or_default();
    let expected = format!("TOML such as `max-executors = 6` ({})", error.message());
    InvalidValue::new(format!("{path} line {}", line_number + 1), line, expected)
}

fn scalar_text(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn settings_for<'f>(
    file: &'f toml::Table,
    subcommand: &str,
    path: &str,
) -> Result<Vec<(&'f String, &'f toml::Value)>, InvalidValue> {
    let mut settings: Vec<_> = file.iter().filter(|(_, value)| !value.is_table()).collect();
    match file.get(subcommand) {
        Some(toml::Value::Table(section)) => settings.extend(section.iter()),
        Some(other) => return Err(InvalidValue::new(format!("{path}: {subcommand}"), other, "a table of settings")),
        None => {}
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn command() -> Command {
        let level = Arg::new("level").long("max-level").default_value("3").value_parser(clap::value_parser!(u8));
        Command::new("petrel").subcommand(Command::new("up").arg(level))
    }

    #[test]
    fn a_file_value_is_a_default_and_the_command_line_wins() {
        let tuned = with_file_defaults(command(), "up", "p.toml", "[up]\nmax-level = 7\n").unwrap();
        let level = |words: &[&str]| {
            let matches = tuned.clone().try_get_matches_from(words).unwrap();
            *matches.subcommand_matches("up").unwrap().get_one::<u8>("level").unwrap()
        };
        assert_eq!(level(&["petrel", "up"]), 7);
        assert_eq!(level(&["petrel", "up", "--max-level", "9"]), 9);
    }

    #[test]
    fn a_line_that_is_not_toml_is_named() {
        let error = with_file_defaults(command(), "up", "p.toml", "[up]\nmax-level: 3\n").unwrap_err().to_string();
        assert!(error.starts_with("p.toml line 2: got `max-level: 3`, expected TOML such as"), "{error}");
    }

    #[test]
    fn an_unknown_key_and_a_wrong_value_are_named() {
        let error = with_file_defaults(command(), "up", "p.toml", "maxlevel = 7\n").unwrap_err();
        assert_eq!(error.to_string(), "p.toml: key: got `maxlevel`, expected one of max-level");
        let tuned = with_file_defaults(command(), "up", "p.toml", "max-level = 700\n").unwrap();
        let error = tuned.try_get_matches_from(["petrel", "up"]).unwrap_err().to_string();
        assert!(error.contains("'700'") && error.contains("--max-level"), "{error}");
    }
}
