//! The values of one `zoo.cfg`, checked against the table of keys. Collects what is wrong instead of stopping at it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{self, Allowed, Key, Support};
use super::properties::{self, Entry};
use super::{ConfigError, Place, Problem, Warning};
use crate::limits;

/// Reads a properties file.
pub(super) fn read_file(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let io_error = |source| ConfigError::Io {
        act: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path)
        .map_err(io_error)?
        .take(limits::CONFIG_FILE_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > limits::CONFIG_FILE_BYTES {
        return Err(io_error(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "too long for a configuration",
        )));
    }
    properties::parse(&bytes).map_err(|e| {
        let place = Place {
            path: path.to_owned(),
            line: Some(e.line),
        };
        ConfigError::Problems(vec![Problem {
            place,
            text: e.to_string(),
        }])
    })
}

/// The values of a file, and what was found wrong with them so far.
pub(super) struct Values {
    path: PathBuf,
    known: BTreeMap<&'static str, Entry>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl Values {
    /// Takes the entries whose keys are in the table; warns about all others.
    pub(super) fn new(path: &Path, entries: Vec<Entry>) -> Self {
        let mut values = Self {
            path: path.to_owned(),
            known: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        for entry in entries {
            let line = Some(entry.line);
            let Some(key) = keys::find(&entry.key) else {
                values.unknown(&entry);
                continue;
            };
            values.check_support(key, &entry);
            if let Some(before) = values.known.insert(key.name, entry) {
                values.warn(
                    line,
                    format!(
                        "{} was already set on line {}; this one counts",
                        key.name, before.line
                    ),
                );
            }
        }
        values
    }

    fn unknown(&mut self, entry: &Entry) {
        let (line, key) = (Some(entry.line), &entry.key);
        match keys::find_family(key) {
            Some(Support::Meaningless(why)) => {
                self.note(line, format!("{key} has no meaning in this server: {why}"))
            }
            Some(Support::Refused) if is_off(&entry.value) => {}
            Some(Support::Refused) => {
                self.problem(line, format!("{key} is not supported yet; remove it"))
            }
            Some(_) => self.warn(
                line,
                format!("{key} is not supported yet and has no effect"),
            ),
            None => {
                let hint = keys::nearest(key)
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default();
                self.warn(
                    line,
                    format!("the key {key} is unknown and has no effect{hint}"),
                );
            }
        }
    }

    fn check_support(&mut self, key: &Key, entry: &Entry) {
        let (line, name) = (Some(entry.line), key.name);
        let as_default = entry.value.eq_ignore_ascii_case(key.default);
        match key.support {
            Support::Used => {}
            Support::Meaningless(why) => {
                self.note(line, format!("{name} has no meaning in this server: {why}"))
            }
            Support::NotYet | Support::Refused if as_default => {}
            Support::NotYet => {
                let text = format!(
                    "{name}={} is not supported yet and has no effect",
                    entry.value
                );
                self.warn(line, text);
            }
            Support::Refused => {
                let text = format!(
                    "{name}={} is not supported yet; this server would do without it, so remove it",
                    entry.value
                );
                self.problem(line, text);
            }
        }
    }

    /// Notes something wrong.
    pub(super) fn problem(&mut self, line: Option<usize>, text: impl Into<String>) {
        let place = Place {
            path: self.path.clone(),
            line,
        };
        self.problems.push(Problem {
            place,
            text: text.into(),
        });
    }

    /// Notes something doubtful.
    pub(super) fn warn(&mut self, line: Option<usize>, text: impl Into<String>) {
        let place = Place {
            path: self.path.clone(),
            line,
        };
        self.warnings.push(Warning {
            problem: Problem {
                place,
                text: text.into(),
            },
            serious: true,
        });
    }

    fn note(&mut self, line: Option<usize>, text: String) {
        let place = Place {
            path: self.path.clone(),
            line,
        };
        self.warnings.push(Warning {
            problem: Problem { place, text },
            serious: false,
        });
    }

    /// The line on which a key is set.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.known.get(name).map(|entry| entry.line)
    }

