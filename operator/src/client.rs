//! Reconfiguration through a client session, as the superuser. Everything has a time-out.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use zookeeper_client::{Client, EnsembleUpdate, Error};

use crate::cluster::ServerId;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Specifications of servers that join or change their role.
    pub joining: Vec<String>,
    /// Servers that leave.
    pub leaving: Vec<ServerId>,
    /// The version that is changed: with another one in force, the change is refused.
    pub from_version: u64,
}

/// Why a change of the membership did not happen, or may not have.
#[derive(Debug, Error)]
pub enum ReconfigError {
    /// No session with the member.
    #[error("no session with {address} to reconfigure the ensemble: {error}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        error: Error,
    },
    /// Another change came first; the next look at the ensemble will show it.
    #[error("the membership has changed since it was read")]
    Outdated,
    /// Too few voters of the new membership are connected and in sync.
    #[error("too few voters of the new membership follow the leader just now")]
    NoQuorum,
    /// Another change is not committed yet.
    #[error("another change of the membership is under way")]
    InProgress,
    /// The servers said no.
    #[error("the ensemble refused the change of its membership: {0}")]
    Refused(Error),
    /// No member serves.
    #[error("no member serves, so that none could be asked to change the membership")]
    Nobody,
    /// The connection broke while the change was under way; the next look at the ensemble will show it.
    #[error("the connection broke before the change of the membership was confirmed")]
    Lost,
    /// Nobody knows whether it happened; the next look at the ensemble will show it.
    #[error("no answer to the change of the membership within {0:?}")]
    TimedOut(Duration),
}

/// Carries out one incremental `reconfig` at the first of `addresses` that gives a session.
pub async fn reconfigure(
    addresses: &[String],
    super_password: &str,
    change: &Change,
) -> Result<(), ReconfigError> {
    let credentials = format!("super:{super_password}");
    let attempt = async {
        let mut outcome = Err(ReconfigError::Nobody);
        for address in addresses {
            outcome = reconfigure_at(address, &credentials, change).await;
            if !matches!(outcome, Err(ReconfigError::Connect { .. })) {
                break;
            }
        }
        outcome
    };
    timeout(RECONFIG_TIMEOUT, attempt)
        .await
        .unwrap_or(Err(ReconfigError::TimedOut(RECONFIG_TIMEOUT)))
}

async fn reconfigure_at(
    address: &str,
    credentials: &str,
    change: &Change,
) -> Result<(), ReconfigError> {
    let connector = Client::connector()
        .with_session_timeout(SESSION_TIMEOUT)
        .with_connection_timeout(SESSION_TIMEOUT)
        .with_auth("digest", credentials.as_bytes())
        .with_fail_eagerly();
    let address = address.to_owned();
    let client = match connector.connect(&address).await {
        Ok(client) => client,
        Err(error) => return Err(ReconfigError::Connect { address, error }),
    };
    let leaving: Vec<String> = change.leaving.iter().map(ToString::to_string).collect();
    let update = EnsembleUpdate::Incremental {
        joinings: change.joining.iter().map(String::as_str),
        leavings: leaving.iter().map(String::as_str),
    };
    match client
        .update_ensemble(update, i64::try_from(change.from_version).ok())
        .await
    {
        Ok(_) => Ok(()),
        Err(Error::BadVersion) => Err(ReconfigError::Outdated),
        Err(Error::ConnectionLoss | Error::SessionExpired) => Err(ReconfigError::Lost),
        Err(Error::UnexpectedErrorCode(NEW_CONFIG_NO_QUORUM)) => Err(ReconfigError::NoQuorum),
        Err(Error::UnexpectedErrorCode(RECONFIG_IN_PROGRESS)) => Err(ReconfigError::InProgress),
        Err(error) => Err(ReconfigError::Refused(error)),
    }
}

/// A password for the superuser, made at random.
pub fn new_password() -> std::io::Result<String> {
    let mut random = [0_u8; 24];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

const NEW_CONFIG_NO_QUORUM: i32 = -13;
const RECONFIG_IN_PROGRESS: i32 = -14;
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
const RECONFIG_TIMEOUT: Duration = Duration::from_secs(8);
