//! What a leader and its learners tell each other on the quorum port (protocol reference §4.1).
//!
//! The stream is a plain sequence of `QuorumPacket` records without any length in front. [`decode_packet`] therefore
//! measures a record before it reads it.

use bytes::{BufMut, Bytes, BytesMut};

use super::data::{Id, SessionTimeout};
use crate::jute::{self, DecodeError, Jute, Reader};
use crate::record;
use crate::zxid::{Epoch, ServerId, SessionId, Zxid};

/// The only protocol that is spoken ("Zab 1.0", since 3.4).
pub const PROTOCOL_VERSION: i32 = 0x10000;

/// After the protocol's number in LEADERINFO: this leader records moves of clients. ("move")
const RECORDS_MOVES: i32 = 0x6d6f_7665;

/// What a leader says of itself in LEADERINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderInfo {
    /// [`PROTOCOL_VERSION`].
    pub protocol: i32,
    /// Whether it writes into the history when a client moves with its session. Apache's leaders do not, and its learners
    /// pass over what says so.
    pub records_moves: bool,
}

impl Jute for LeaderInfo {
    const MIN_LEN: usize = 4;

    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let protocol = input.read()?;
        let rest = input.rest();
        Ok(Self {
            protocol,
            records_moves: rest == RECORDS_MOVES.to_be_bytes()[..],
        })
    }

    fn write(&self, out: &mut BytesMut) {
        self.protocol.write(out);
        if self.records_moves {
            RECORDS_MOVES.write(out);
        }
    }
}

record! {
    /// The record on the wire.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct QuorumPacket {
        /// One of the numbers in [`kind`].
        pub kind: i32,
        /// What it is depends on the kind.
        pub zxid: Zxid,
        /// What it is depends on the kind.
        pub data: Option<Bytes>,
        /// Who the client of a REQUEST is.
        pub auth: Option<Vec<Id>>,
    }
}

record! {
    /// What a learner tells about itself.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LearnerInfo {
        /// Its id.
        pub id: ServerId,
        /// [`PROTOCOL_VERSION`].
        pub protocol: i32,
        /// The version of its committed configuration.
        pub config_version: Zxid,
    }
}

/// A transaction on its way: the exact bytes of its log entry (header, body, digest).
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The transaction's id.
    pub zxid: Zxid,
    /// Header, transaction and digest, as in the log.
    pub data: Bytes,
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({} B)", self.zxid, self.data.len())
    }
}

/// Header type of a reconfiguration.
const RECONFIG: [u8; 4] = 16i32.to_be_bytes();
/// Bytes of a transaction's header; its type is the last field.
const TXN_HEADER_LEN: usize = 32;

impl Proposal {
    /// The text of the new configuration, if this is a reconfiguration. The one thing that the protocol itself has to
    /// know about a transaction.
    pub fn reconfig(&self) -> Result<Option<String>, DecodeError> {
        if self.data.get(TXN_HEADER_LEN - 4..TXN_HEADER_LEN) != Some(&RECONFIG[..]) {
            return Ok(None);
        }
        let mut input = Reader::new(self.data.slice(TXN_HEADER_LEN..));
        let _path: String = input.read()?;
        input.read::<String>().map(Some)
    }
}

/// A client's request on its way from a learner to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The client's session.
    pub session: SessionId,
    /// The client's number of the request.
    pub xid: i32,
    /// The op code.
    pub op: i32,
    /// The request's record, as the client sent it.
    pub body: Bytes,
    /// Who the client is.
    pub auth: Option<Vec<Id>>,
}

