//! Conversations recorded from genuine servers: every message of the quorum and the election port decodes, and encodes
//! to the same bytes.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;

use bytes::{Bytes, BytesMut};
use node_core::proto::election::{Introduction, Notification, decode_frame};
use node_core::proto::quorum::{Packet, decode_packet};
use node_core::quorum::config::QuorumConfig;

fn hex(text: &str) -> Bytes {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Calls `check` with label and bytes of each message of the recordings in a folder; returns how many there were.
fn for_each_message(folder: &str, mut check: impl FnMut(&str, BytesMut)) -> usize {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder);
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(bytes) = value.get("hex") {
                check(
                    value["label"].as_str().unwrap(),
                    BytesMut::from(hex(bytes.as_str().unwrap())),
                );
                count += 1;
            }
        }
    }
    count
}

#[test]
fn quorum_packets_come_back_as_the_same_bytes() {
    let count = for_each_message("quorum", |label, bytes| {
        if label.starts_with("snapshot stream") {
            return;
        }
        let mut input = bytes.clone();
        let packet = decode_packet(&mut input, 1 << 20).unwrap().unwrap();
        assert!(input.is_empty(), "{label}");
        let mut out = BytesMut::new();
        packet.encode(&mut out);
        assert_eq!(out, bytes, "{label}");
        check_config(&packet);
    });
    assert!(count > 400);
}

/// Configurations print as they were read.
fn check_config(packet: &Packet) {
    let text = match packet {
        Packet::NewLeader {
            config: Some(text), ..
        } => String::from_utf8(text.to_vec()).unwrap(),
        Packet::Proposal(p) | Packet::InformAndActivate { proposal: p, .. } => {
            match p.reconfig().unwrap() {
                Some(text) => text,
                None => return,
            }
        }
        _ => return,
    };
    assert_eq!(QuorumConfig::parse(&text).unwrap().to_string(), text);
}

#[test]
fn election_messages_come_back_as_the_same_bytes() {
    let count = for_each_message("election", |label, bytes| {
        let mut input = bytes.clone();
        if label.starts_with("initial message") {
            let introduction = Introduction::decode(&mut input).unwrap().unwrap();
            assert_eq!(introduction.encode(), bytes, "{label}");
        } else {
            let message = decode_frame(&mut input).unwrap().unwrap();
            let notification = Notification::decode(message.clone()).unwrap();
            assert_eq!(notification.encode(), message, "{label}");
            let config = QuorumConfig::parse(&notification.config).unwrap();
            assert_eq!(config.to_string(), notification.config);
        }
        assert!(input.is_empty(), "{label}");
    });
    assert!(count > 30);
}
