//! What the operator says to the members themselves: it asks them how they are, and changes the membership.

use std::future::Future;

use crate::client::{Change, ReconfigError, reconfigure};
use crate::ensemble::{Told, ask};

/// The members, as the operator reaches them.
pub trait Members {
    /// Asks one member (`host:port`); none when it does not answer in time.
    fn ask(&self, address: &str) -> impl Future<Output = Option<Told>>;

    /// Carries out one change of the membership at the first of `addresses` that gives a session.
    fn reconfigure(
        &self,
        addresses: &[String],
        super_password: &str,
        change: &Change,
    ) -> impl Future<Output = Result<(), ReconfigError>>;
}

/// Members across the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

impl Members for Network {
    async fn ask(&self, address: &str) -> Option<Told> {
        ask(address).await
    }

    async fn reconfigure(
        &self,
        addresses: &[String],
        super_password: &str,
        change: &Change,
    ) -> Result<(), ReconfigError> {
        reconfigure(addresses, super_password, change).await
    }
}
