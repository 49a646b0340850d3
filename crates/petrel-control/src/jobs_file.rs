//! Which jobs may a controller of many steer, and how? One TOML file.

use crate::check::is_token;
use crate::settings::ControlSettings;
use petrel_core::{InvalidValue, Policy};
use petrel_policy::policies::Learned;
use petrel_policy::{PolicySettings, by_name};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MAX_JOBS: usize = 20_000;
const ROWS_KEPT: u64 = 2_000;
/// Stands where a token is not shown.
const SECRET: &str = "***";

/// Settings of many jobs: what holds for all, and what differs for some. Keys are named like the flags of `petrel up`.
///
/// ```
/// use petrel_control::JobsFile;
///
/// let file = JobsFile::parse(r#"
///     accept-unknown = false
///
///     [defaults]
///     max-executors = 20
///
///     [jobs."smart city"]
///     policy = "mpc"
///     token = "secret"
///     gateways = ["north", "south"]
/// "#)?;
/// assert_eq!(file.names().collect::<Vec<_>>(), ["smart city"]);
/// assert!(JobsFile::parse("[defaults]\nmax-executors = 0\n").is_err());
/// # Ok::<(), petrel_core::InvalidValue>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct JobsFile {
    /// Whether a job that the file does not name is steered by the defaults; by default only when it names none.
    accept_unknown: Option<bool>,
    #[serde(default = "max_jobs")]
    max_jobs: usize,
    #[serde(default)]
    defaults: JobKeys,
    #[serde(default)]
    jobs: BTreeMap<String, JobKeys>,
    /// What was read from the files of `policy-file`.
    #[serde(skip)]
    trained: BTreeMap<PathBuf, Learned>,
}

fn max_jobs() -> usize {
    MAX_JOBS
}

/// What may be set for a job; what is absent is as in the defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct JobKeys {
    policy: Option<String>,
    policy_file: Option<PathBuf>,
    policy_settings: Option<PolicySettings>,
    fixed_executors: Option<u32>,
    interval: Option<f64>,
    slo_p95_ms: Option<f64>,
    min_executors: Option<u32>,
    max_executors: Option<u32>,
    max_step_up: Option<u32>,
    max_step_down: Option<u32>,
    scale_down_hold: Option<f64>,
    budget_usd_per_hour: Option<f64>,
    advice_only: Option<bool>,
    token: Option<String>,
    gateways: Option<Vec<String>>,
    capacity_prior: Option<f64>,
    rows_kept: Option<u64>,
}

/// Everything that is set for one job.
#[derive(Debug, Clone)]
pub(crate) struct JobRules {
    pub(crate) settings: ControlSettings,
    /// File of the policy that decides instead of the one that the settings name.
    pub(crate) policy_file: Option<PathBuf>,
    pub(crate) token: Option<String>,
    /// Gateways whose signals count; all of them when absent.
    pub(crate) gateways: Option<Vec<String>>,
    pub(crate) rows_kept: u64,
}

