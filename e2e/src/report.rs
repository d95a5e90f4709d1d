//! What a test says while it runs: straight to standard error, so that figures show although the test passes.

use std::io::Write;
use std::time::Duration;

/// Writes one line past the test harness's capture.
pub fn say(line: impl AsRef<str>) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr().lock(), "    {}", line.as_ref());
}

/// Milliseconds, for figures.
#[must_use]
pub fn millis(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

/// The middle of `values`, or `None` when there are none.
#[must_use]
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("figures are ordered"));
    sorted.get(sorted.len() / 2).copied()
}

/// A part of a duration or of bytes, as a ratio of two numbers; 0 for an empty base.
#[must_use]
pub fn ratio(part: f64, base: f64) -> f64 {
    if base > 0.0 { part / base } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_nothing_is_nothing() {
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(median(&[3, 1, 2]), Some(2));
    }
}
