//! The handshake: a client's first frame and the answer (protocol reference §1.3).

use bytes::{Bytes, BytesMut};

use crate::jute::{DecodeError, Jute, Reader};
use crate::zxid::{SessionId, Zxid};

/// First frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0.
    pub protocol_version: i32,
    /// The newest zxid that the client has seen.
    pub last_zxid_seen: Zxid,
    /// What the client asks for, in ms.
    pub timeout_ms: i32,
    /// 0 for a new session.
    pub session: SessionId,
    /// 16 bytes.
    pub password: Option<Bytes>,
    /// Absent from old clients.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// Decodes the frame.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(frame);
        let request = Self {
            protocol_version: input.read()?,
            last_zxid_seen: input.read()?,
            timeout_ms: input.read()?,
            session: input.read()?,
            password: input.read()?,
            read_only: if input.left() == 0 {
                None
            } else {
                Some(input.read()?)
            },
        };
        Ok(request)
    }

    /// Appends the payload, without a length.
    pub fn encode(&self, out: &mut BytesMut) {
        self.protocol_version.write(out);
        self.last_zxid_seen.write(out);
        self.timeout_ms.write(out);
        self.session.write(out);
        self.password.write(out);
        if let Some(read_only) = self.read_only {
            read_only.write(out);
        }
    }
}

/// The answer to [`ConnectRequest`]; it has no reply header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 0.
    pub protocol_version: i32,
    /// Negotiated; 0 says that the session is no more.
    pub timeout_ms: i32,
    /// The session.
    pub session: SessionId,
    /// 16 bytes.
    pub password: Bytes,
    /// Only sent to clients that sent it.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// What a client hears whose session has expired, or whose password is wrong.
    #[must_use]
    pub fn expired(read_only: Option<bool>) -> Self {
        let password = Bytes::from_static(&[0; 16]);
        Self {
            protocol_version: 0,
            timeout_ms: 0,
            session: SessionId(0),
            password,
            read_only,
        }
    }

    /// Appends the payload, without a length.
    pub fn encode(&self, out: &mut BytesMut) {
        self.protocol_version.write(out);
        self.timeout_ms.write(out);
        self.session.write(out);
        self.password.write(out);
        if let Some(read_only) = self.read_only {
            read_only.write(out);
        }
    }

    /// Decodes the frame.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(frame);
        let response = Self {
            protocol_version: input.read()?,
            timeout_ms: input.read()?,
            session: input.read()?,
            password: input.read()?,
            read_only: if input.left() == 0 {
                None
            } else {
                Some(input.read()?)
            },
        };
        Ok(response)
    }
}
