//! `server.N=…`: one member of the ensemble (protocol reference §6.1).

use std::fmt;

use node_core::zxid::ServerId;

/// Whether a server votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Participant,
    /// It only learns.
    Observer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Participant => "participant",
            Self::Observer => "observer",
        })
    }
}

/// A host with a port. IPv6 addresses are kept without their brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// Where a server is reached by the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    /// A name or an address.
    pub host: String,
    /// Learners connect here.
    pub quorum_port: u16,
    /// Votes are exchanged here.
    pub election_port: u16,
}

/// One `server.N=…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// N.
    pub id: ServerId,
    /// Where it is reached by the others; sorted, never empty.
    pub addresses: Vec<PeerAddress>,
    /// Whether it votes.
    pub role: Role,
    /// Where clients connect, when the line says so.
    pub client: Option<HostPort>,
    /// Where clients connect with TLS, when the line says so.
    pub secure_client: Option<HostPort>,
}

/// The form of a server line, for messages.
pub(crate) const FORM: &str =
    "HOST:QUORUM_PORT:ELECTION_PORT[:participant|:observer][;[CLIENT_HOST:]CLIENT_PORT]";

impl ServerSpec {
    /// Every host and port at which the other servers reach it.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&str, u16)> {
        self.addresses.iter().flat_map(|address| {
            let host = address.host.as_str();
            [(host, address.quorum_port), (host, address.election_port)]
        })
    }

    /// Reads what follows `server.N=`. The error says what is wrong.
    pub fn parse(id: ServerId, text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(';').map(str::trim).collect();
        if parts.len() > 3 {
            return Err("it has more than two \";\"".to_owned());
        }
        let mut addresses = Vec::new();
        let mut roles = Vec::new();
        for address in parts[0].split('|') {
            let (address, role) = parse_address(address.trim())?;
            addresses.push(address);
            roles.push(role);
        }
        if roles.iter().any(|role| *role != roles[0]) {
            return Err("its addresses have different roles".to_owned());
        }
        addresses.sort();
        let client_part = |part: usize| match parts.get(part) {
            None | Some(&"") => Ok(None),
            Some(text) => parse_client(text).map(Some),
        };
        let (client, secure_client) = (client_part(1)?, client_part(2)?);
        if parts.len() == 2 && client.is_none() {
            return Err("nothing follows its \";\"".to_owned());
        }
        Ok(Self {
            id,
            addresses,
            role: roles[0],
            client,
            secure_client,
        })
    }
}

fn parse_address(text: &str) -> Result<(PeerAddress, Role), String> {
    let fields = split_host(text)?;
    let (host, quorum, election, role) = match fields.as_slice() {
        [host, quorum, election] => (host, quorum, election, "participant"),
        [host, quorum, election, role] => (host, quorum, election, *role),
        _ => {
            return Err(format!(
                "{text:?} has {} fields instead of 3 or 4",
                fields.len()
            ));
        }
    };
    if host.is_empty() {
        return Err("its host is empty".to_owned());
    }
    let role = match role.to_ascii_lowercase().as_str() {
        "participant" => Role::Participant,
        "observer" => Role::Observer,
        _ => {
            return Err(format!(
                "its role {role:?} is neither participant nor observer"
            ));
        }
    };
    let (quorum_port, election_port) = (port(quorum)?, port(election)?);
    if quorum_port == election_port {
        return Err(format!(
            "its quorum port and its election port are both {quorum_port}"
        ));
    }
    Ok((
        PeerAddress {
            host: (*host).to_owned(),
            quorum_port,
            election_port,
        },
        role,
    ))
}

fn parse_client(text: &str) -> Result<HostPort, String> {
    let fields = split_host(text)?;
    match fields.as_slice() {
        [only] => Ok(HostPort {
            host: "0.0.0.0".to_owned(),
            port: port(only)?,
        }),
        [host, only] => Ok(HostPort {
            host: (*host).to_owned(),
            port: port(only)?,
        }),
        _ => Err(format!(
            "its client part {text:?} is neither PORT nor HOST:PORT"
        )),
    }
}

/// Splits at colons, but not within brackets, which are removed.
fn split_host(text: &str) -> Result<Vec<&str>, String> {
    let Some(rest) = text.strip_prefix('[') else {
        return Ok(text.split(':').map(str::trim).collect());
    };
    let Some((host, rest)) = rest.split_once(']') else {
        return Err(format!("the \"[\" in {text:?} is never closed"));
    };
    let mut fields = vec![host];
    match rest.strip_prefix(':') {
        Some(rest) => fields.extend(rest.split(':').map(str::trim)),
        None if rest.is_empty() => {}
        None => return Err(format!("a \":\" is missing after the \"]\" in {text:?}")),
    }
    Ok(fields)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a port (0 to 65535)"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The canonical form, as it stands in `/zookeeper/config`: what follows `server.N=`.
impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            let bar = if index == 0 { "" } else { "|" };
            write!(
                f,
                "{bar}{}:{}:{}",
                bracketed(&address.host),
                address.quorum_port,
                address.election_port
            )?;
        }
        write!(f, ":{}", self.role)?;
        match (&self.client, &self.secure_client) {
            (None, None) => Ok(()),
            (Some(client), None) => write!(f, ";{client}"),
            (Some(client), Some(secure)) => write!(f, ";{client};{secure}"),
            (None, Some(secure)) => write!(f, ";;{secure}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_lines_have_one_canonical_form() {
        for (text, canonical) in [
            ("h:2888:3888", "h:2888:3888:participant"),
            (
                "localhost:2888:3888:OBSERVER",
                "localhost:2888:3888:observer",
            ),
            ("h:2888:3888;2181", "h:2888:3888:participant;0.0.0.0:2181"),
            ("h:1:2:observer;[::1]:2181", "h:1:2:observer;[::1]:2181"),
            ("[2001:db8::1]:1:2", "[2001:db8::1]:1:2:participant"),
            (
                "b:1:2|a:1:2;2181;2281",
                "a:1:2|b:1:2:participant;0.0.0.0:2181;0.0.0.0:2281",
            ),
            ("h:1:2;;h:2281", "h:1:2:participant;;h:2281"),
        ] {
            let spec = ServerSpec::parse(ServerId(1), text).unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(ServerSpec::parse(ServerId(1), canonical), Ok(spec));
        }
    }

    #[test]
    fn what_is_wrong_with_a_server_line_is_said() {
        let error = |text: &str| ServerSpec::parse(ServerId(1), text).unwrap_err();
        assert_eq!(error("h:2888"), "\"h:2888\" has 2 fields instead of 3 or 4");
        assert_eq!(
            error("h:2888:2888"),
            "its quorum port and its election port are both 2888"
        );
        assert_eq!(
            error("h:1:2:voter"),
            "its role \"voter\" is neither participant nor observer"
        );
        assert_eq!(error("h:1:x"), "\"x\" is not a port (0 to 65535)");
        assert_eq!(
            error("a:1:2:observer|b:1:2"),
            "its addresses have different roles"
        );
        assert_eq!(
            error("[::1:1:2"),
            "the \"[\" in \"[::1:1:2\" is never closed"
        );
        assert_eq!(error("h:1:2;"), "nothing follows its \";\"");
        assert_eq!(
            error("h:1:2;1:2:3"),
            "its client part \"1:2:3\" is neither PORT nor HOST:PORT"
        );
    }
}
