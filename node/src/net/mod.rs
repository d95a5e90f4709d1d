//! The three ports.

pub mod client;
pub mod election;
pub mod outbox;
pub mod quorum;

use std::net::SocketAddr;
use std::time::Duration;

use node_core::effect::Input;
use node_core::proto::election::Notification;
use node_core::zxid::ServerId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::driver::Message;

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

/// The next connection. Where the system is out of something, a pause keeps the loop from spinning.
pub(crate) async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}