/// A message between leader and learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// learner → leader: a client's write.
    Request(ForwardedRequest),
    /// leader → follower: log this.
    Proposal(Proposal),
    /// learner → leader: it is on my disk.
    Ack(Zxid),
    /// leader → follower: apply it.
    Commit(Zxid),
    /// Both ways: the leader's with its last proposed zxid and no sessions; the answer with the sessions that were active.
    Ping {
        /// The leader's last proposed zxid; echoed.
        zxid: Zxid,
        /// Sessions that were active since the last answer.
        sessions: Option<Vec<SessionTimeout>>,
    },
    /// learner → leader: does this session still live?
    Revalidate(SessionTimeout),
    /// leader → learner: the answer.
    Revalidated {
        /// The session.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// leader → learner: your oldest sync is done.
    Sync,
    /// leader → observer: this was committed.
    Inform(Proposal),
    /// leader → follower: commit a reconfiguration and make it the configuration.
    CommitAndActivate {
        /// The reconfiguration.
        zxid: Zxid,
        /// Who leads from now on.
        leader: ServerId,
    },
    /// leader → learner: the history is complete; once it is durable, acknowledge.
    NewLeader {
        /// The new epoch.
        epoch: Epoch,
        /// The configuration that the leader has seen last.
        config: Option<Bytes>,
    },
    /// follower → leader: the first message.
    FollowerInfo {
        /// The last epoch that it agreed to.
        accepted_epoch: Epoch,
        /// The rest.
        info: LearnerInfo,
    },
    /// leader → learner: serve.
    UpToDate,
    /// leader → learner: your history is a prefix of mine; what is missing follows.
    Diff(Zxid),
    /// leader → learner: cut your history back to here; what is missing follows.
    Trunc(Zxid),
    /// leader → learner: a snapshot follows in the stream, then what is newer.
    Snap(Zxid),
    /// observer → leader: the first message.
    ObserverInfo {
        /// The last epoch that it agreed to.
        accepted_epoch: Epoch,
        /// The rest.
        info: LearnerInfo,
    },
    /// leader → learner: the new epoch.
    LeaderInfo {
        /// The new epoch.
        epoch: Epoch,
        /// What it speaks.
        leader: LeaderInfo,
    },
    /// learner → leader: agreed.
    AckEpoch {
        /// The end of the learner's history.
        last_zxid: Zxid,
        /// The epoch that its history belongs to; `None` if it had agreed to the new epoch before.
        current_epoch: Option<Epoch>,
    },
    /// leader → observer: a reconfiguration was committed.
    InformAndActivate {
        /// The reconfiguration.
        proposal: Proposal,
        /// Who leads from now on.
        leader: ServerId,
    },
}

/// The packets' numbers.
pub mod kind {
    #![allow(
        missing_docs,
        reason = "the names are the documentation: see the variants of Packet"
    )]
    pub const REQUEST: i32 = 1;
    pub const PROPOSAL: i32 = 2;
    pub const ACK: i32 = 3;
    pub const COMMIT: i32 = 4;
    pub const PING: i32 = 5;
    pub const REVALIDATE: i32 = 6;
    pub const SYNC: i32 = 7;
    pub const INFORM: i32 = 8;
    pub const COMMIT_AND_ACTIVATE: i32 = 9;
    pub const NEW_LEADER: i32 = 10;
    pub const FOLLOWER_INFO: i32 = 11;
    pub const UP_TO_DATE: i32 = 12;
    pub const DIFF: i32 = 13;
    pub const TRUNC: i32 = 14;
    pub const SNAP: i32 = 15;
    pub const OBSERVER_INFO: i32 = 16;
    pub const LEADER_INFO: i32 = 17;
    pub const ACK_EPOCH: i32 = 18;
    pub const INFORM_AND_ACTIVATE: i32 = 19;
}

/// What stands in for a zxid where there is none.
const NO_ZXID: Zxid = Zxid(-1);

impl Packet {
    /// The record for the wire.
    #[must_use]
    pub fn to_wire(&self) -> QuorumPacket {
        let plain = |kind, zxid: Zxid, data| QuorumPacket {
            kind,
            zxid,
            data,
            auth: None,
        };
        match self {
            Self::Request(request) => QuorumPacket {
                kind: kind::REQUEST,
                zxid: NO_ZXID,
                data: Some(request_data(request)),
                auth: request.auth.clone(),
            },
            Self::Proposal(p) => plain(kind::PROPOSAL, p.zxid, Some(p.data.clone())),
            Self::Ack(zxid) => plain(kind::ACK, *zxid, None),
            Self::Commit(zxid) => plain(kind::COMMIT, *zxid, None),
            Self::Ping { zxid, sessions } => {
                plain(kind::PING, *zxid, sessions.as_deref().map(sessions_data))
            }
            Self::Revalidate(session) => {
                plain(kind::REVALIDATE, NO_ZXID, Some(jute::encode(session)))
            }
            Self::Revalidated { session, valid } => {
                plain(kind::REVALIDATE, NO_ZXID, Some(pair(session, valid)))
            }
            Self::Sync => plain(kind::SYNC, Zxid::ZERO, None),
            Self::Inform(p) => plain(kind::INFORM, p.zxid, Some(p.data.clone())),
            Self::CommitAndActivate { zxid, leader } => {
                plain(kind::COMMIT_AND_ACTIVATE, *zxid, Some(jute::encode(leader)))
            }
            Self::NewLeader { epoch, config } => {
                plain(kind::NEW_LEADER, epoch.start(), config.clone())
            }
            Self::FollowerInfo {
                accepted_epoch,
                info,
            } => plain(
                kind::FOLLOWER_INFO,
                accepted_epoch.start(),
                Some(jute::encode(info)),
            ),
            Self::UpToDate => plain(kind::UP_TO_DATE, NO_ZXID, None),
            Self::Diff(zxid) => plain(kind::DIFF, *zxid, None),
            Self::Trunc(zxid) => plain(kind::TRUNC, *zxid, None),
            Self::Snap(zxid) => plain(kind::SNAP, *zxid, None),
            Self::ObserverInfo {
                accepted_epoch,
                info,
            } => plain(
                kind::OBSERVER_INFO,
                accepted_epoch.start(),
                Some(jute::encode(info)),
            ),
            Self::LeaderInfo { epoch, leader } => {
                plain(kind::LEADER_INFO, epoch.start(), Some(jute::encode(leader)))
            }
            Self::AckEpoch {
                last_zxid,
                current_epoch,
            } => {
                let epoch =
                    current_epoch.map_or(-1, |e| i32::try_from(e.0).expect("an epoch has 32 bits"));
                plain(kind::ACK_EPOCH, *last_zxid, Some(jute::encode(&epoch)))
            }
            Self::InformAndActivate { proposal, leader } => {
                let mut data = BytesMut::with_capacity(8 + proposal.data.len());
                leader.write(&mut data);
                data.put_slice(&proposal.data);
                plain(
                    kind::INFORM_AND_ACTIVATE,
                    proposal.zxid,
                    Some(data.freeze()),
                )
            }
        }
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        self.to_wire().write(out);
    }

