//! Programs run to their end, with what they said in the error.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command`, with `input` on its standard input; returns its standard output.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take().expect("it was asked for above");
    let text = input.to_owned();
    // A program that ends without reading all says itself what it did not like.
    let feed = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
    let output = child.wait_with_output()?;
    feed.join().expect("writing does not panic");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}):\n{text}{errors}", output.status);
    }
    Ok(text)
}

/// Runs `command` to its end; what it says goes to where the test's own words go.
pub fn show(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}); its words are above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_what_the_program_said_and_input_reaches_it() {
        let text = run(&mut Command::new("cat"), &"word ".repeat(100_000)).unwrap();
        assert_eq!(text.len(), 500_000);
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo why >&2; exit 3"]);
        let error = format!("{:#}", run(&mut fails, "").unwrap_err());
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
