//! What peers tell each other on the election port (protocol reference §3.1, §3.2).
//!
//! One connection per pair of servers. The caller introduces itself with an [`Introduction`]; then both sides send
//! [`Notification`]s, each behind its length.

use bytes::{BufMut, Bytes, BytesMut};

use crate::jute::{DecodeError, Reader};
use crate::zxid::{Epoch, ServerId, Zxid};

/// The longest message after the introduction.
pub const MESSAGE_LEN_MAX: usize = 512 * 1024;

/// What a server is doing, as its notifications say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// Looking for a leader.
    Looking,
    /// Following one.
    Following,
    /// Leading.
    Leading,
    /// Observing.
    Observing,
}

impl PeerState {
    fn from_wire(value: i32) -> Result<Self, DecodeError> {
        match value {
            0 => Ok(Self::Looking),
            1 => Ok(Self::Following),
            2 => Ok(Self::Leading),
            3 => Ok(Self::Observing),
            other => Err(DecodeError::Value {
                what: "the state of a notification",
                value: other.into(),
            }),
        }
    }

    fn to_wire(self) -> i32 {
        match self {
            Self::Looking => 0,
            Self::Following => 1,
            Self::Leading => 2,
            Self::Observing => 3,
        }
    }
}

/// A vote on its way to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What the sender is doing.
    pub state: PeerState,
    /// Whom it proposes or follows.
    pub leader: ServerId,
    /// The last zxid of that server.
    pub zxid: Zxid,
    /// The sender's round ("electionEpoch").
    pub round: i64,
    /// The current epoch of the proposed server.
    pub peer_epoch: Epoch,
    /// The format: 0 from servers before 3.4.6, 1 without configuration, 2 with it. Always sent as 2.
    pub version: i32,
    /// The sender's committed configuration; empty when the format has none.
    pub config: String,
}

impl Notification {
    /// The format that is sent.
    pub const VERSION: i32 = 2;

    /// Decodes a message without its length. Accepts every form that was ever sent.
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let len = message.len();
        let mut input = Reader::new(message);
        let state = PeerState::from_wire(input.read()?)?;
        let leader = input.read()?;
        let zxid: Zxid = input.read()?;
        let round = input.read()?;
        let peer_epoch = if len == 28 {
            zxid.epoch()
        } else {
            input.read()?
        };
        let version = if len <= 40 { 0 } else { input.read()? };
        let config = if version > 1 {
            input.read::<String>()?
        } else {
            String::new()
        };
        Ok(Self {
            state,
            leader,
            zxid,
            round,
            peer_epoch,
            version,
            config,
        })
    }

    /// The message, without its length.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(44 + self.config.len());
        out.put_i32(self.state.to_wire());
        out.put_i64(self.leader.0);
        out.put_i64(self.zxid.0);
        out.put_i64(self.round);
        out.put_i64(self.peer_epoch.0);
        out.put_i32(Self::VERSION);
        crate::jute::Jute::write(&self.config, &mut out);
        out.freeze()
    }
}

/// Takes the next framed message off the front of `input`; `None` when it is not all there yet.
pub fn decode_frame(input: &mut BytesMut) -> Result<Option<Bytes>, DecodeError> {
    let Some(header) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = i32::from_be_bytes(*header);
    let Some(size) = usize::try_from(len)
        .ok()
        .filter(|n| (1..=MESSAGE_LEN_MAX).contains(n))
    else {
        return Err(DecodeError::Length(len));
    };
    if input.len() < 4 + size {
        return Ok(None);
    }
    let mut frame = input.split_to(4 + size).freeze();
    Ok(Some(frame.split_off(4)))
}

/// The first bytes on an election connection: who calls, and where it can be called back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The caller. `None` stands for a nameless caller of old (`i64::MAX`).
    pub id: Option<ServerId>,
    /// Its election addresses, as (host as written, port). Empty from servers before 3.5.
    pub addresses: Vec<(String, u16)>,
}

/// The protocol with one address.
const PROTOCOL_V1: i64 = -65536;
/// The protocol with several.
const PROTOCOL_V2: i64 = -65535;
/// The longest list of addresses.
const ADDRESSES_LEN_MAX: usize = 2048;

