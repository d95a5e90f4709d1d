//! The quorum port: a stream of packets between a learner and its leader (protocol reference §4.1).
//!
//! A link has a reader and a writer task. The driver appends what is to be sent to the link's queue; a snapshot in the
//! queue is read from the tree piece by piece while it is sent, and what comes after it waits.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use node_core::effect::{Input, LinkId};
use node_core::jute::Jute;
use node_core::proto::quorum::{Packet, decode_packet};
use node_core::tree::{ImageReader, Restored, TreeOptions};
use node_core::zxid::Zxid;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Report;
use crate::driver::Message;
use crate::limits;
use crate::shared::{ActiveSnapshot, Shared};

/// Follows the tree in a SNAP stream.
const SIGNATURE: &str = "BenWasHere";

enum Segment {
    Bytes(BytesMut),
    Snapshot(ActiveSnapshot),
}

#[derive(Default)]
struct Queue {
    segments: VecDeque<Segment>,
    bytes: usize,
    closing: bool,
}

/// The sending side of a connection between learner and leader.
#[derive(Default)]
pub struct Link {
    queue: Mutex<Queue>,
    changed: Notify,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("bytes", &self.queue.lock().bytes)
            .finish()
    }
}

impl Link {
    /// Queues a packet. False if the other side is too far behind: then the link is to be closed. Nothing is sent
    /// before [`wake`](Self::wake).
    pub fn push(&self, packet: &Packet) -> bool {
        let mut queue = self.queue.lock();
        if !matches!(queue.segments.back(), Some(Segment::Bytes(_))) {
            queue.segments.push_back(Segment::Bytes(BytesMut::new()));
        }
        let Some(Segment::Bytes(bytes)) = queue.segments.back_mut() else {
            return false;
        };
        let before = bytes.len();
        packet.encode(bytes);
        let added = bytes.len() - before;
        queue.bytes += added;
        queue.bytes <= limits::LEARNER_QUEUE_BYTES
    }

    /// Queues a snapshot with its SNAP packet and signature.
    pub fn push_snapshot(&self, zxid: Zxid, snapshot: ActiveSnapshot) {
        self.push(&Packet::Snap(zxid));
        let mut queue = self.queue.lock();
        queue.segments.push_back(Segment::Snapshot(snapshot));
        let mut signature = BytesMut::new();
        SIGNATURE.to_owned().write(&mut signature);
        queue.segments.push_back(Segment::Bytes(signature));
    }

    /// Lets the writer send what is queued.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Ends the connection when all that is queued has been sent.
    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.wake();
    }
}

/// Accepts learners. What is sent to one must be acknowledged within `patience`: long, because one that is slow to take
/// a snapshot is not gone. Whether a quorum is heard is judged by the answers to pings.
pub async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    report: Report,
    numbers: Arc<LinkNumbers>,
    patience: Duration,
) {
    let places = Arc::new(Semaphore::new(limits::QUORUM_LINKS));
    loop {
        let Some((stream, from)) = super::accept(&listener).await else {
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%from, "too many connections to the quorum port: closed");
            continue;
        };
        let id = LinkId::accepted(numbers.next());
        tracing::debug!(%from, ?id, "a learner connects");
        if let Err(error) = super::guard(&stream, patience) {
            tracing::debug!(%from, %error, "a learner's connection broke at once");
            continue;
        }
        start(id, stream, Some(place), shared.clone(), report.clone());
    }
}

/// Numbers for accepted links.
#[derive(Debug, Default)]
pub struct LinkNumbers(std::sync::atomic::AtomicU64);

