//! How do devices speak to a gateway? MQTT 3.1.1 and 5, one thread, no runtime between socket and disk.

pub mod packet;
pub(crate) mod server;