impl JobsFile {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first key that is wrong, what it holds and what would have been taken.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let file: Self = toml::from_str(text).map_err(|error| refused(text, &error))?;
        if file.max_jobs == 0 || file.jobs.len() > file.max_jobs {
            let expected = format!("at least 1 and the {} jobs named in the file", file.jobs.len());
            return Err(InvalidValue::new("max-jobs", file.max_jobs, expected));
        }
        file.check("defaults", None)?;
        for name in file.jobs.keys() {
            crate::check::check_job_name(name)?;
            file.check(&format!("jobs.{name:?}"), Some(name))?;
        }
        Ok(file)
    }

    /// Names of the jobs in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.jobs.keys().map(String::as_str)
    }

    /// Whether jobs that the file does not name are steered.
    pub fn accepts_unknown(&self) -> bool {
        self.accept_unknown.unwrap_or(self.jobs.is_empty())
    }

    /// Most jobs at once.
    pub fn max_jobs(&self) -> usize {
        self.max_jobs
    }

    /// The files with trained policies that jobs have as `policy-file`, as they are written there. Each is to be read and
    /// [provided](Self::provide) before jobs are started with it.
    pub fn policy_files(&self) -> BTreeSet<PathBuf> {
        self.jobs.values().chain([&self.defaults]).filter_map(|keys| keys.policy_file.clone()).collect()
    }

    /// Gives jobs the policy that was read from one of [`Self::policy_files`].
    pub fn provide(&mut self, path: PathBuf, policy: Learned) {
        self.trained.insert(path, policy);
    }

    /// The policy that decides under `rules`. Jobs with the same file share the parameters of its network.
    ///
    /// # Errors
    /// [`InvalidValue`] when there is none of that name, or its file was not provided.
    pub(crate) fn policy(
        &self,
        policy_file: Option<&Path>,
        settings: &ControlSettings,
    ) -> Result<Box<dyn Policy>, InvalidValue> {
        let Some(path) = policy_file else { return by_name(&settings.policy, &settings.policy_settings) };
        match self.trained.get(path) {
            Some(policy) => Ok(Box::new(policy.clone())),
            None => Err(InvalidValue::new("policy-file", path.display(), "a policy file that was read")),
        }
    }

    pub(crate) fn has(&self, job: &str) -> bool {
        self.jobs.contains_key(job)
    }

    /// What holds for `job`; for jobs that the file does not name, without one.
    pub(crate) fn rules(&self, job: Option<&str>) -> JobRules {
        let nothing = JobKeys::default();
        let own = job.and_then(|job| self.jobs.get(job)).unwrap_or(&nothing);
        let all = &self.defaults;
        let mut settings = ControlSettings::new(job.unwrap_or_default(), Path::new(""));
        fn set<T: Clone>(place: &mut T, own: &Option<T>, all: &Option<T>) {
            if let Some(value) = own.as_ref().or(all.as_ref()) {
                place.clone_from(value);
            }
        }
        // The job's own choice, be it a name or a file, replaces that of the defaults.
        let chosen = if own.policy.is_some() || own.policy_file.is_some() { own } else { all };
        set(&mut settings.policy, &chosen.policy, &None);
        if let Some(policy) = chosen.policy_file.as_ref().and_then(|path| self.trained.get(path)) {
            settings.policy = policy.name().to_string();
        }
        set(&mut settings.policy_settings, &own.policy_settings, &all.policy_settings);
        set(&mut settings.policy_settings.fixed_executors, &own.fixed_executors, &all.fixed_executors);
        set(&mut settings.interval_s, &own.interval, &all.interval);
        set(&mut settings.slo.p95_ms, &own.slo_p95_ms, &all.slo_p95_ms);
        let limits = &mut settings.limits;
        set(&mut limits.min_executors, &own.min_executors, &all.min_executors);
        set(&mut limits.max_executors, &own.max_executors, &all.max_executors);
        limits.max_step_up = limits.max_executors;
        set(&mut limits.max_step_up, &own.max_step_up, &all.max_step_up);
        set(&mut limits.max_step_down, &own.max_step_down, &all.max_step_down);
        set(&mut limits.scale_down_hold_s, &own.scale_down_hold, &all.scale_down_hold);
        set(&mut limits.budget_usd_per_hour, &own.budget_usd_per_hour, &all.budget_usd_per_hour);
        set(&mut settings.advice_only, &own.advice_only, &all.advice_only);
        set(&mut settings.capacity_prior, &own.capacity_prior, &all.capacity_prior);
        settings.policy_settings.forecast.margin_s = settings.interval_s;
        JobRules {
            settings,
            policy_file: chosen.policy_file.clone(),
            token: own.token.clone().or_else(|| all.token.clone()),
            gateways: own.gateways.clone().or_else(|| all.gateways.clone()),
            rows_kept: own.rows_kept.or(all.rows_kept).unwrap_or(ROWS_KEPT),
        }
    }

    /// The keys of `job`; those of the defaults without one.
    fn keys(&self, job: Option<&str>) -> &JobKeys {
        job.and_then(|job| self.jobs.get(job)).unwrap_or(&self.defaults)
    }

    fn check(&self, place: &str, job: Option<&str>) -> Result<(), InvalidValue> {
        let rules = self.rules(job);
        let wrong = |mut error: InvalidValue| {
            error.field = format!("{place}.{}", error.field);
            error
        };
        rules.settings.validate().map_err(wrong)?;
        by_name(&rules.settings.policy, &rules.settings.policy_settings).map_err(wrong)?;
        if let JobKeys { policy: Some(policy), policy_file: Some(path), .. } = self.keys(job) {
            let expected = format!("either policy or policy-file; policy is `{policy}`");
            return Err(wrong(InvalidValue::new("policy-file", path.display(), expected)));
        }
        // Those of the defaults are looked at once, not again for each of thousands of jobs.
        if let Some(settings) = self.keys(job).policy_settings {
            let settings = toml::Value::try_from(settings)
                .map_err(|error| wrong(InvalidValue::new("policy-settings", error, "settings of policies")))?;
            check_numbers("policy-settings", &settings).map_err(wrong)?;
        }
        let hold_s = rules.settings.limits.scale_down_hold_s;
        if !(hold_s.is_finite() && hold_s >= 0.0) {
            return Err(wrong(InvalidValue::new("scale-down-hold", hold_s, "a number of at least 0")));
        }
        rules.token.as_deref().map_or(Ok(()), check_token).map_err(wrong)?;
        if rules.rows_kept == 0 {
            return Err(wrong(InvalidValue::new("rows-kept", 0, "at least 1")));
        }
        Ok(())
    }
}

