//! The election port: one connection for each pair of servers (protocol reference §3.1).
//!
//! One task owns all of it. Whoever has the greater id calls; a call from a smaller id is answered by calling back. For
//! each peer only the newest message matters: a notification that waits is replaced by the next one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use node_core::proto::election::{Introduction, Notification, decode_frame};
use node_core::quorum::config::QuorumConfig;
use node_core::zxid::ServerId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::Report;
use crate::limits;

type Addresses = Vec<(String, u16)>;

/// What the owner of the election port is asked to do.
#[derive(Debug)]
pub enum ElectionCommand {
    /// Sends a notification, in place of one that still waits.
    Send(ServerId, Notification),
    /// Opens a connection if there is none.
    Connect(ServerId),
    /// The members have changed.
    Members(QuorumConfig),
}

/// What the tasks around the owner tell it.
enum Event {
    Introduced(TcpStream, BytesMut, Introduction),
    Dialled(ServerId, std::io::Result<TcpStream>),
    Lost(ServerId, u64),
}

/// Who this server is, and how long it waits.
#[derive(Clone, Debug)]
pub struct ElectionSettings {
    /// `myid`.
    pub my_id: ServerId,
    /// `cnxTimeout`.
    pub connect_timeout: Duration,
    /// How long a caller may take to introduce itself.
    pub introduction_timeout: Duration,
}

#[derive(Default)]
struct Slot {
    message: Mutex<Option<Bytes>>,
    changed: Notify,
}

struct Connection {
    number: u64,
    slot: Arc<Slot>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Default)]
struct Peer {
    addresses: Addresses,
    connection: Option<Connection>,
    dialling: bool,
    /// The newest message: sent again when a new connection has nothing better to say.
    last: Option<Bytes>,
}

struct Manager {
    settings: ElectionSettings,
    own_addresses: Addresses,
    peers: BTreeMap<ServerId, Peer>,
    /// The voters that this server calls when there is no connection.
    called: Vec<ServerId>,
    report: Report,
    events: mpsc::UnboundedSender<Event>,
    connections: u64,
}

/// Runs the election port until the sender of `commands` is gone.
pub async fn run(
    settings: ElectionSettings,
    listeners: Vec<TcpListener>,
    config: QuorumConfig,
    mut commands: mpsc::UnboundedReceiver<ElectionCommand>,
    report: Report,
) {
    let (events, mut happened) = mpsc::unbounded_channel();
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            tokio::spawn(accept(
                listener,
                settings.introduction_timeout,
                events.clone(),
            ))
        })
        .collect();
    let mut manager = Manager {
        settings,
        own_addresses: vec![],
        peers: BTreeMap::new(),
        called: vec![],
        report,
        events,
        connections: 0,
    };
    manager.set_members(&config);
    let mut recall = tokio::time::interval(Duration::from_millis(limits::ELECTION_RECALL_MS));
    recall.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(ElectionCommand::Send(to, notification)) => manager.send(to, &notification),
                Some(ElectionCommand::Connect(to)) => manager.dial_if_needed(to),
                Some(ElectionCommand::Members(config)) => manager.set_members(&config),
                None => break,
            },
            _ = recall.tick() => manager.call_all(),
            Some(event) = happened.recv() => match event {
                Event::Introduced(stream, rest, introduction) => manager.introduced(stream, rest, introduction),
                Event::Dialled(to, result) => manager.dialled(to, result),
                Event::Lost(from, number) => manager.lost(from, number),
            },
        }
    }
    for acceptor in acceptors {
        acceptor.abort();
    }
}

impl Manager {
    fn set_members(&mut self, config: &QuorumConfig) {
        for (id, member) in config.members() {
            let addresses = member
                .addresses
                .iter()
                .map(|a| (a.host.clone(), a.election_port))
                .collect();
            if id == self.settings.my_id {
                self.own_addresses = addresses;
            } else {
                self.peers.entry(id).or_default().addresses = addresses;
            }
        }
        let my_id = self.settings.my_id;
        self.called = if config.is_voter(my_id) {
            config.voters().filter(|id| *id < my_id).collect()
        } else {
            vec![]
        };
    }

