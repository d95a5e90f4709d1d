//! Free ports that stay free: outside the range from which the system gives ports to outgoing connections, so that a
//! member finds its port again after a restart.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Picks ports, none of them twice.
#[derive(Debug)]
pub(super) struct Ports {
    taken: BTreeSet<u16>,
    next: u16,
}

impl Ports {
    /// Begins at a place that depends on the folder, so that two ensembles rarely try the same ports.
    pub(super) fn new(dir: &Path, taken: impl IntoIterator<Item = u16>) -> Self {
        let mut hasher = DefaultHasher::new();
        std::path::absolute(dir)
            .unwrap_or_else(|_| dir.to_owned())
            .hash(&mut hasher);
        let spread = (hasher.finish() % u64::from(LAST - FIRST)) as u16;
        Self {
            taken: taken.into_iter().collect(),
            next: FIRST + spread,
        }
    }

    /// A port that nobody listens on.
    pub(super) fn free(&mut self) -> Option<u16> {
        for _ in FIRST..LAST {
            let port = self.next;
            self.next = if port + 1 == LAST { FIRST } else { port + 1 };
            if !self.taken.contains(&port) && is_free(port) {
                self.taken.insert(port);
                return Some(port);
            }
        }
        None
    }
}

/// Whether nobody listens on a port of this machine.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

const FIRST: u16 = 12_000;
const LAST: u16 = 32_000;