impl LinkNumbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// Connects to a leader: one try at each address.
pub async fn dial(
    id: LinkId,
    addresses: Vec<(String, u16)>,
    timeout: Duration,
    shared: Arc<Shared>,
    report: Report,
) {
    for (host, port) in addresses {
        match tokio::time::timeout(timeout, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(stream)) => {
                let patience = Duration::from_millis(limits::LEADER_UNACKNOWLEDGED_MS);
                match super::guard(&stream, patience) {
                    Ok(()) => return start(id, stream, None, shared, report),
                    Err(error) => {
                        tracing::info!(%host, port, %error, "the connection to the leader broke at once")
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::info!(%host, port, %error, "the leader's quorum port cannot be reached yet")
            }
            Err(_) => tracing::info!(%host, port, "the leader's quorum port does not answer"),
        }
    }
    report.send(Message::Peer(Input::LinkDown(id)));
}

fn start(
    id: LinkId,
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
    report: Report,
) {
    let link = Arc::new(Link::default());
    let (read, write) = stream.into_split();
    report.send(Message::LinkUp(id, link.clone()));
    let options = shared.tree_options;
    tokio::spawn(async move {
        let writer = transmit(write, link);
        let reader = receive(id, read, options, &report);
        tokio::pin!(writer, reader);
        let ended = tokio::select! {
            ended = &mut reader => ended,
            () = &mut writer => {
                // All was sent. Who does not close its side in answer is not waited for.
                let patience = Duration::from_millis(limits::LINK_CLOSE_MS);
                tokio::time::timeout(patience, reader).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::info!(?id, %error, "a quorum connection ends");
        }
        report.send(Message::Peer(Input::LinkDown(id)));
        drop(place);
    });
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn fill(stream: &mut OwnedReadHalf, input: &mut BytesMut) -> io::Result<()> {
    input.reserve(limits::SOCKET_READ_BYTES);
    match stream.read_buf(input).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn receive(
    id: LinkId,
    mut stream: OwnedReadHalf,
    options: TreeOptions,
    report: &Report,
) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut packets = Vec::new();
    loop {
        while let Some(packet) =
            decode_packet(&mut input, limits::QUORUM_PACKET_BYTES).map_err(invalid)?
        {
            let snapshot = if let Packet::Snap(zxid) = packet {
                Some(zxid)
            } else {
                None
            };
            packets.push(packet);
            if let Some(zxid) = snapshot {
                report.send(Message::Packets(id, std::mem::take(&mut packets)));
                let restored = receive_snapshot(&mut stream, &mut input, options).await?;
                report.send(Message::SnapshotReceived {
                    link: id,
                    zxid,
                    restored: Box::new(restored),
                });
            }
        }
        if !packets.is_empty() {
            report.send(Message::Packets(id, std::mem::take(&mut packets)));
        }
        fill(&mut stream, &mut input).await?;
    }
}

async fn receive_snapshot(
    stream: &mut OwnedReadHalf,
    input: &mut BytesMut,
    options: TreeOptions,
) -> io::Result<Restored> {
    let mut reader = ImageReader::new(options);
    loop {
        let progress = reader.feed(input).map_err(invalid)?;
        input.advance(progress.consumed);
        if progress.done {
            break;
        }
        fill(stream, input).await?;
    }
    let signature_len = 4 + SIGNATURE.len();
    while input.len() < signature_len {
        fill(stream, input).await?;
    }
    let signature = input.split_to(signature_len);
    if &signature[4..] != SIGNATURE.as_bytes() {
        return Err(invalid("the snapshot does not end with its signature"));
    }
    reader.finish().map_err(invalid)
}

async fn transmit(mut stream: OwnedWriteHalf, link: Arc<Link>) {
    if let Err(error) = send_all(&mut stream, &link).await {
        tracing::debug!(%error, "a quorum connection cannot be written to");
    }
    // Only the sending side ends here; the other server then closes, and the reader sees that.
}

async fn send_all(stream: &mut OwnedWriteHalf, link: &Link) -> io::Result<()> {
    loop {
        let (next, closing) = {
            let mut queue = link.queue.lock();
            let next = queue.segments.pop_front();
            if let Some(Segment::Bytes(bytes)) = &next {
                queue.bytes -= bytes.len().min(queue.bytes);
            }
            (next, queue.closing)
        };
        match next {
            Some(Segment::Bytes(bytes)) => stream.write_all(&bytes).await?,
            Some(Segment::Snapshot(snapshot)) => send_snapshot(stream, snapshot).await?,
            None if closing => return stream.shutdown().await,
            None => link.changed.notified().await,
        }
    }
}

async fn send_snapshot(stream: &mut OwnedWriteHalf, snapshot: ActiveSnapshot) -> io::Result<()> {
    let mut piece = Vec::new();
    loop {
        let done = snapshot
            .chunk(&mut piece)
            .ok_or_else(|| invalid("the tree was replaced while it was sent"))?;
        stream.write_all(&piece).await?;
        piece.clear();
        if done {
            return Ok(());
        }
    }
}