    /// Votes are given only to who can be reached: that is to be known before they are.
    fn call_all(&mut self) {
        for id in self.called.clone() {
            self.dial_if_needed(id);
        }
    }

    fn send(&mut self, to: ServerId, notification: &Notification) {
        let body = notification.encode();
        let mut frame = BytesMut::with_capacity(4 + body.len());
        frame.put_u32(u32::try_from(body.len()).expect("a notification is shorter than its limit"));
        frame.put_slice(&body);
        let frame = frame.freeze();
        let peer = self.peers.entry(to).or_default();
        peer.last = Some(frame.clone());
        match &peer.connection {
            Some(connection) => connection.slot.put(frame),
            None => self.dial_if_needed(to),
        }
    }

    fn dial_if_needed(&mut self, to: ServerId) {
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        if peer.connection.is_some() || peer.dialling || peer.addresses.is_empty() {
            return;
        }
        peer.dialling = true;
        let introduction = Introduction {
            id: Some(self.settings.my_id),
            addresses: self.own_addresses.clone(),
        }
        .encode();
        let dial = dial(
            peer.addresses.clone(),
            introduction,
            self.settings.connect_timeout,
        );
        let events = self.events.clone();
        tokio::spawn(async move {
            // The owner is gone only when the server stops.
            let _ = events.send(Event::Dialled(to, dial.await));
        });
    }

    fn dialled(&mut self, to: ServerId, result: std::io::Result<TcpStream>) {
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        peer.dialling = false;
        match result {
            // The smaller id hangs up: it has said who it is, and the other one calls back.
            Ok(_) if self.settings.my_id < to => {}
            Ok(stream) => self.keep(to, stream, BytesMut::new()),
            Err(error) => {
                tracing::debug!(peer = %to, %error, "the election port of a peer cannot be reached");
                // It may have called meanwhile.
                if peer.connection.is_none() {
                    self.report.election_link(to, false);
                }
            }
        }
    }

    fn introduced(&mut self, stream: TcpStream, rest: BytesMut, introduction: Introduction) {
        let Some(from) = introduction.id.filter(|id| *id != self.settings.my_id) else {
            return;
        };
        if from > self.settings.my_id {
            self.keep(from, stream, rest);
            return;
        }
        drop(stream);
        let peer = self.peers.entry(from).or_default();
        peer.connection = None;
        if !introduction.addresses.is_empty() {
            peer.addresses = introduction.addresses;
        }
        self.dial_if_needed(from);
    }

    fn keep(&mut self, from: ServerId, stream: TcpStream, rest: BytesMut) {
        let patience = Duration::from_millis(limits::PEER_UNACKNOWLEDGED_MS);
        if let Err(error) = super::guard(&stream, patience) {
            tracing::debug!(peer = %from, %error, "an election connection broke at once");
            return;
        }
        self.connections += 1;
        let number = self.connections;
        let slot = Arc::new(Slot::default());
        let (read, write) = stream.into_split();
        let reader = tokio::spawn(receive(
            read,
            rest,
            from,
            number,
            self.report.clone(),
            self.events.clone(),
        ));
        let writer = tokio::spawn(transmit(
            write,
            slot.clone(),
            from,
            number,
            self.events.clone(),
        ));
        let peer = self.peers.entry(from).or_default();
        if let Some(last) = &peer.last {
            slot.put(last.clone());
        }
        peer.connection = Some(Connection {
            number,
            slot,
            tasks: [reader, writer],
        });
        self.report.election_link(from, true);
    }

    fn lost(&mut self, from: ServerId, number: u64) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if peer
            .connection
            .as_ref()
            .is_some_and(|connection| connection.number == number)
        {
            peer.connection = None;
            self.report.election_link(from, false);
        }
    }
}

impl Slot {
    fn put(&self, message: Bytes) {
        *self.message.lock() = Some(message);
        self.changed.notify_one();
    }
}

