//! The error codes of replies (protocol reference §1.6).

use std::fmt;

/// The `err` of a reply header; 0 is success. A protocol value, not a failure of the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name that Apache's `KeeperException.Code` gives to it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    /// Success.
    OK = 0, "OK";
    /// Something in the server failed.
    SYSTEM_ERROR = -1, "SYSTEMERROR";
    /// The operations of a multi after the failing one.
    RUNTIME_INCONSISTENCY = -2, "RUNTIMEINCONSISTENCY";
    /// The request could not be decoded.
    MARSHALLING_ERROR = -5, "MARSHALLINGERROR";
    /// No such operation, or not here.
    UNIMPLEMENTED = -6, "UNIMPLEMENTED";
    /// An argument that cannot be.
    BAD_ARGUMENTS = -8, "BADARGUMENTS";
    /// A standalone server does not know the session.
    UNKNOWN_SESSION = -12, "UNKNOWNSESSION";
    /// No quorum of the new configuration is connected and in sync.
    NEW_CONFIG_NO_QUORUM = -13, "NEWCONFIGNOQUORUM";
    /// Another reconfiguration is under way.
    RECONFIG_IN_PROGRESS = -14, "RECONFIGINPROGRESS";
    /// The node does not exist.
    NO_NODE = -101, "NONODE";
    /// The ACL forbids it.
    NO_AUTH = -102, "NOAUTH";
    /// The version is not the expected one.
    BAD_VERSION = -103, "BADVERSION";
    /// Ephemeral nodes have no children.
    NO_CHILDREN_FOR_EPHEMERALS = -108, "NOCHILDRENFOREPHEMERALS";
    /// The node exists.
    NODE_EXISTS = -110, "NODEEXISTS";
    /// The node has children.
    NOT_EMPTY = -111, "NOTEMPTY";
    /// The session has expired.
    SESSION_EXPIRED = -112, "SESSIONEXPIRED";
    /// The ACL is not valid.
    INVALID_ACL = -114, "INVALIDACL";
    /// Authentication failed.
    AUTH_FAILED = -115, "AUTHFAILED";
    /// The session is served by another member now. Never sent: the connection closes.
    SESSION_MOVED = -118, "SESSIONMOVED";
    /// A write on a read-only server.
    NOT_READ_ONLY = -119, "NOTREADONLY";
    /// An ephemeral node on a local session.
    EPHEMERAL_ON_LOCAL_SESSION = -120, "EPHEMERALONLOCALSESSION";
    /// There is no such watch.
    NO_WATCHER = -121, "NOWATCHER";
    /// `reconfigEnabled` is false.
    RECONFIG_DISABLED = -123, "RECONFIGDISABLED";
    /// The server demands SASL.
    SESSION_CLOSED_REQUIRE_SASL_AUTH = -124, "SESSIONCLOSEDREQUIRESASLAUTH";
    /// The quota is used up.
    QUOTA_EXCEEDED = -125, "QUOTAEXCEEDED";
    /// The request waited too long.
    THROTTLED_OP = -127, "THROTTLEDOP";
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
