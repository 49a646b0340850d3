//! What do a remote log and its server say to each other? Pure encoding and decoding, no sockets.
//!
//! A message is `length u32 │ body`; a connection begins with a fixed greeting from each side. Decoding never panics
//! and allocates no more than the message has bytes.

use crate::binary::{FieldReader, put_string, put_u32, put_u64};
use crate::error::LogError;
use crate::log::{OffsetRange, TopicPartition, TopicSpec};
use crate::packed::{MAX_RAW_BYTES, PACKED_HEADER_BYTES};
use petrel_core::InvalidValue;
use std::io::{self, Read, Write};

/// Changes whenever a message or the packed batch changes.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
const GREETING: [u8; 8] = *b"petrelog";
pub(crate) const GREETING_BYTES: usize = 16;
/// Largest message: one append, with room for its heads.
pub(crate) const MAX_MESSAGE_BYTES: usize = MAX_RAW_BYTES + (12 << 20);

/// What the server thinks of a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Welcome {
    Accepted,
    TooManyConnections,
}

/// The greeting of either side; the client always says `Accepted`.
pub(crate) fn greeting(version: u32, welcome: Welcome) -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(&GREETING);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12] = u8::from(welcome == Welcome::TooManyConnections);
    bytes
}

/// Checks the greeting of the other side; the reason of a refusal is for people.
pub(crate) fn check_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<Welcome, String> {
    if bytes[..8] != GREETING {
        return Err("it does not speak the protocol of a petrel log".to_string());
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if version != PROTOCOL_VERSION {
        return Err(format!(
            "it speaks version {version} of the log protocol, this program speaks version {PROTOCOL_VERSION}; use the same build on both sides"
        ));
    }
    Ok(if bytes[12] == 0 { Welcome::Accepted } else { Welcome::TooManyConnections })
}

/// Reads one message into `body`. Memory grows with the bytes that arrive, not with the length that was claimed.
pub(crate) fn read_message(stream: &mut impl Read, body: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE_BYTES {
        let detail = format!("a message of {length} bytes was announced, at most {MAX_MESSAGE_BYTES} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    body.clear();
    if stream.take(length as u64).read_to_end(body)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Fills in the length in front of a message that was encoded with room for it.
pub(crate) fn put_length(message: &mut [u8]) {
    let length = (message.len() - 4) as u32;
    message[..4].copy_from_slice(&length.to_le_bytes());
}

/// Writes one message that was encoded with room for its length in front.
pub(crate) fn write_message(stream: &mut impl Write, message: &mut [u8]) -> io::Result<()> {
    put_length(message);
    stream.write_all(message)?;
    stream.flush()
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    CreateTopics(Vec<TopicSpec>),
    Topics,
    Offsets { topic: &'a str },
    Fetch { at: TopicPartition, from: u64, to: u64, max_bytes: u32 },
    Release { at: TopicPartition, offset: u64 },
    OpenProducer { id: &'a str },
    Append { id: &'a str, epoch: u64, position: u64, batches: Vec<(TopicPartition, &'a [u8])> },
}

fn put_at(out: &mut Vec<u8>, at: &TopicPartition) {
    put_string(out, &at.topic);
    put_u32(out, at.partition);
}

fn take_at(reader: &mut FieldReader<'_>) -> Result<TopicPartition, String> {
    Ok(TopicPartition { topic: reader.string()?.to_string(), partition: reader.u32()? })
}

fn put_topics(out: &mut Vec<u8>, topics: &[TopicSpec]) {
    put_u32(out, topics.len() as u32);
    for topic in topics {
        put_string(out, &topic.name);
        put_u32(out, topic.partitions);
    }
}

fn take_topics(reader: &mut FieldReader<'_>) -> Result<Vec<TopicSpec>, String> {
    let count = reader.count(6)?;
    (0..count).map(|_| Ok(TopicSpec { name: reader.string()?.to_string(), partitions: reader.u32()? })).collect()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(reader: &mut FieldReader<'a>) -> Result<&'a [u8], String> {
    let length = reader.count(1)?;
    reader.bytes(length)
}

impl<'a> Request<'a> {
    /// The message, with room for its length in front.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Request::CreateTopics(topics) => {
                out.push(1);
                put_topics(&mut out, topics);
            }
            Request::Topics => out.push(2),
            Request::Offsets { topic } => {
                out.push(3);
                put_string(&mut out, topic);
            }
            Request::Fetch { at, from, to, max_bytes } => {
                out.push(4);
                put_at(&mut out, at);
                put_u64(&mut out, *from);
                put_u64(&mut out, *to);
                put_u32(&mut out, *max_bytes);
            }
            Request::Release { at, offset } => {
                out.push(5);
                put_at(&mut out, at);
                put_u64(&mut out, *offset);
            }
            Request::OpenProducer { id } => {
                out.push(6);
                put_string(&mut out, id);
            }
            Request::Append { id, epoch, position, batches } => {
                let payload: usize = batches.iter().map(|(at, packed)| at.topic.len() + 16 + packed.len()).sum();
                out.reserve(64 + id.len() + payload);
                out.push(7);
                put_string(&mut out, id);
                put_u64(&mut out, *epoch);
                put_u64(&mut out, *position);
                put_u32(&mut out, batches.len() as u32);
                for (at, packed) in batches {
                    put_at(&mut out, at);
                    put_bytes(&mut out, packed);
                }
            }
        }
        out
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, String> {
        let mut reader = FieldReader::new(body);
        let request = match reader.u8()? {
            1 => Request::CreateTopics(take_topics(&mut reader)?),
            2 => Request::Topics,
            3 => Request::Offsets { topic: reader.string()? },
            4 => Request::Fetch {
                at: take_at(&mut reader)?,
                from: reader.u64()?,
                to: reader.u64()?,
                max_bytes: reader.u32()?,
            },
            5 => Request::Release { at: take_at(&mut reader)?, offset: reader.u64()? },
            6 => Request::OpenProducer { id: reader.string()? },
            7 => {
                let (id, epoch, position) = (reader.string()?, reader.u64()?, reader.u64()?);
                let count = reader.count(10)?;
                let batches = (0..count)
                    .map(|_| Ok((take_at(&mut reader)?, take_bytes(&mut reader)?)))
                    .collect::<Result<_, String>>()?;
                Request::Append { id, epoch, position, batches }
            }
            other => return Err(format!("request kind {other} is not known")),
        };
        reader.end()?;
        Ok(request)
    }
}

/// What the server answers.
#[derive(Debug)]
pub(crate) enum Response<'a> {
    Done,
    Topics(Vec<TopicSpec>),
    Offsets(Vec<OffsetRange>),
    /// Base offset and packed batch.
    Batches(Vec<(u64, &'a [u8])>),
    Producer {
        epoch: u64,
        position: u64,
    },
    Failed(LogError),
}

impl<'a> Response<'a> {
    /// The message, with room for its length in front.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Response::Done => out.push(1),
            Response::Topics(topics) => {
                out.push(2);
                put_topics(&mut out, topics);
            }
            Response::Offsets(ranges) => {
                out.push(3);
                put_u32(&mut out, ranges.len() as u32);
                for range in ranges {
                    put_u64(&mut out, range.start);
                    put_u64(&mut out, range.end);
                }
            }
            Response::Batches(batches) => {
                out.reserve(16 + batches.iter().map(|(_, packed)| 12 + packed.len()).sum::<usize>());
                out.push(4);
                put_u32(&mut out, batches.len() as u32);
                for (base_offset, packed) in batches {
                    put_u64(&mut out, *base_offset);
                    put_bytes(&mut out, packed);
                }
            }
            Response::Producer { epoch, position } => {
                out.push(5);
                put_u64(&mut out, *epoch);
                put_u64(&mut out, *position);
            }
            Response::Failed(error) => {
                out.push(6);
                put_error(&mut out, error);
            }
        }
        out
    }

    /// Reads an answer; errors of the log itself name `address` where they need a place.
    pub(crate) fn decode(body: &'a [u8], address: &str) -> Result<Self, String> {
        let mut reader = FieldReader::new(body);
        let response = match reader.u8()? {
            1 => Response::Done,
            2 => Response::Topics(take_topics(&mut reader)?),
            3 => {
                let count = reader.count(16)?;
                let ranges = (0..count).map(|_| Ok(OffsetRange { start: reader.u64()?, end: reader.u64()? }));
                Response::Offsets(ranges.collect::<Result<_, String>>()?)
            }
            4 => {
                let count = reader.count(12)?;
                let batches = (0..count).map(|_| Ok((reader.u64()?, take_bytes(&mut reader)?)));
                Response::Batches(batches.collect::<Result<_, String>>()?)
            }
            5 => Response::Producer { epoch: reader.u64()?, position: reader.u64()? },
            6 => Response::Failed(take_error(&mut reader, address)?),
            other => return Err(format!("answer kind {other} is not known")),
        };
        reader.end()?;
        Ok(response)
    }
}

fn put_error(out: &mut Vec<u8>, error: &LogError) {
    match error {
        LogError::UnknownTopic { topic } => {
            out.push(1);
            put_string(out, topic);
        }
        LogError::UnknownPartition { topic, partition, partitions } => {
            out.push(2);
            put_string(out, topic);
            put_u32(out, *partition);
            put_u32(out, *partitions);
        }
        LogError::PartitionCount { topic, actual, wanted } => {
            out.push(3);
            put_string(out, topic);
            put_u32(out, *actual);
            put_u32(out, *wanted);
        }
        LogError::OffsetOutOfRange { topic, partition, offset, start, end } => {
            out.push(4);
            put_string(out, topic);
            put_u32(out, *partition);
            put_u64(out, *offset);
            put_u64(out, *start);
            put_u64(out, *end);
        }
        LogError::Full { used_bytes, budget_bytes } => {
            out.push(5);
            put_u64(out, *used_bytes);
            put_u64(out, *budget_bytes);
        }
        LogError::Fenced { id } => {
            out.push(6);
            put_string(out, id);
        }
        LogError::Corrupt { path, position, detail } => {
            out.push(7);
            put_string(out, path);
            put_u64(out, *position);
            put_string(out, detail);
        }
        LogError::Invalid(InvalidValue { field, value, expected }) => {
            out.push(8);
            put_string(out, field);
            put_string(out, value);
            put_string(out, expected);
        }
        LogError::Remote { detail, .. } => {
            out.push(9);
            put_string(out, detail);
        }
        LogError::Io { .. } => {
            out.push(9);
            put_string(out, &error.to_string());
        }
    }
}

fn take_error(reader: &mut FieldReader<'_>, address: &str) -> Result<LogError, String> {
    Ok(match reader.u8()? {
        1 => LogError::UnknownTopic { topic: reader.string()?.to_string() },
        2 => LogError::UnknownPartition {
            topic: reader.string()?.to_string(),
            partition: reader.u32()?,
            partitions: reader.u32()?,
        },
        3 => LogError::PartitionCount {
            topic: reader.string()?.to_string(),
            actual: reader.u32()?,
            wanted: reader.u32()?,
        },
        4 => LogError::OffsetOutOfRange {
            topic: reader.string()?.to_string(),
            partition: reader.u32()?,
            offset: reader.u64()?,
            start: reader.u64()?,
            end: reader.u64()?,
        },
        5 => LogError::Full { used_bytes: reader.u64()?, budget_bytes: reader.u64()? },
        6 => LogError::Fenced { id: reader.string()?.to_string() },
        7 => LogError::Corrupt {
            path: reader.string()?.to_string(),
            position: reader.u64()?,
            detail: reader.string()?.to_string(),
        },
        8 => LogError::Invalid(InvalidValue::new(reader.string()?, reader.string()?, reader.string()?)),
        9 => LogError::Remote { address: address.to_string(), detail: reader.string()?.to_string() },
        other => return Err(format!("error kind {other} is not known")),
    })
}

/// Bytes that a fetch may ask for, so that its answer fits into a message.
pub(crate) fn clamp_fetch_bytes(max_bytes: usize) -> u32 {
    // The last batch may overshoot by a whole one, hence the generous distance to the largest message.
    max_bytes.min(8 << 20) as u32
}

const _: () = assert!(MAX_MESSAGE_BYTES >= MAX_RAW_BYTES + (8 << 20) + 1024 * PACKED_HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = TopicPartition> {
        ("[a-z]{0,20}", any::<u32>()).prop_map(|(topic, partition)| TopicPartition { topic, partition })
    }

    fn error(kind: u8, text: &str, a: u64, b: u32) -> LogError {
        let (topic, c) = (text.to_string(), u64::from(b));
        match kind {
            0 => LogError::UnknownTopic { topic },
            1 => LogError::UnknownPartition { topic, partition: b, partitions: 9 },
            2 => LogError::PartitionCount { topic, actual: b, wanted: 1 },
            3 => LogError::OffsetOutOfRange { topic, partition: b, offset: a, start: c, end: a },
            4 => LogError::Full { used_bytes: a, budget_bytes: c },
            5 => LogError::Fenced { id: topic },
            6 => LogError::Corrupt { path: topic, position: a, detail: "d".into() },
            7 => LogError::Invalid(InvalidValue::new(topic, a, "x")),
            _ => LogError::Remote { address: "here".into(), detail: topic },
        }
    }

    proptest! {
        #[test]
        fn every_request_comes_back(
            at in place(), a in any::<u64>(), b in any::<u64>(), c in any::<u32>(),
            packed in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
        ) {
            let topics = vec![TopicSpec { name: at.topic.clone(), partitions: c }];
            let batches = packed.iter().map(|bytes| (at.clone(), bytes.as_slice())).collect();
            let requests = [
                Request::CreateTopics(topics),
                Request::Topics,
                Request::Offsets { topic: &at.topic },
                Request::Fetch { at: at.clone(), from: a, to: b, max_bytes: c },
                Request::Release { at: at.clone(), offset: a },
                Request::OpenProducer { id: &at.topic },
                Request::Append { id: &at.topic, epoch: a, position: b, batches },
            ];
            for request in requests {
                let message = request.encode();
                prop_assert_eq!(Request::decode(&message[4..]).unwrap(), request);
            }
        }

        #[test]
        fn every_answer_comes_back(
            name in "[a-z]{0,20}", a in any::<u64>(), b in any::<u32>(), kind in 0_u8..9,
            packed in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
        ) {
            let answers = [
                Response::Done,
                Response::Topics(vec![TopicSpec { name: name.clone(), partitions: b }]),
                Response::Offsets(vec![OffsetRange { start: a, end: 7 }; 3]),
                Response::Batches(packed.iter().map(|bytes| (a, bytes.as_slice())).collect()),
                Response::Producer { epoch: a, position: 3 },
                Response::Failed(error(kind, &name, a, b)),
            ];
            for answer in answers {
                let message = answer.encode();
                let back = Response::decode(&message[4..], "here").unwrap();
                prop_assert_eq!(format!("{back:?}"), format!("{answer:?}"));
            }
        }

        #[test]
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..9) {
            let _ = Request::decode(&body);
            let _ = Response::decode(&body, "here");
            let mut likely = vec![kind];
            likely.extend_from_slice(&body);
            let _ = Request::decode(&likely);
            let _ = Response::decode(&likely, "here");
        }

        #[test]
        fn a_message_cut_anywhere_is_refused(name in "[a-z]{1,20}", cut in any::<prop::sample::Index>()) {
            let message = Request::OpenProducer { id: &name }.encode();
            let body = &message[4..];
            prop_assert!(Request::decode(&body[..cut.index(body.len())]).is_err());
        }
    }

    #[test]
    fn an_announced_length_allocates_only_what_arrives() {
        let mut body = Vec::new();
        let mut claims_much: &[u8] = &[0, 0, 0, 5, 1, 2, 3];
        assert_eq!(read_message(&mut claims_much, &mut body).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(body.capacity() < 1 << 16, "{} bytes were allocated for 3", body.capacity());
        let mut claims_too_much: &[u8] = &[255, 255, 255, 255, 1];
        assert_eq!(read_message(&mut claims_too_much, &mut body).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn another_version_is_refused_with_both_numbers() {
        assert_eq!(check_greeting(&greeting(1, Welcome::Accepted)), Ok(Welcome::Accepted));
        assert_eq!(check_greeting(&greeting(1, Welcome::TooManyConnections)), Ok(Welcome::TooManyConnections));
        let refusal = check_greeting(&greeting(7, Welcome::Accepted)).unwrap_err();
        assert!(refusal.contains("version 7") && refusal.contains("version 1"), "{refusal}");
        assert!(check_greeting(b"GET / HTTP/1.1\r\n").is_err());
    }
}
