//! What must be on stable storage before the driver goes on: it is done again while there is no room, and while it takes
//! long, clients are not kept waiting.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use node_core::member::HOLD_MS;
use node_core::member::work::Clients;

use crate::disk;
use crate::limits;

/// How often who has come meanwhile is sent away again.
const AGAIN: Duration = Duration::from_millis(500);

/// Calls `act` until it finds room; gives what came of it. It is called on a thread of its own. When it takes longer than a
/// client waits for a leader, clients are sent away: others may serve them.
pub(crate) fn until_done(
    clients: &mut impl Clients,
    mut act: impl FnMut() -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let (done, outcome) = channel();
        scope.spawn(move || {
            let outcome = loop {
                match act() {
                    Err(error) if disk::is_full(&error) => {
                        std::thread::sleep(limits::FULL_DISK_PAUSE);
                    }
                    outcome => break outcome,
                }
            };
            // Who waits for it does so until it comes.
            let _ = done.send(outcome);
        });
        let mut waits = Duration::from_millis(HOLD_MS);
        loop {
            match outcome.recv_timeout(waits) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => {
                    if waits != AGAIN {
                        tracing::error!(
                            "the disk is full or hangs: this server goes on when it works again"
                        );
                    }
                    clients.close_all();
                    waits = AGAIN;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(anyhow::anyhow!(
                        "a thread that works on the disk has panicked"
                    ));
                }
            }
        }
    })
}
