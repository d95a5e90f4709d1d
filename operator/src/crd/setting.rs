//! A value of `zoo.cfg` in a manifest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value of `zoo.cfg` as people write it in YAML: with or without quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a value of zoo.cfg is a text, a number, true or false"
)]
pub enum Setting {
    /// `true`, `false`; also `yes` and `no` where a YAML reader takes them for those.
    Switch(bool),
    /// `2000`, `0.5`.
    Number(serde_json::Number),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(on) => on.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text.trim()),
        }
    }
}

impl From<i32> for Setting {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
