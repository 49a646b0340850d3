//! How does a policy in service become better without risking the job? The two-level loop of `petrel train --online`.
//!
//! ```text
//! decision log ─▶ samples ─▶ improve (advantage-weighted regression) ─▶ candidate
//!                    │                                                    │
//!                    ├──▶ off-policy evaluation: would it have paid? ─────┤  no ─▶ refused, with the reason
//!                    └──▶ shadow evaluation on the twin, same arrivals ───┤  no ─▶ refused, with the reason
//!                                                                        yes
//!                                      versions: promoted ◀── promote ────┘
//!                                                │  ▲
//!                                                └──┘ roll back: the previous version's bytes
//! ```
//!
//! Nothing here acts on the job. A promoted policy still speaks through the guardrails; what it wishes is bounded whatever
//! it has learned. Off-policy evaluation judges wishes: guardrails are part of the world that the wish is sent into.

pub mod calibrate;
pub mod evaluate;
pub mod improve;
pub mod log;
mod model;
pub mod queue;
pub mod shadow;
pub mod versions;

use crate::error::LearnError;
use evaluate::{EvaluateSettings, OffPolicyReport, evaluate};
use improve::{ImproveSettings, improve};
use log::{ChoicePolicy, ChoiceRule, Encoding, LoggedStep, RewardSettings, Samples};
use petrel_core::Policy;
use petrel_policy::network::Mlp;
use serde::{Deserialize, Serialize};
use shadow::{ShadowReport, ShadowSettings, Twin, compare};
use versions::Versions;

/// Settings; the fields are the flags of `petrel train --online`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnlineSettings {
    /// How the policy in service turns its network's outputs into a choice.
    pub rule: ChoiceRule,
    /// What an interval was worth.
    pub reward: RewardSettings,
    /// The update.
    pub improve: ImproveSettings,
    /// The first gate.
    pub evaluate: EvaluateSettings,
    /// The second gate.
    pub shadow: ShadowSettings,
}

/// How a policy's file is read and made; the loop itself knows networks only.
pub trait PolicyFormat {
    /// The network in a policy's file: all heads' logits one after the other, then at most one value.
    ///
    /// # Errors
    /// [`LearnError`] when the bytes are not a policy.
    fn network(&self, bytes: &[u8]) -> Result<Mlp, LearnError>;

    /// The same file with another network; everything else in it, a meta-controller for example, stays.
    ///
    /// # Errors
    /// [`LearnError`] when the bytes are not a policy or the network does not fit.
    fn with_network(&self, bytes: &[u8], network: &Mlp) -> Result<Vec<u8>, LearnError>;

    /// The policy as it would run.
    ///
    /// # Errors
    /// [`LearnError`] when the bytes are not a policy.
    fn policy(&self, bytes: &[u8]) -> Result<Box<dyn Policy>, LearnError>;
}

/// What came of one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Number of the candidate's version.
    pub version: u32,
    /// True when it is now in service.
    pub promoted: bool,
    /// Why, one sentence for each gate that was reached.
    pub reasons: Vec<String>,
    /// The first gate's figures.
    pub off_policy: OffPolicyReport,
    /// The second gate's figures; `None` when the first gate refused.
    pub shadow: Option<ShadowReport>,
}

/// One round: a candidate is learned from the log, judged twice, kept with its verdict, and promoted when both gates say so.
///
/// # Errors
/// [`LearnError`] when the log is too short, a file is wrong or the disk fails. The policy in service is then the same as
/// before.
pub fn round<E: Encoding>(
    settings: &OnlineSettings,
    steps: impl IntoIterator<Item = LoggedStep>,
    encoding: &mut E,
    format: &impl PolicyFormat,
    twin: &impl Twin,
    versions: &mut Versions,
) -> Result<Verdict, LearnError> {
    let samples = Samples::gather(steps, encoding, &settings.reward)?;
    let in_service = versions.promoted_bytes()?;
    let network = format.network(&in_service)?;
    let candidate = improve(&settings.improve, &samples, &network)?;
    let candidate_bytes = format.with_network(&in_service, &candidate)?;
    judge(settings, &samples, &in_service, candidate_bytes, format, twin, versions)
}

/// The two gates alone, for a candidate that comes from elsewhere, for example from a training run on the twin.
///
/// # Errors
/// As [`round`].
pub fn judge(
    settings: &OnlineSettings,
    samples: &Samples,
    in_service: &[u8],
    candidate_bytes: Vec<u8>,
    format: &impl PolicyFormat,
    twin: &impl Twin,
    versions: &mut Versions,
) -> Result<Verdict, LearnError> {
    let choice = |bytes: &[u8]| ChoicePolicy::new(format.network(bytes)?, &samples.heads, settings.rule);
    let off_policy = evaluate(&settings.evaluate, samples, &mut choice(&candidate_bytes)?, &mut choice(in_service)?)?;
    let (passed_first, reason) = off_policy.verdict(&settings.evaluate);
    let mut reasons = vec![reason];
    let mut shadow = None;
    let mut promoted = false;
    if passed_first {
        let report =
            compare(&settings.shadow, twin, &|| format.policy(&candidate_bytes), &|| format.policy(in_service))?;
        let (passed_second, reason) = report.verdict(&settings.shadow);
        reasons.push(reason);
        shadow = Some(report);
        promoted = passed_second;
    }
    let version = versions.add(&candidate_bytes, &reasons)?;
    if promoted {
        versions.promote(version)?;
    }
    Ok(Verdict { version, promoted, reasons, off_policy, shadow })
}

#[cfg(test)]
mod tests;
