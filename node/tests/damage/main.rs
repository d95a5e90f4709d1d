//! What damage of every kind to every file does to an ensemble of three: it is found, and repaired from the others or told;
//! nothing that was acknowledged is ever missing without a word.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

mod cases;
mod ensemble;
mod stories;
