//! `zoo.cfg` files as a person writes them, and free ports to put in them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Voter,
    /// It only learns.
    Observer,
}

/// The ports of one member, all on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Where clients connect.
    pub client: u16,
    /// Where learners connect.
    pub quorum: u16,
    /// Where votes go.
    pub election: u16,
}

impl Ports {
    /// Three ports that nobody listens on.
    pub fn free() -> Result<Self> {
        Ok(Self {
            client: free_port()?,
            quorum: free_port()?,
            election: free_port()?,
        })
    }
}

/// Where a member lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address by which all others reach it.
    pub address: Ipv4Addr,
    /// The network namespace that its process runs in, if it has one to itself.
    pub namespace: Option<String>,
    /// The folder of its data; beside its other files when absent.
    pub data: Option<PathBuf>,
}

impl Place {
    /// On this machine, beside all others.
    pub const LOCAL: Self = Self {
        address: Ipv4Addr::LOCALHOST,
        namespace: None,
        data: None,
    };

    /// Ports that are free there.
    pub fn ports(&self) -> Result<Ports> {
        if self.namespace.is_none() {
            return Ports::free();
        }
        Ok(Ports {
            client: 2181,
            quorum: 2888,
            election: 3888,
        })
    }
}

/// An address on loopback.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port below the range from which the kernel takes the ports of outgoing connections: while a server is down
/// nobody else can come by its port.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 10_240;
    const SPAN: u16 = 22_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() as u16).wrapping_mul(131);
    (0..SPAN)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % SPAN)
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .context("no port is free")
}

/// One line of the list of servers, in the form `server.1:localhost:2888:3888:observer`.
#[must_use]
pub fn server_line(id: u32, role: Role, place: &Place, ports: &Ports) -> String {
    let host = if place.address == Ipv4Addr::LOCALHOST {
        "localhost".to_owned()
    } else {
        place.address.to_string()
    };
    let suffix = if role == Role::Observer {
        ":observer"
    } else {
        ""
    };
    format!(
        "server.{id}:{host}:{}:{}{suffix}\n",
        ports.quorum, ports.election
    )
}

/// Writes `zoo.cfg` of one member into `dir` and `myid` into `data`; returns the path of the former.
pub fn write(
    dir: &Path,
    data: &Path,
    id: u32,
    role: Role,
    client: u16,
    servers: &str,
    settings: &[String],
) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    fs::create_dir_all(data)?;
    fs::write(data.join("myid"), format!("{id}\n"))?;
    let peer_type = if role == Role::Observer {
        "peerType=observer\n"
    } else {
        ""
    };
    let text = format!(
        "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={client}\nmaxClientCnxns=0\n\
         admin.enableServer=false\nextendedTypesEnabled=true\n4lw.commands.whitelist=*\n{peer_type}{}{servers}",
        data.display(),
        settings
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
    let path = dir.join("zoo.cfg");
    fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_line_has_the_form_that_people_write() {
        let ports = Ports {
            client: 2181,
            quorum: 2888,
            election: 3888,
        };
        assert_eq!(
            server_line(1, Role::Observer, &Place::LOCAL, &ports),
            "server.1:localhost:2888:3888:observer\n"
        );
        assert_eq!(
            server_line(2, Role::Voter, &Place::LOCAL, &ports),
            "server.2:localhost:2888:3888\n"
        );
    }
}
