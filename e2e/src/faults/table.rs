//! The fault table, from what was seen: one line for each row and kind of servers, or both kinds side by side.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::row::Outcome;
use super::rows::ROWS;
use crate::report::median;

/// The head of the table with one line for each kind of servers.
pub const HEAD: &str = "| fault | servers | write gap ms | read gap ms | worst client ms | acknowledged | lost | unknown | recovered | what happened |\n\
                        |---|---|---|---|---|---|---|---|---|---|";

/// The gaps, losses and the recovery of several runs of one row.
fn figures(outcomes: &[&Outcome]) -> [String; 5] {
    let gap = |of: fn(&Outcome) -> u64| {
        let gaps: Vec<u64> = outcomes.iter().map(|outcome| of(outcome)).collect();
        let middle = median(&gaps).unwrap_or_default();
        match gaps.iter().min().zip(gaps.iter().max()) {
            Some((least, most)) if gaps.len() > 1 => format!("{middle} ({least}–{most})"),
            _ => middle.to_string(),
        }
    };
    let recovered: Option<Vec<u64>> = outcomes
        .iter()
        .map(|outcome| outcome.recovered_ms)
        .collect();
    let recovered = match recovered.and_then(|times| median(&times)) {
        Some(ms) => format!("yes, {:.1} s", ms as f64 / 1000.0),
        None => "**no**".to_owned(),
    };
    let lost: usize = outcomes.iter().map(|outcome| outcome.lost).sum();
    let kept = outcomes.iter().all(|outcome| outcome.violations.is_empty());
    let lost = match (lost, kept) {
        (0, true) => "0".to_owned(),
        (lost, true) => format!("**{lost}**"),
        (lost, false) => format!("**{lost}, promises broken**"),
    };
    [
        gap(|outcome| outcome.write_gap_ms),
        gap(|outcome| outcome.read_gap_ms),
        gap(|outcome| outcome.client_gap_ms),
        lost,
        recovered,
    ]
}

/// What happened the last time.
fn story(outcomes: &[&Outcome]) -> String {
    let violations: usize = outcomes
        .iter()
        .map(|outcome| outcome.violations.len())
        .sum();
    let what = outcomes.last().map_or("", |outcome| &outcome.what[..]);
    match violations {
        0 => what.to_owned(),
        many => format!("**{many} broken promises**; {what}"),
    }
}

/// One line: medians, sums, and what happened the last time.
#[must_use]
pub fn line(outcomes: &[Outcome]) -> String {
    let outcomes: Vec<&Outcome> = outcomes.iter().collect();
    let Some(last) = outcomes.last() else {
        return String::new();
    };
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(|outcome| of(outcome)).sum::<usize>();
    let [write, read, client, lost, recovered] = figures(&outcomes);
    format!(
        "| {} | {} | {write} | {read} | {client} | {} | {lost} | {} | {recovered} | {} |",
        last.row,
        last.servers,
        sum(|outcome| outcome.acknowledged),
        sum(|outcome| outcome.unknown),
        story(&outcomes)
    )
}

/// Apache's servers and ours side by side, from the JSON lines that runs have left.
pub fn compare(files: &[PathBuf]) -> Result<String> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for path in files {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            outcomes.push(serde_json::from_str(line)?);
        }
    }
    let mut table = String::from(
        "| fault | Apache: write gap ms | read gap | worst client | lost | recovered | ours: write gap ms | read gap | worst client | lost | recovered |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let of = |servers: &str| -> Vec<&Outcome> {
            let those = outcomes.iter();
            those
                .filter(|outcome| outcome.row == row.name && outcome.servers == servers)
                .collect()
        };
        let cells = |those: &[&Outcome]| match those {
            [] => " | | | | ".to_owned(),
            those => figures(those).join(" | "),
        };
        let (apache, ours) = (of("apache"), of("ours"));
        if apache.is_empty() && ours.is_empty() {
            continue;
        }
        table.push_str(&format!(
            "| `{}` | {} | {} |\n",
            row.name,
            cells(&apache),
            cells(&ours)
        ));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(
        servers: &str,
        write_gap_ms: u64,
        lost: usize,
        recovered_ms: Option<u64>,
    ) -> Outcome {
        Outcome {
            row: ROWS[0].name.to_owned(),
            servers: servers.to_owned(),
            voters: 3,
            write_gap_ms,
            read_gap_ms: 20,
            client_gap_ms: 30,
            acknowledged: 100,
            lost,
            unknown: 8,
            recovered_ms,
            history_answers: 50,
            violations: Vec::new(),
            what: "it ended".to_owned(),
            load_average: "1.0".to_owned(),
        }
    }

    #[test]
    fn a_loss_and_a_missing_recovery_stand_out() {
        let outcomes = [
            outcome("ours", 10, 0, Some(500)),
            outcome("ours", 30, 0, Some(700)),
        ];
        assert_eq!(
            line(&outcomes),
            format!(
                "| {} | ours | 30 (10–30) | 20 (20–20) | 30 (30–30) | 200 | 0 | 16 | yes, 0.7 s | it ended |",
                ROWS[0].name
            )
        );
        let line = line(&[outcome("apache", 10, 3, None)]);
        assert!(
            line.contains("| **3** |") && line.contains("| **no** |"),
            "{line}"
        );
    }

    #[test]
    fn both_kinds_stand_side_by_side() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let lines = [
            outcome("ours", 10, 0, Some(500)),
            outcome("apache", 400, 0, None),
        ];
        let lines = lines.map(|outcome| serde_json::to_string(&outcome).expect("it is plain data"));
        fs::write(file.path(), lines.join("\n"))?;
        let table = compare(&[file.path().to_owned()])?;
        let last = table.lines().last().context("there is a row")?;
        assert!(
            last.ends_with("| 400 | 20 | 30 | 0 | **no** | 10 | 20 | 30 | 0 | yes, 0.5 s |"),
            "{last}"
        );
        Ok(())
    }
}