    /// What a record means.
    pub fn from_wire(wire: QuorumPacket) -> Result<Self, DecodeError> {
        let QuorumPacket {
            kind,
            zxid,
            data,
            auth,
        } = wire;
        let bytes = data.clone().unwrap_or_default();
        Ok(match kind {
            kind::REQUEST => {
                let mut input = Reader::new(bytes);
                let (session, xid, op) = (input.read()?, input.read()?, input.read()?);
                Self::Request(ForwardedRequest {
                    session,
                    xid,
                    op,
                    body: input.rest(),
                    auth,
                })
            }
            kind::PROPOSAL => Self::Proposal(proposal(zxid, bytes)?),
            kind::ACK => Self::Ack(zxid),
            kind::COMMIT => Self::Commit(zxid),
            kind::PING => Self::Ping {
                zxid,
                sessions: data.map(read_sessions).transpose()?,
            },
            kind::REVALIDATE if bytes.len() == 9 => {
                let mut input = Reader::new(bytes);
                Self::Revalidated {
                    session: input.read()?,
                    valid: input.read()?,
                }
            }
            kind::REVALIDATE => Self::Revalidate(jute::decode(bytes)?),
            kind::SYNC => Self::Sync,
            kind::INFORM => Self::Inform(proposal(zxid, bytes)?),
            kind::COMMIT_AND_ACTIVATE => Self::CommitAndActivate {
                zxid,
                leader: jute::decode(bytes)?,
            },
            kind::NEW_LEADER => Self::NewLeader {
                epoch: epoch_start(zxid)?,
                config: data,
            },
            kind::FOLLOWER_INFO => Self::FollowerInfo {
                accepted_epoch: epoch_start(zxid)?,
                info: jute::decode(bytes)?,
            },
            kind::UP_TO_DATE => Self::UpToDate,
            kind::DIFF => Self::Diff(zxid),
            kind::TRUNC => Self::Trunc(zxid),
            kind::SNAP => Self::Snap(zxid),
            kind::OBSERVER_INFO => Self::ObserverInfo {
                accepted_epoch: epoch_start(zxid)?,
                info: jute::decode(bytes)?,
            },
            kind::LEADER_INFO => Self::LeaderInfo {
                epoch: epoch_start(zxid)?,
                leader: jute::decode(bytes)?,
            },
            kind::ACK_EPOCH => {
                let epoch: i32 = jute::decode(bytes)?;
                Self::AckEpoch {
                    last_zxid: zxid,
                    current_epoch: (epoch != -1).then_some(Epoch(epoch.into())),
                }
            }
            kind::INFORM_AND_ACTIVATE => {
                let mut input = Reader::new(bytes);
                let leader = input.read()?;
                Self::InformAndActivate {
                    proposal: proposal(zxid, input.rest())?,
                    leader,
                }
            }
            other => {
                return Err(DecodeError::Value {
                    what: "the type of a quorum packet",
                    value: other.into(),
                });
            }
        })
    }
}

