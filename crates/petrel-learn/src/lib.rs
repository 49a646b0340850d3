//! How is a policy learned? PPO, TD3, DQN and the two-level loop, on network code of our own.
//!
//! ```text
//! Environment (classic, queue; vectorised) ─▶ rollouts ─▶ ppo / dqn / td3 ─▶ flat parameters ─▶ checkpoint ─▶ petrel-policy
//! ```

pub mod checkpoint;
pub mod curve;
pub mod dqn;
pub mod environment;
pub mod error;
pub mod lagrangian;
pub mod meta;
pub mod nn;
mod off_policy;
pub mod online;
pub mod onnx;
pub mod ppo;
pub mod queue;
pub mod presets;
pub mod run;
pub mod td3;
pub mod tensorboard;

pub use error::LearnError;
