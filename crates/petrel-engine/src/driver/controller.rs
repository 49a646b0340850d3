//! How does the driver talk to its controller?
//!
//! Once a second a heartbeat goes out and the desired state comes back. While the controller is silent the engine keeps
//! the executors it has; when it speaks again nothing needs to be repaired, as desired state is absolute.

use super::Shared;
use crate::engine::Engine;
use crate::error::EngineError;
use petrel_core::DesiredState;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Starts the thread that posts heartbeats to `controller`, for example `http://127.0.0.1:8700`.
pub(super) fn start(shared: Arc<Shared>, controller: &str) -> Result<JoinHandle<()>, EngineError> {
    let url = format!("{}/api/v1/heartbeat", controller.trim_end_matches('/'));
    thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || beat(&shared, &url))
        .map_err(|source| EngineError::Io { what: "cannot start thread heartbeat".into(), source })
}

fn beat(shared: &Arc<Shared>, url: &str) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into();
    let mut last_answer = Instant::now();
    let mut is_silent = false;
    let mut next = Instant::now();
    loop {
        next = (next + BEAT).max(Instant::now());
        if shared.wait_for_end(next.saturating_duration_since(Instant::now())) {
            // The batches of the last second belong into the controller's figures too.
            if let Err(reason) = post(&agent, url, &shared.heartbeat()) {
                tracing::debug!(reason, "last heartbeat not answered");
            }
            return;
        }
        let heartbeat = shared.heartbeat();
        match post(&agent, url, &heartbeat) {
            Ok(desired) => {
                shared.acknowledge(heartbeat.sequence);
                last_answer = Instant::now();
                if is_silent {
                    is_silent = false;
                    tracing::info!("controller is back");
                }
                if let Err(error) = shared.apply(&desired) {
                    tracing::warn!(decision = desired.decision_id, %error, "desired state refused");
                }
            }
            Err(reason) if !is_silent && last_answer.elapsed() > SILENCE_LIMIT => {
                is_silent = true;
                tracing::warn!(
                    reason,
                    executors = shared.desired_executors(),
                    "controller is silent, executors are held"
                );
            }
            Err(reason) => tracing::debug!(reason, "heartbeat not answered"),
        }
    }
}

fn post(agent: &ureq::Agent, url: &str, heartbeat: &petrel_core::Heartbeat) -> Result<DesiredState, String> {
    let mut response = agent.post(url).send_json(heartbeat).map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        let text = response.body_mut().read_to_string().unwrap_or_default();
        return Err(format!("{}: {}", response.status(), text.chars().take(500).collect::<String>()));
    }
    response.body_mut().read_json().map_err(|error| error.to_string())
}
