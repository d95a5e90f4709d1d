//! Conversations recorded from genuine servers: every frame of the client port decodes, and encodes to the same bytes.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use node_core::jute::{Jute, Reader};
use node_core::proto::client::{
    ConnectRequest, ConnectResponse, OpCode, ReplyHeader, Request, RequestHeader, Response,
};

struct Frame {
    from_client: bool,
    payload: Bytes,
}

fn hex(text: &str) -> Bytes {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The frames of a recorded connection, without their lengths.
fn frames(path: &Path) -> Vec<Frame> {
    let text = std::fs::read_to_string(path).unwrap();
    let frame = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let bytes = hex(value.get("hex")?.as_str()?);
        Some(Frame {
            from_client: value["dir"] == ">",
            payload: bytes.slice(4..),
        })
    };
    text.lines().filter_map(frame).collect()
}

fn golden_files() -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/client");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn check_request(payload: &Bytes, asked: &mut BTreeMap<i32, OpCode>) {
    let mut input = Reader::new(payload.clone());
    let header: RequestHeader = input.read().unwrap();
    let op = OpCode::from_number(header.op).unwrap();
    asked.insert(header.xid, op);
    let request = Request::read(op, &mut input).unwrap();
    input.end().unwrap();
    let mut out = BytesMut::new();
    header.write(&mut out);
    request.encode(&mut out);
    assert_eq!(out, payload, "{request:?}");
}

fn check_reply(payload: &Bytes, asked: &BTreeMap<i32, OpCode>) {
    let mut input = Reader::new(payload.clone());
    let header: ReplyHeader = input.read().unwrap();
    if header.xid == -1 || input.left() == 0 {
        return;
    }
    let response = Response::decode(asked[&header.xid], input.rest()).unwrap();
    let mut out = BytesMut::new();
    header.write(&mut out);
    response.encode(&mut out);
    assert_eq!(out, payload, "{response:?}");
}

#[test]
fn recorded_conversations_encode_to_the_same_bytes() {
    let mut checked = 0;
    for path in golden_files() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Four-letter words have no frames, and the raw conversations are about requests that cannot be decoded.
        if name.contains("4lw") || name.contains("raw") {
            continue;
        }
        let mut asked = BTreeMap::new();
        let (mut requests, mut replies) = (0, 0);
        for frame in frames(&path) {
            let count = if frame.from_client {
                &mut requests
            } else {
                &mut replies
            };
            *count += 1;
            let mut out = BytesMut::new();
            match (frame.from_client, *count) {
                (true, 1) => {
                    ConnectRequest::decode(frame.payload.clone())
                        .unwrap()
                        .encode(&mut out);
                    assert_eq!(out, frame.payload, "{name}");
                }
                (false, 1) => {
                    ConnectResponse::decode(frame.payload.clone())
                        .unwrap()
                        .encode(&mut out);
                    assert_eq!(out, frame.payload, "{name}");
                }
                (true, _) => check_request(&frame.payload, &mut asked),
                (false, _) => check_reply(&frame.payload, &asked),
            }
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} frames were found");
}
