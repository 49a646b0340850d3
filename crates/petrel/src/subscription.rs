//! How is an MQTT broker listened to? A thread of its own, which subscribes again whenever the broker comes back.

use crate::broker::BrokerAddress;
use crate::error::CommandError;
use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
use std::time::Duration;

const KEEP_ALIVE: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const REQUESTS_WAITING: usize = 64;

/// Calls `hear` with topic and payload of every message on `topics`, for as long as the process lives.
pub(crate) fn subscribe(
    broker: &BrokerAddress,
    topics: &'static [&'static str],
    hear: impl FnMut(&str, &[u8]) + Send + 'static,
) -> Result<(), CommandError> {
    let mut options = MqttOptions::new(format!("petrel-controller-{}", std::process::id()), &broker.host, broker.port);
    options.set_keep_alive(KEEP_ALIVE);
    let (client, connection) = Client::new(options, REQUESTS_WAITING);
    let listening = move || listen(&client, connection, topics, hear);
    let spawned = std::thread::Builder::new().name("signals".to_string()).spawn(listening);
    spawned.map(drop).map_err(CommandError::io("thread of the signals"))
}

fn listen(client: &Client, mut connection: Connection, topics: &[&str], mut hear: impl FnMut(&str, &[u8])) {
    for event in connection.iter() {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for topic in topics {
                    if let Err(error) = client.try_subscribe(*topic, QoS::AtLeastOnce) {
                        tracing::warn!(topic, %error, "not subscribed");
                    }
                }
            }
            Ok(Event::Incoming(Packet::Publish(message))) => hear(&message.topic, &message.payload),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "broker is away");
                std::thread::sleep(RECONNECT_PAUSE);
            }
        }
    }
}