impl Introduction {
    /// The bytes: the first protocol for one address, the second for several.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let text: Vec<String> = self
            .addresses
            .iter()
            .map(|(host, port)| join_host_port(host, *port))
            .collect();
        let text = text.join("|");
        let mut out = BytesMut::with_capacity(20 + text.len());
        out.put_i64(if self.addresses.len() > 1 {
            PROTOCOL_V2
        } else {
            PROTOCOL_V1
        });
        out.put_i64(self.id.map_or(i64::MAX, |id| id.0));
        crate::jute::Jute::write(&text, &mut out);
        out.freeze()
    }

    /// Takes an introduction off the front of `input`; `None` when it is not all there yet.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let Some(first) = input.first_chunk::<8>().copied().map(i64::from_be_bytes) else {
            return Ok(None);
        };
        if first >= 0 {
            let _ = input.split_to(8);
            return Ok(Some(Self {
                id: server_id(first),
                addresses: Vec::new(),
            }));
        }
        if first != PROTOCOL_V1 && first != PROTOCOL_V2 {
            return Err(DecodeError::Value {
                what: "the protocol of an introduction",
                value: first,
            });
        }
        let Some(header) = input.first_chunk::<20>().copied() else {
            return Ok(None);
        };
        let mut reader = Reader::new(header.to_vec());
        let (_protocol, id, len): (i64, i64, i32) =
            (reader.read()?, reader.read()?, reader.read()?);
        let Some(size) = usize::try_from(len)
            .ok()
            .filter(|n| (1..=ADDRESSES_LEN_MAX).contains(n))
        else {
            return Err(DecodeError::Length(len));
        };
        if input.len() < 20 + size {
            return Ok(None);
        }
        let message = input.split_to(20 + size);
        let text = std::str::from_utf8(&message[20..]).map_err(|_| DecodeError::Utf8)?;
        let bad = DecodeError::Value {
            what: "an address of an introduction",
            value: id,
        };
        let addresses = text
            .split('|')
            .map(split_host_port)
            .collect::<Option<_>>()
            .ok_or(bad)?;
        Ok(Some(Self {
            id: server_id(id),
            addresses,
        }))
    }
}

fn server_id(wire: i64) -> Option<ServerId> {
    (wire != i64::MAX).then_some(ServerId(wire))
}

/// `host:port`, with brackets around a literal IPv6 address.
pub(crate) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The reverse of [`join_host_port`].
pub(crate) fn split_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty()).then_some(())?;
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification() -> Notification {
        Notification {
            state: PeerState::Following,
            leader: ServerId(3),
            zxid: Zxid(0x1_0000_0005),
            round: 7,
            peer_epoch: Epoch(2),
            version: 2,
            config: "server.1=a:1:2:participant\nversion=0".into(),
        }
    }

    #[test]
    fn the_forms_of_old_servers_are_understood() {
        let new = notification();
        let bytes = new.encode();
        assert_eq!(Notification::decode(bytes.clone()), Ok(new.clone()));
        let plain = Notification {
            version: 0,
            config: String::new(),
            ..new
        };
        assert_eq!(Notification::decode(bytes.slice(..40)), Ok(plain.clone()));
        let oldest = Notification {
            peer_epoch: Epoch(1),
            ..plain
        };
        assert_eq!(Notification::decode(bytes.slice(..28)), Ok(oldest));
        assert!(Notification::decode(bytes.slice(..27)).is_err());
    }

    #[test]
    fn an_introduction_comes_back() {
        let one = Introduction {
            id: Some(ServerId(2)),
            addresses: vec![("::1".into(), 3888)],
        };
        let two = Introduction {
            id: None,
            addresses: vec![("a".into(), 1), ("b".into(), 2)],
        };
        for value in [one, two] {
            let whole = value.encode();
            for cut in 0..whole.len() {
                assert_eq!(
                    Introduction::decode(&mut BytesMut::from(&whole[..cut])),
                    Ok(None)
                );
            }
            let mut input = BytesMut::from(&whole[..]);
            input.put_u8(9);
            assert_eq!(Introduction::decode(&mut input), Ok(Some(value)));
            assert_eq!(&input[..], [9]);
        }
    }
}
