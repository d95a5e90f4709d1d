//! A client's connection as others see it: its session, and what is to be sent to it, in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use node_core::proto::data::Id;
use node_core::watch::ConnectionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits;

/// What waits to be sent, and what is still to come.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Whole frames.
    pub bytes: BytesMut,
    /// Requests that the driver has not answered yet. Reads wait for them.
    pub in_flight: usize,
    /// Close when everything has been sent.
    pub closing: bool,
}

/// Frames that were taken from an outbox and are on their way into the socket.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: BytesMut,
    sent: usize,
}

impl Unsent {
    /// What the socket has not taken yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Whether the socket has taken everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// The socket has taken `n` more bytes.
    pub fn advance(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.bytes.len());
    }

    /// Takes everything that waits in the outbox, if all that was taken before is out.
    pub fn take(&mut self, outbox: &mut Outbox) {
        if self.is_empty() && !outbox.bytes.is_empty() {
            self.sent = 0;
            self.bytes.clear();
            std::mem::swap(&mut self.bytes, &mut outbox.bytes);
        }
    }

    /// Everything is out. The outbox gets the buffer back, which is warm, so a connection at rest has one and not two; and
    /// none that is large, since it may be long until the connection has so much to say again.
    pub fn give_back(&mut self, outbox: &mut Outbox) {
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > limits::OUTBOX_KEPT_BYTES {
            self.bytes = BytesMut::new();
        }
        if outbox.bytes.is_empty() && outbox.bytes.capacity() < self.bytes.capacity() {
            std::mem::swap(&mut self.bytes, &mut outbox.bytes);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    /// The client.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub established: Instant,
    /// What is to be sent.
    pub outbox: Mutex<Outbox>,
    /// Something was put into the outbox.
    pub changed: Notify,
    /// Who the client has proved to be.
    pub ids: Mutex<Vec<Id>>,
    /// 0 until the handshake is answered.
    pub session: AtomicI64,
    /// Negotiated, ms.
    pub timeout_ms: AtomicI32,
    /// Whether the client was heard since the driver last asked.
    pub touched: AtomicBool,
    /// Frames received.
    pub received: AtomicU64,
    /// Frames sent.
    pub sent: AtomicU64,
    /// When the client was last heard, ms since `established`.
    pub heard_ms: AtomicU64,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(id: ConnectionId, peer: SocketAddr) -> Self {
        let ip = Id {
            scheme: "ip".into(),
            id: ip_text(peer),
        };
        Self {
            id,
            peer,
            established: Instant::now(),
            outbox: Mutex::default(),
            changed: Notify::new(),
            ids: Mutex::new(vec![ip]),
            session: AtomicI64::new(0),
            timeout_ms: AtomicI32::new(0),
            touched: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
        }
    }

    /// The client was heard.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
        let ms = u64::try_from(self.established.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the client was last heard.
    pub fn silent_ms(&self) -> u64 {
        let ms = u64::try_from(self.established.elapsed().as_millis()).unwrap_or(u64::MAX);
        ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }

    /// Appends frames. A client that does not read what it is sent loses its connection.
    pub fn push(&self, answers: usize, fill: impl FnOnce(&mut BytesMut)) {
        let mut outbox = self.outbox.lock();
        fill(&mut outbox.bytes);
        outbox.in_flight = outbox.in_flight.saturating_sub(answers);
        if outbox.bytes.len() > limits::OUTBOX_CLOSE_BYTES {
            outbox.bytes.clear();
            outbox.closing = true;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes it when all that was sent before is out.
    pub fn close(&self) {
        self.outbox.lock().closing = true;
        self.changed.notify_one();
    }
}

/// An address as Java writes it: IPv6 without abbreviations.
fn ip_text(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:x}")).join(":"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one turn of a connection that reads everything leaves behind: bytes of both buffers.
    fn kept_after(unsent: &mut Unsent, outbox: &mut Outbox, len: usize) -> usize {
        outbox.bytes.extend_from_slice(&vec![7; len]);
        unsent.take(outbox);
        assert_eq!(unsent.rest().len(), len);
        unsent.advance(len);
        assert!(unsent.is_empty());
        unsent.give_back(outbox);
        unsent.bytes.capacity() + outbox.bytes.capacity()
    }

    #[test]
    fn a_connection_at_rest_keeps_one_small_buffer() {
        let (mut unsent, mut outbox) = (Unsent::default(), Outbox::default());
        assert!((1000..2000).contains(&kept_after(&mut unsent, &mut outbox, 1000)));
        let buffer = outbox.bytes.as_ptr();
        kept_after(&mut unsent, &mut outbox, 1000);
        assert_eq!(
            outbox.bytes.as_ptr(),
            buffer,
            "the warm buffer is used again"
        );
        let kept = kept_after(&mut unsent, &mut outbox, 4 * limits::OUTBOX_PAUSE_BYTES);
        assert!(kept <= limits::OUTBOX_KEPT_BYTES, "{kept}");
    }

    #[test]
    fn nothing_is_taken_while_something_is_unsent_and_the_order_stays() {
        let (mut unsent, mut outbox) = (Unsent::default(), Outbox::default());
        outbox.bytes.extend_from_slice(b"first");
        unsent.take(&mut outbox);
        outbox.bytes.extend_from_slice(b"second");
        unsent.advance(3);
        unsent.take(&mut outbox);
        assert_eq!(
            (unsent.rest(), &outbox.bytes[..]),
            (&b"st"[..], &b"second"[..])
        );
        unsent.advance(2);
        unsent.give_back(&mut outbox);
        assert_eq!(&outbox.bytes[..], b"second");
        unsent.take(&mut outbox);
        assert_eq!(unsent.rest(), b"second");
    }

    #[test]
    fn addresses_are_written_as_java_does() {
        let text = |peer: &str| ip_text(peer.parse().unwrap());
        assert_eq!(text("127.0.0.1:5"), "127.0.0.1");
        assert_eq!(text("[::1]:5"), "0:0:0:0:0:0:0:1");
        assert_eq!(text("[::ffff:10.0.0.1]:5"), "10.0.0.1");
    }
}
