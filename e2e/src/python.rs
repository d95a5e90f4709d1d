//! Programs that use kazoo, run as a user would run them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools;

/// A running program of `e2e/kazoo`.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts `e2e/kazoo/NAME` with addresses as its arguments.
    pub fn start(name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("kazoo")
            .join(name);
        let mut command = Command::new(tools::python()?);
        // No byte code beside the sources: the work tree stays clean.
        command
            .arg("-B")
            .arg(path)
            .args(addresses.iter().map(SocketAddr::to_string));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
            .spawn()
            .map(Self)
            .with_context(|| format!("cannot start {name}"))
    }

    /// Waits for its end; returns what it printed, or an error with that.
    pub fn finish(self) -> Result<String> {
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the program failed ({}):\n{text}{errors}",
            output.status
        );
        Ok(text)
    }
}
