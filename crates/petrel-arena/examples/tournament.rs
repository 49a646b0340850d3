//! Plays a tournament without the rest of Petrel: `cargo run --release -p petrel-arena --example tournament -- OUT [TRACES]
//! [key=value ...]`, with keys `seeds`, `episode`, `threads`, `worlds`, `players`, `trace`, `scale`, `ablations`, `tune`, `curves`.

use petrel_arena::tournament::Progress;
use petrel_arena::tune::{TuneSettings, tune};
use petrel_arena::{ArenaError, Common, Settings, run};
use petrel_core::InvalidValue;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

fn main() -> ExitCode {
    match play() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> Result<String, ArenaError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (pairs, places): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| argument.contains('='));
    let value = |name: &str| {
        pairs.iter().find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
    };
    let number = |name: &str, default: u64| match value(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| InvalidValue::new(name, text, "a whole number")),
    };
    let list = |name: &str| -> Vec<String> {
        value(name).map(|text| text.split(',').map(str::to_string).collect()).unwrap_or_default()
    };
    let default = Common::default();
    let common = Common {
        traces: places.get(1).map(PathBuf::from),
        episode_s: number("episode", default.episode_s as u64)? as usize,
        threads: number("threads", 0)? as usize,
        ..default
    };
    let out = places.first().map_or_else(|| PathBuf::from("petrel-arena"), PathBuf::from);
    let start = Instant::now();
    let last = Mutex::new(0);
    let tell = |progress: Progress<'_>| match progress {
        Progress::Played { done, games } => {
            let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if done * 20 / games.max(1) != *last {
                *last = done * 20 / games.max(1);
                eprintln!("{:7.1} s  {done} of {games}", start.elapsed().as_secs_f64());
            }
        }
        other => eprintln!("{:7.1} s  {other:?}", start.elapsed().as_secs_f64()),
    };
    if let Some(trials) = value("tune") {
        let settings = TuneSettings {
            common,
            players: list("players"),
            trials: trials.parse().map_err(|_| InvalidValue::new("tune", trials, "a number of trials"))?,
            windows: number("windows", 2)? as usize,
            game_seeds: 1,
            seed: 1,
            write: out.join("tuned.toml"),
            out,
        };
        return tune(&settings, &tell);
    }
    let mut settings = Settings {
        common,
        players: list("players"),
        seeds: number("seeds", 10)?,
        out,
        trace: value("trace").map(PathBuf::from),
        ablations: value("ablations").is_some(),
        tuned: value("tuned").map(PathBuf::from),
        curves: list("curves").into_iter().map(PathBuf::from).collect(),
        date: value("date").unwrap_or_default().to_string(),
        command: format!("tournament {}", arguments.join(" ")),
        ..Settings::default()
    };
    if let Some(scale) = value("scale") {
        settings.scale = scale.parse()?;
    }
    if value("worlds").is_some() {
        settings.worlds = list("worlds").iter().map(|world| world.parse()).collect::<Result<_, _>>()?;
    }
    Ok(run(&settings, &tell)?.text)
}
