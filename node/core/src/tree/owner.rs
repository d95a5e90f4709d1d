//! What `ephemeralOwner` stands for (protocol reference §2.5): a session, a container, a time to live, or nothing.

use crate::zxid::SessionId;

/// The owner that marks a container.
pub const CONTAINER_OWNER: i64 = i64::MIN;

/// The largest time to live, in ms.
pub const TTL_MS_MAX: i64 = 0xff_ffff_ffff;

const EXTENDED: i64 = 0xff;
const TTL_FEATURE: i64 = 0;

/// Why a node will go by itself, if it will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It stays until it is deleted.
    Nobody,
    /// It goes with its session.
    Session(SessionId),
    /// It goes some time after its last child.
    Container,
    /// It goes when it has no children and was not set for this many ms.
    Ttl(i64),
}

impl Owner {
    /// Reads the field of the stat. Without extended types a value that would mean a time to live is a session.
    #[must_use]
    pub fn decode(owner: i64, extended_types: bool) -> Self {
        let is_ttl = (owner >> 56) & 0xff == EXTENDED && (owner >> 40) & 0xffff == TTL_FEATURE;
        match owner {
            0 => Self::Nobody,
            CONTAINER_OWNER => Self::Container,
            _ if extended_types && is_ttl => Self::Ttl(owner & TTL_MS_MAX),
            _ => Self::Session(SessionId(owner)),
        }
    }

    /// The field of the stat.
    #[must_use]
    pub fn encode(self) -> i64 {
        match self {
            Self::Nobody => 0,
            Self::Session(session) => session.0,
            Self::Container => CONTAINER_OWNER,
            Self::Ttl(ms) => EXTENDED << 56 | TTL_FEATURE << 40 | ms & TTL_MS_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_survives_its_encoding() {
        let owners = [
            Owner::Nobody,
            Owner::Session(SessionId(0x1_0000_0001)),
            Owner::Container,
            Owner::Ttl(5000),
        ];
        for owner in owners {
            assert_eq!(Owner::decode(owner.encode(), true), owner);
        }
    }

    #[test]
    fn without_extended_types_a_time_to_live_is_a_session() {
        let owner = Owner::Ttl(1).encode();
        assert_eq!(
            Owner::decode(owner, false),
            Owner::Session(SessionId(owner))
        );
    }
}