    /// A text; `None` when it is absent or empty and has no default.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        let written = self.known.get(name).map(|entry| entry.value.clone());
        let value = written.unwrap_or_else(|| key(name).default.to_owned());
        (!value.is_empty()).then_some(value)
    }

    /// What is written for a key, if it is a value that `parse` takes; else the default, with a problem noted, so that one
    /// wrong value doesn't bring forth others.
    fn checked<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let key = key(name);
        let Some(entry) = self.known.get(name) else {
            return parse(key.default);
        };
        let parsed = parse(&entry.value);
        if parsed.is_none() {
            let (line, wanted) = (Some(entry.line), key.allowed.describe(key.unit));
            let text = if entry.value.is_empty() {
                format!("{name} has no value; it must be {wanted}")
            } else {
                format!("{name} is {:?}, but it must be {wanted}", entry.value)
            };
            self.problem(line, text);
            return parse(key.default);
        }
        parsed
    }

    /// A number; `None` when it is absent and has no default, or wrong.
    pub(super) fn number(&mut self, name: &'static str) -> Option<i64> {
        let Allowed::Number(min, max) = key(name).allowed else {
            unreachable!("{name} is a number in the table")
        };
        self.checked(name, |text| {
            number(text).filter(|n| (min..=max).contains(n))
        })
    }

    /// A number that the table bounds to 32 bits and gives a default, or 0.
    pub(super) fn count(&mut self, name: &'static str) -> u32 {
        self.number(name)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0)
    }

    /// A number that must be there.
    pub(super) fn required_count(&mut self, name: &'static str, why: &str) -> u32 {
        if self.line(name).is_none() {
            let key = key(name);
            let text = format!(
                "{name} is missing: {why}; add a line like {name}=… ({})",
                key.allowed.describe(key.unit)
            );
            self.problem(None, text);
        }
        self.count(name)
    }

    /// A size in KiB, in bytes; `None` for 0 or less.
    pub(super) fn kib(&mut self, name: &'static str) -> Option<u64> {
        let kib = self
            .number(name)
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0)?;
        Some(kib * 1024)
    }

    /// `true` or `false`, or `yes` or `no`, as the table says.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let (yes, no) = match key(name).allowed {
            Allowed::YesNo => ("yes", "no"),
            _ => ("true", "false"),
        };
        let parse = |text: &str| {
            let is = |word: &str| text.eq_ignore_ascii_case(word);
            if is(yes) {
                Some(true)
            } else {
                is(no).then_some(false)
            }
        };
        self.checked(name, parse).unwrap_or(false)
    }

    /// One of the words that the table lists.
    pub(super) fn word(&mut self, name: &'static str) -> Option<&'static str> {
        let Allowed::OneOf(words) = key(name).allowed else {
            unreachable!("{name} is a word in the table")
        };
        self.checked(name, |text| {
            words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .copied()
        })
    }

    /// A time, in hours unless it has a unit; `None` for zero.
    pub(super) fn interval(&mut self, name: &'static str) -> Option<Duration> {
        self.checked(name, interval)
            .filter(|interval| !interval.is_zero())
    }

    /// Takes what is wrong and doubtful from the values of another file.
    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }
}

fn key(name: &str) -> &'static Key {
    keys::find(name).expect("every key that is read is in the table")
}

fn is_off(value: &str) -> bool {
    value.is_empty() || value.eq_ignore_ascii_case("false")
}

/// A number as Java's `Integer.decode` takes it: decimal or 0x….
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16)
            .ok()
            .filter(|_| !hex.starts_with(['+', '-'])),
        None => text.parse().ok(),
    }
}

fn interval(text: &str) -> Option<Duration> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (amount, unit) = text.split_at(unit_at);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "" | "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    amount
        .parse::<u64>()
        .ok()?
        .checked_mul(millis)
        .map(Duration::from_millis)
}