/// A transaction has at least a header, and its zxid is that of the packet.
fn proposal(zxid: Zxid, data: Bytes) -> Result<Proposal, DecodeError> {
    if data.len() < TXN_HEADER_LEN {
        return Err(DecodeError::Short {
            wanted: TXN_HEADER_LEN,
            left: data.len(),
        });
    }
    let inner: Zxid = Reader::new(data.slice(12..20)).read()?;
    if inner != zxid {
        return Err(DecodeError::Value {
            what: "the zxid in a proposal's header",
            value: inner.0,
        });
    }
    Ok(Proposal { zxid, data })
}

fn epoch_start(zxid: Zxid) -> Result<Epoch, DecodeError> {
    if zxid.counter() != 0 || zxid.0 < 0 {
        return Err(DecodeError::Value {
            what: "the zxid that stands for an epoch",
            value: zxid.0,
        });
    }
    Ok(zxid.epoch())
}

fn request_data(request: &ForwardedRequest) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + request.body.len());
    request.session.write(&mut out);
    request.xid.write(&mut out);
    request.op.write(&mut out);
    out.put_slice(&request.body);
    out.freeze()
}

fn pair(session: &SessionId, valid: &bool) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    session.write(&mut out);
    valid.write(&mut out);
    out.freeze()
}

fn sessions_data(sessions: &[SessionTimeout]) -> Bytes {
    let mut out = BytesMut::with_capacity(sessions.len() * 12);
    for session in sessions {
        session.write(&mut out);
    }
    out.freeze()
}

fn read_sessions(data: Bytes) -> Result<Vec<SessionTimeout>, DecodeError> {
    let mut input = Reader::new(data);
    let mut sessions = Vec::with_capacity(input.left() / SessionTimeout::MIN_LEN);
    while input.left() > 0 {
        sessions.push(input.read()?);
    }
    Ok(sessions)
}

/// Takes the next packet off the front of `input`; `None` when it is not all there yet. No record may be longer than
/// `max_len`. After [`Packet::Snap`] the stream is not packets until the snapshot has ended.
pub fn decode_packet(input: &mut BytesMut, max_len: usize) -> Result<Option<Packet>, DecodeError> {
    let Some(len) = packet_len(input, max_len)? else {
        return Ok(None);
    };
    let record = input.split_to(len).freeze();
    Packet::from_wire(jute::decode(record)?).map(Some)
}

/// The length of the record at the front of `bytes`, without reading more than its length fields.
fn packet_len(bytes: &[u8], max_len: usize) -> Result<Option<usize>, DecodeError> {
    // kind, zxid
    let Some(mut at) = skip_buffer(bytes, 12, max_len)? else {
        return Ok(None);
    };
    let Some(ids) = read_i32(bytes, at) else {
        return Ok(None);
    };
    if ids < -1 || usize::try_from(ids).is_ok_and(|n| n.saturating_mul(8) > max_len) {
        return Err(DecodeError::Length(ids));
    }
    at += 4;
    for _ in 0..ids.max(0) {
        for _scheme_and_id in 0..2 {
            let Some(next) = skip_buffer(bytes, at, max_len)? else {
                return Ok(None);
            };
            at = next;
        }
    }
    Ok(Some(at))
}

fn skip_buffer(bytes: &[u8], at: usize, max_len: usize) -> Result<Option<usize>, DecodeError> {
    let Some(len) = read_i32(bytes, at) else {
        return Ok(None);
    };
    let size = if len == -1 {
        0
    } else {
        usize::try_from(len).map_err(|_| DecodeError::Length(len))?
    };
    let end = at + 4 + size;
    if end > max_len {
        return Err(DecodeError::Length(len));
    }
    Ok((end <= bytes.len()).then_some(end))
}

fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .copied()
        .map(i32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_decoded_only_when_it_is_whole() {
        let auth = Some(vec![Id {
            scheme: "ip".into(),
            id: "127.0.0.1".into(),
        }]);
        let body = Bytes::from_static(b"body");
        let packet = Packet::Request(ForwardedRequest {
            session: SessionId(5),
            xid: 1,
            op: 2,
            body,
            auth,
        });
        let mut whole = BytesMut::new();
        packet.encode(&mut whole);
        for cut in 0..whole.len() {
            assert_eq!(
                decode_packet(&mut BytesMut::from(&whole[..cut]), 1000),
                Ok(None),
                "cut at {cut}"
            );
        }
        whole.put_u8(1);
        assert_eq!(decode_packet(&mut whole, 1000), Ok(Some(packet)));
        assert_eq!(whole.len(), 1);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        let mut input = BytesMut::new();
        Packet::Ack(Zxid(1)).encode(&mut input);
        input[12..16].copy_from_slice(&1_000_000i32.to_be_bytes());
        assert_eq!(
            decode_packet(&mut input, 1000),
            Err(DecodeError::Length(1_000_000))
        );
    }
}
