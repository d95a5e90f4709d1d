//! A member's `zoo.cfg`. Pure: text out of a template, a place and a membership.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

use crate::cluster::Role;
use crate::desired::Template;
use crate::membership::Membership;

/// What is a member's own in its `zoo.cfg`.
#[derive(Clone, Debug, PartialEq)]
pub struct Place<'a> {
    /// Where its data lives.
    pub data_dir: &'a str,
    /// Where its transaction log lives, when that is a place of its own.
    pub log_dir: Option<&'a str>,
    /// Interface that clients reach it on.
    pub client_host: &'a str,
    /// Port for clients.
    pub client_port: u16,
    /// Port of its metrics.
    pub metrics_port: u16,
    /// `super:…`, from [`super_digest`].
    pub super_digest: &'a str,
}

/// Where a member takes the membership from when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipSource {
    /// From `server.N` lines: a member that starts for the first time.
    Servers(Membership),
    /// As the file said it before, line by line: `server.N`, `group.N`, `weight.N` and `dynamicConfigFile`. Once a
    /// member has run, what it wrote there is the truth; another list might let it form a quorum of its own.
    Kept(Vec<String>),
}

/// Renders the whole file.
pub fn zoo_cfg(
    template: &Template,
    place: &Place<'_>,
    role: Role,
    source: &MembershipSource,
) -> String {
    let mut text =
        String::from("# Written by zookeeper-operator: change the ensemble's manifest instead.\n");
    for (key, value) in &template.keys {
        line(&mut text, key, value);
    }
    line(
        &mut text,
        "DigestAuthenticationProvider.superDigest",
        place.super_digest,
    );
    line(&mut text, "clientPort", &place.client_port.to_string());
    line(&mut text, "clientPortAddress", place.client_host);
    line(&mut text, "dataDir", place.data_dir);
    if let Some(log_dir) = place.log_dir {
        line(&mut text, "dataLogDir", log_dir);
    }
    line(&mut text, "metricsProvider.className", PROMETHEUS);
    line(&mut text, "metricsProvider.httpHost", place.client_host);
    line(
        &mut text,
        "metricsProvider.httpPort",
        &place.metrics_port.to_string(),
    );
    if role == Role::Observer {
        line(&mut text, "peerType", "observer");
    }
    let lines = match source {
        MembershipSource::Servers(membership) => &membership.lines(),
        MembershipSource::Kept(lines) => lines,
    };
    for membership in lines {
        text.push_str(membership);
        text.push('\n');
    }
    text
}

/// The lines of an existing `zoo.cfg` that tell the membership.
pub fn membership_lines(zoo_cfg: &str) -> Vec<String> {
    let lines = zoo_cfg.lines().map(str::trim);
    let about = |line: &str| MEMBERSHIP_KEYS.iter().any(|key| line.starts_with(key));
    lines
        .filter(|line| about(line))
        .map(str::to_owned)
        .collect()
}

/// Whether an existing `zoo.cfg` says `peerType=observer`.
pub fn peer_type(zoo_cfg: &str) -> Role {
    let observer = zoo_cfg
        .lines()
        .any(|line| line.trim() == "peerType=observer");
    if observer {
        Role::Observer
    } else {
        Role::Voter
    }
}

/// What a server needs to know the superuser by: `super:base64(SHA1("super:PASSWORD"))`.
pub fn super_digest(password: &str) -> String {
    let digest = Sha1::digest(format!("super:{password}").as_bytes());
    format!("super:{}", BASE64_STANDARD.encode(digest))
}

/// One line, with what a properties file would take for its own escaped.
fn line(text: &mut String, key: &str, value: &str) {
    let value = value.replace('\\', "\\\\");
    writeln!(text, "{key}={value}").expect("a String takes all that is written to it");
}

const PROMETHEUS: &str = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
const MEMBERSHIP_KEYS: [&str; 4] = ["server.", "group.", "weight.", "dynamicConfigFile"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superusers_digest_is_apaches() {
        assert_eq!(super_digest("test"), "super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
    }
}
