//! The three ports.

pub mod client;
pub mod election;
pub mod outbox;
pub mod quorum;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use node_core::effect::Input;
use node_core::proto::election::Notification;
use node_core::zxid::ServerId;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_ipv6_v6only, set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl,
    set_tcp_user_timeout,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::driver::Message;
use crate::limits;

/// Tells the driver what has happened. When the driver is gone the process is about to end, so nothing is lost then.
#[derive(Clone, Debug)]
pub struct Report(mpsc::UnboundedSender<Message>);

impl Report {
    /// A way to the driver that receives from the other end.
    #[must_use]
    pub fn new(driver: mpsc::UnboundedSender<Message>) -> Self {
        Self(driver)
    }

    pub(crate) fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }

    pub(crate) fn notification(&self, from: ServerId, notification: Notification) {
        self.send(Message::Peer(Input::Notification { from, notification }));
    }

    pub(crate) fn election_link(&self, peer: ServerId, up: bool) {
        self.send(Message::Peer(Input::ElectionLink { peer, up }));
    }
}

/// Host that stands for every address.
pub(crate) const EVERYWHERE: &str = "0.0.0.0";

/// Connections that the system may hold until they are accepted.
const BACKLOG: u32 = 1024;

/// Opens a port. [`EVERYWHERE`] means every address of both IP versions, and is no name that would have to be looked up.
pub(crate) async fn open(host: &str, port: u16) -> io::Result<TcpListener> {
    if host != EVERYWHERE {
        return TcpListener::bind((host, port)).await;
    }
    match open_dual(port) {
        Err(error)
            if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
                || error.kind() == ErrorKind::AddrNotAvailable =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        opened => opened,
    }
}

fn open_dual(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

/// Makes a connection to another server tell when it is broken: what is sent must be acknowledged within `patience`, and
/// where nothing is sent the system probes. Small packets go at once.
pub(crate) fn guard(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probe = Duration::from_secs(limits::PEER_PROBE_S);
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, probe)?;
    set_tcp_keepintvl(stream, probe)?;
    let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    set_tcp_user_timeout(stream, patience_ms)?;
    Ok(())
}

/// The next connection, with the caller's own address: one of IP version 4 is not seen through version 6. Where the system is out of something, a pause keeps the loop from spinning.
pub(crate) async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, from)) => {
            let ip = from.ip().to_canonical();
            Some((stream, SocketAddr::new(ip, from.port())))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}
