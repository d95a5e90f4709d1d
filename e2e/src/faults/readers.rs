//! Sessions that read without pause, one for each member at first: how long anybody, and how long one of them, got no answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ack;
use crate::client::{Client, ConnectError, Request, Session};
use crate::outage::Acknowledged;

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(3);
/// As long as writers wait, so that gaps can be compared.
const HELLO: Duration = Duration::from_secs(1);
const REPLY: Duration = Duration::from_secs(2);

/// A running load of reads.
#[derive(Debug)]
pub struct Readers {
    stop: Arc<AtomicBool>,
    all: Arc<Acknowledged>,
    each: Vec<Arc<Acknowledged>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts one reader for each member.
    #[must_use]
    pub fn start(addresses: &[SocketAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let all = Arc::<Acknowledged>::default();
        let each: Vec<_> = addresses.iter().map(|_| Arc::default()).collect();
        let thread = |(first, own): (usize, &Arc<Acknowledged>)| {
            let mut reader = Reader {
                addresses: addresses.to_vec(),
                next: first,
                stop: Arc::clone(&stop),
                answers: [Arc::clone(&all), Arc::clone(own)],
                session: None,
            };
            std::thread::spawn(move || reader.run())
        };
        let threads = each.iter().enumerate().map(thread).collect();
        Self {
            stop,
            all,
            each,
            threads,
        }
    }

    /// The longest time in which nobody's read was answered.
    #[must_use]
    pub fn gap(&self, from: Instant, to: Instant) -> Duration {
        self.all.longest_gap(from, to)
    }

    /// The longest time in which some reader's reads were not answered.
    #[must_use]
    pub fn worst_client(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.each.iter().map(|own| own.longest_gap(from, to));
        gaps.max().unwrap_or_default()
    }

    /// Ends the load.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a reader does not panic");
        }
    }
}

struct Reader {
    addresses: Vec<SocketAddr>,
    /// The member that the next connection goes to.
    next: usize,
    stop: Arc<AtomicBool>,
    answers: [Arc<Acknowledged>; 2],
    session: Option<Session>,
}

impl Reader {
    fn run(&mut self) {
        let request = Request::get(&ack::counter(0, 0));
        while !self.stopped() {
            let Some(mut client) = self.connect() else {
                std::thread::sleep(RETRY);
                continue;
            };
            while !self.stopped() && client.call(&request).is_ok_and(|reply| reply.err == 0) {
                self.answers.iter().for_each(|answers| answers.now());
                std::thread::sleep(PACE);
            }
            self.session = Some(client.session().clone());
            if self.stopped() {
                // The session expires by itself if this fails; it owns nothing.
                let _ = client.close();
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn connect(&mut self) -> Option<Client> {
        let address = *self.addresses.get(self.next)?;
        self.next = (self.next + 1) % self.addresses.len();
        match Client::open_within(HELLO, address, SESSION_TIMEOUT, self.session.as_ref()) {
            Ok(client) => {
                client.set_patience(REPLY).ok()?;
                Some(client)
            }
            Err(ConnectError::Expired) => {
                self.session = None;
                None
            }
            Err(ConnectError::Io(_)) => None,
        }
    }
}