async fn dial(
    addresses: Addresses,
    introduction: Bytes,
    timeout: Duration,
) -> std::io::Result<TcpStream> {
    let connect = async {
        let mut failure = std::io::ErrorKind::NotFound.into();
        for (host, port) in addresses {
            match TcpStream::connect((host.as_str(), port)).await {
                Ok(mut stream) => {
                    stream.set_nodelay(true)?;
                    stream.write_all(&introduction).await?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    };
    tokio::time::timeout(timeout, connect)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn accept(listener: TcpListener, timeout: Duration, events: mpsc::UnboundedSender<Event>) {
    let waiting = Arc::new(tokio::sync::Semaphore::new(limits::ELECTION_HANDSHAKES));
    loop {
        let Some((stream, from)) = super::accept(&listener).await else {
            continue;
        };
        let Ok(permit) = waiting.clone().try_acquire_owned() else {
            tracing::warn!(%from, "too many callers of the election port have not said who they are: closed");
            continue;
        };
        let events = events.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(timeout, introduction(stream, from)).await {
                Ok(Some((stream, rest, introduction))) => {
                    // The owner is gone only when the server stops.
                    let _ = events.send(Event::Introduced(stream, rest, introduction));
                }
                Ok(None) => {}
                Err(_) => {
                    tracing::debug!(%from, "a caller of the election port did not say who it is")
                }
            }
            drop(permit);
        });
    }
}

async fn introduction(
    mut stream: TcpStream,
    from: SocketAddr,
) -> Option<(TcpStream, BytesMut, Introduction)> {
    let mut input = BytesMut::with_capacity(256);
    loop {
        match Introduction::decode(&mut input) {
            Ok(Some(introduction)) => return Some((stream, input, introduction)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%from, %error, "a caller of the election port does not speak its protocol: closed");
                return None;
            }
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn receive(
    mut stream: OwnedReadHalf,
    mut input: BytesMut,
    from: ServerId,
    number: u64,
    report: Report,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        match decode_frame(&mut input) {
            Ok(Some(message)) => {
                match Notification::decode(message) {
                    Ok(notification) => report.notification(from, notification),
                    Err(error) => {
                        tracing::warn!(peer = %from, %error, "a notification cannot be read: dropped")
                    }
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(peer = %from, %error, "an election connection does not keep to its protocol: closed");
                break;
            }
        }
        match stream.read_buf(&mut input).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    // The owner is gone only when the server stops.
    let _ = events.send(Event::Lost(from, number));
}

async fn transmit(
    mut stream: OwnedWriteHalf,
    slot: Arc<Slot>,
    to: ServerId,
    number: u64,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        let message = slot.message.lock().take();
        let Some(message) = message else {
            slot.changed.notified().await;
            continue;
        };
        if stream.write_all(&message).await.is_err() {
            break;
        }
    }
    // The owner is gone only when the server stops.
    let _ = events.send(Event::Lost(to, number));
}

#[cfg(test)]
mod tests {
    use node_core::effect::Input;

    use super::*;
    use crate::driver::Message;

    fn links(reports: &mut mpsc::UnboundedReceiver<Message>) -> Vec<bool> {
        let mut links = Vec::new();
        while let Ok(message) = reports.try_recv() {
            if let Message::Peer(Input::ElectionLink { up, .. }) = message {
                links.push(up);
            }
        }
        links
    }

    /// Random faults on real processes found it: a server that had been deaf for a while called in vain, was called meanwhile,
    /// and took the caller for unreachable ever after.
    #[tokio::test]
    async fn a_call_in_vain_says_nothing_of_a_connection_that_came_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (driver, mut reports) = mpsc::unbounded_channel();
        let (events, _happened) = mpsc::unbounded_channel();
        let mut manager = Manager {
            settings: ElectionSettings {
                my_id: ServerId(1),
                connect_timeout: Duration::from_secs(5),
                introduction_timeout: Duration::from_secs(5),
            },
            own_addresses: vec![],
            peers: BTreeMap::new(),
            called: vec![],
            report: Report::new(driver),
            events,
            connections: 0,
        };
        let two = ServerId(2);
        manager.peers.entry(two).or_default().dialling = true;
        let _caller = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        manager.keep(two, stream, BytesMut::new());
        manager.dialled(two, Err(std::io::ErrorKind::TimedOut.into()));
        assert_eq!(links(&mut reports), [true]);

        // Without one it is unreachable.
        manager.lost(two, 1);
        manager.dialled(two, Err(std::io::ErrorKind::TimedOut.into()));
        assert_eq!(links(&mut reports), [false, false]);
    }
}
