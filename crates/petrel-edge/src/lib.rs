//! The edge: gateways that take records from devices and promise durability, and the device fleet that
//! plays the devices.
//!
//! A gateway is an MQTT endpoint itself, because only the one who acknowledges can promise durability: a
//! QoS 1 PUBACK leaves after the message is in the write-ahead queue on disk. Behind the queue a forwarder
//! carries records into the log exactly once; beside it, on threads of their own, alerts (a hint, at least
//! once) and one forecast signal a second go to the core broker.
//!
//! ```text
//! fleet ──MQTT──▶ endpoint ─▶ intake (validate) ─▶ wal (group commit, fsync) ─▶ forward ─▶ log
//!                    ▲                               │
//!                    └──────────── PUBACK ───────────┤
//!                                                    └─▶ fast lane: alerts ─┐
//! records/s, once a second ─▶ forecast ─▶ signal ──────────────────────────┴▶ core broker
//! ```
//!
//! Where an MQTT broker exists already, a gateway can be its subscriber instead of an endpoint ([`upstream`]).
//!
//! # Example
//!
//! The endpoint reads MQTT from a byte stream without holding more than one packet:
//!
//! ```
//! use petrel_edge::endpoint::packet::{Packet, PacketSplitter};
//! use std::ops::ControlFlow;
//!
//! let mut splitter = PacketSplitter::new(1024);
//! let mut pings = 0;
//! // PINGREQ is the two bytes C0 00; here the second one arrives later.
//! for chunk in [&[0xc0][..], &[0x00, 0xc0, 0x00][..]] {
//!     splitter.feed(chunk, |packet| {
//!         pings += usize::from(matches!(packet, Packet::Whole { first_byte: 0xc0, .. }));
//!         ControlFlow::Continue(())
//!     })?;
//! }
//! assert_eq!(pings, 2);
//! # Ok::<(), petrel_edge::endpoint::packet::Malformed>(())
//! ```

pub mod endpoint;
pub mod error;
pub mod fleet;
pub mod gateway;
pub mod ledger;
pub mod upstream;
pub mod wal;

pub use error::EdgeError;
pub use gateway::{Gateway, GatewaySettings, GatewayStatus};
pub use upstream::{UpstreamBroker, UpstreamState, UpstreamStatus};
