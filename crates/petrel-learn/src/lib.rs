//! How is a policy learned? PPO, TD3, DQN and the two-level loop, on network code of our own.
//!
//! ```text
//! environment, queue (worlds, many at once) ──observations──▶ network ──choices──▶ worlds
//!        │ rewards, violations                                   ▲
//!        ▼                                                       │ parameters
//!   rollout or replay ─▶ ppo, lagrangian, dqn, td3 ─▶ nn: gradient, clip, Adam
//!                                                                │
//!   checkpoint (resume exactly), tensorboard, curve, onnx ◀──────┴─▶ policy file ─▶ petrel-policy decides with it
//! ```
//!
//! # One network code
//!
//! A policy is a small multi-layer perceptron in one flat buffer ([`petrel_policy::network`]). [`nn`] trains that buffer in
//! batches: matrix products by `faer`, everything else in kernels that exist once for every CPU generation. Gradients are
//! checked by finite differences in double precision and, with loss and optimiser, against PyTorch.
//!
//! # One policy for all weights
//!
//! Each training episode draws its weights of cost, latency and throughput, and shows them to the policy
//! ([`environment::WeightChoice`]). Priorities are then switched by changing three inputs, without training again.
//!
//! # The same run again
//!
//! Everything random is a function of the seed and the iteration. A run with the same seed and number of threads gives the
//! same parameters bit for bit, and so does one that was killed and resumed from a checkpoint.
//!
//! # Example
//!
//! ```
//! use petrel_learn::environment::{ClassicEnvironment, ClassicTask};
//! use petrel_learn::ppo::{Ppo, PpoSettings};
//!
//! let settings = PpoSettings { rollout_steps: 64, minibatch: 512, learning_rate: 2e-3, discount: 0.0, ..PpoSettings::default() };
//! let environments = ClassicEnvironment::new(16, ClassicTask::default())?;
//! let mut ppo = Ppo::new(settings, vec![environments])?;
//! let first = ppo.iterate();
//! let last = (0..60).map(|_| ppo.iterate()).last().unwrap_or(first);
//! assert!(last.violation_rate < 0.1 && first.violation_rate > 0.5);
//! let mut network = ppo.state().network()?;
//! assert_eq!(network.infer(&[0.5; 29]).len(), 20 + 8 + 4 + 3 + 1);
//! # Ok::<(), petrel_learn::LearnError>(())
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
pub mod presets;
pub mod queue;
pub mod run;
pub mod td3;
pub mod tensorboard;
pub mod validate;

pub use error::LearnError;