impl Default for JobsFile {
    /// Every job is taken, with the defaults.
    fn default() -> Self {
        Self {
            accept_unknown: None,
            max_jobs: MAX_JOBS,
            defaults: JobKeys::default(),
            jobs: BTreeMap::new(),
            trained: BTreeMap::new(),
        }
    }
}

/// A job could never tell another one.
fn check_token(token: &str) -> Result<(), InvalidValue> {
    if is_token(token) {
        return Ok(());
    }
    let shown = if token.is_empty() { "" } else { SECRET };
    let expected = "1 to 1024 visible ASCII characters without spaces; leave the key out for none";
    Err(InvalidValue::new("token", shown, expected))
}

/// No setting of a policy is negative, and none is "not a number".
fn check_numbers(place: &str, value: &toml::Value) -> Result<(), InvalidValue> {
    match value {
        toml::Value::Table(table) => {
            table.iter().try_for_each(|(key, value)| check_numbers(&format!("{place}.{key}"), value))
        }
        toml::Value::Float(number) if !(number.is_finite() && *number >= 0.0) => {
            Err(InvalidValue::new(place, number, "a number of at least 0"))
        }
        _ => Ok(()),
    }
}

/// `line` up to the word token: a secret may follow, with or without quotes.
fn without_secret(line: &str) -> String {
    const WORD: &str = "token";
    match line.to_ascii_lowercase().find(WORD) {
        Some(at) => format!("{} {SECRET}", &line[..at + WORD.len()]),
        None => line.to_string(),
    }
}

/// The parser's word with the line that it is about.
fn refused(text: &str, error: &toml::de::Error) -> InvalidValue {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let number = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    let line = without_secret(text.lines().nth(number).unwrap_or_default().trim());
    // What it expects comes last, as in "invalid type: string, expected f64"; not every message says it.
    let message = error.message();
    let expected = message.rsplit_once(", expected ").map_or(message, |(_, expected)| expected);
    InvalidValue::new(format!("jobs file, line {}", number + 1), line, expected.replace('\n', " "))
}
