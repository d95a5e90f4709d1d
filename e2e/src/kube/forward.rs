//! A way into the cluster for clients outside: `kubectl port-forward`.
//!
//! It ends with the pod that it leads to. A load that must outlive its members runs inside instead (`load`).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use crate::kube::namespace::Namespace;

/// A forwarded port, as long as this value lives.
#[derive(Debug)]
pub struct Forward {
    /// Where it can be reached on this machine.
    pub address: SocketAddr,
    child: Child,
}

impl Forward {
    /// Forwards a free port to `port` of a target, for example `service/demo-client`.
    pub fn start(namespace: &Namespace<'_>, target: &str, port: u16) -> Result<Self> {
        let port = format!(":{port}");
        let arguments = [
            "--namespace",
            &namespace.name,
            "port-forward",
            target,
            &port,
            "--address=127.0.0.1",
        ];
        let mut child = namespace
            .cluster
            .command("kubectl", &arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        let stdout = child.stdout.take().expect("it was asked for above");
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        // "Forwarding from 127.0.0.1:40123 -> 2181"
        let Some(address) = line
            .split_whitespace()
            .nth(2)
            .and_then(|address| address.parse().ok())
        else {
            let output = child.wait_with_output()?;
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{target} cannot be forwarded: {line}{errors}");
        };
        // It says a line for each connection: somebody has to read them.
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
        let stderr = child.stderr.take().expect("it was asked for above");
        std::thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .for_each(drop);
        });
        Ok(Self { address, child })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
