//! How should one writer and many readers share the tree? Measures, with a million znodes of 100 bytes:
//!
//! - `slab`: the server's own tree behind a reader-writer lock, a batch under one lock;
//! - `btree`: a `BTreeMap` from paths behind the same lock;
//! - `imbl-ord`, `imbl-hash`: a persistent map; the writer publishes a new version after each batch, readers take no lock.
//!
//! `cargo bench -p node --bench tree_sharing` prints the tables of `docs/performance.md`. Every variant runs in a process
//! of its own, so that memory can be told apart.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use node_core::jute::Jute;
use node_core::proto::client::{OpCode, ReplyHeader, Request, RequestHeader, write_frame};
use node_core::proto::data::{Acl, Stat};
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnHeader};
use node_core::read::read_plainly;
use node_core::replica::Replica;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::{SessionId, Zxid};
use parking_lot::RwLock;

const NODES: usize = 1_000_000;
const PER_PARENT: usize = 1000;
const DATA: [u8; 100] = [b'x'; 100];
const READERS: usize = 2;
const RUN: Duration = Duration::from_millis(1500);
const VARIANTS: [&str; 4] = ["slab", "btree", "imbl-ord", "imbl-hash"];

/// A tree that is shared in one way or another.
trait Shared: Sync {
    fn read(&self, batch: &[usize], frames: &Frames, out: &mut BytesMut);
    fn write(&self, batch: &[usize], zxid: i64);
    /// Does something else for a while that a server does too; true if there is more.
    fn snapshot_chunk(&self, _out: &mut Vec<u8>) -> bool {
        false
    }
}

fn path(i: usize) -> String {
    format!("/bench/p{:04}/n{i:07}", i / PER_PARENT)
}

/// The requests, encoded once: all of one length.
struct Frames {
    bytes: Vec<u8>,
    len: usize,
}

impl Frames {
    fn new() -> Self {
        let mut bytes = BytesMut::new();
        for i in 0..NODES {
            RequestHeader {
                xid: 1,
                op: OpCode::GetData as i32,
            }
            .write(&mut bytes);
            Request::GetData {
                path: path(i),
                watch: false,
            }
            .encode(&mut bytes);
        }
        Self {
            len: bytes.len() / NODES,
            bytes: bytes.to_vec(),
        }
    }

    fn frame(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.len..][..self.len]
    }

    fn path(&self, i: usize) -> &str {
        std::str::from_utf8(&self.frame(i)[12..self.len - 1]).expect("paths are ASCII")
    }
}

struct Slab(RwLock<Replica>, RwLock<Option<node_core::tree::SnapshotId>>);

fn header(zxid: i64, txn: &Txn) -> TxnHeader {
    let op = txn.op() as i32;
    TxnHeader {
        session: SessionId(1),
        cxid: 0,
        zxid: Zxid(zxid),
        time: zxid,
        op,
    }
}

fn create(path: String, data: Bytes) -> Txn {
    let (op, acl, ephemeral) = (CreateOp::Create, vec![Acl::open()], false);
    Txn::Create(CreateTxn {
        op,
        path,
        data: Some(data),
        acl,
        ephemeral,
        parent_cversion: -1,
    })
}

impl Slab {
    fn new() -> Self {
        let mut replica = Replica::new(TreeOptions::default());
        let mut zxid = 0;
        let mut apply = |txn: Txn| {
            zxid += 1;
            replica.apply(&header(zxid, &txn), &txn);
        };
        apply(create("/bench".into(), Bytes::new()));
        for i in 0..NODES {
            if i % PER_PARENT == 0 {
                apply(create(
                    format!("/bench/p{:04}", i / PER_PARENT),
                    Bytes::new(),
                ));
            }
            apply(create(path(i), Bytes::from_static(&DATA)));
        }
        Self(RwLock::new(replica), RwLock::new(None))
    }
}

impl Shared for Slab {
    fn read(&self, batch: &[usize], frames: &Frames, out: &mut BytesMut) {
        let replica = self.0.read();
        for i in batch {
            read_plainly(&replica, &[], frames.frame(*i), out);
        }
    }

    fn write(&self, batch: &[usize], zxid: i64) {
        let txns: Vec<Txn> = batch.iter().map(|i| set_data(*i)).collect();
        let mut replica = self.0.write();
        for (n, txn) in (0..).zip(&txns) {
            let applied = replica.apply(&header(zxid + n, txn), txn);
            assert!(applied.result.is_ok());
        }
    }

    fn snapshot_chunk(&self, out: &mut Vec<u8>) -> bool {
        let mut replica = self.0.write();
        let mut under = self.1.write();
        let id = *under.get_or_insert_with(|| replica.begin_snapshot());
        if replica.snapshot_chunk(id, 64, out) {
            replica.end_snapshot(id);
            *under = None;
        }
        true
    }
}

fn set_data(i: usize) -> Txn {
    Txn::SetData {
        path: path(i),
        data: Some(Bytes::from_static(&DATA)),
        version: 1,
    }
}

/// What the simple variants hold for a path.
#[derive(Clone)]
struct Plain {
    data: Bytes,
    stat: Stat,
}

impl Plain {
    fn new() -> Self {
        Self {
            data: Bytes::copy_from_slice(&DATA),
            stat: Stat::default(),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        write_frame(out, |out| {
            ReplyHeader {
                xid: 1,
                zxid: Zxid(1),
                err: 0,
            }
            .write(out);
            out.put_i32(self.data.len() as i32);
            out.put_slice(&self.data);
            self.stat.write(out);
        });
    }

    fn set(&mut self, zxid: i64) {
        self.data = Bytes::copy_from_slice(&DATA);
        self.stat.mzxid = Zxid(zxid);
        self.stat.version += 1;
    }
}

fn plain_nodes() -> impl Iterator<Item = (Box<str>, Plain)> {
    (0..NODES).map(|i| (path(i).into_boxed_str(), Plain::new()))
}

struct Tree(RwLock<BTreeMap<Box<str>, Plain>>);

impl Shared for Tree {
    fn read(&self, batch: &[usize], frames: &Frames, out: &mut BytesMut) {
        let tree = self.0.read();
        batch.iter().for_each(|i| tree[frames.path(*i)].write(out));
    }

    fn write(&self, batch: &[usize], zxid: i64) {
        let paths: Vec<String> = batch.iter().map(|i| path(*i)).collect();
        let mut tree = self.0.write();
        for path in &paths {
            tree.get_mut(path.as_str())
                .expect("all were created")
                .set(zxid);
        }
    }
}

struct Ordered(ArcSwap<imbl::OrdMap<Box<str>, Plain>>);

impl Shared for Ordered {
    fn read(&self, batch: &[usize], frames: &Frames, out: &mut BytesMut) {
        let tree = self.0.load();
        batch.iter().for_each(|i| tree[frames.path(*i)].write(out));
    }

    fn write(&self, batch: &[usize], zxid: i64) {
        let mut tree = imbl::OrdMap::clone(&self.0.load());
        for i in batch {
            tree.get_mut(path(*i).as_str())
                .expect("all were created")
                .set(zxid);
        }
        self.0.store(tree.into());
    }
}

struct Hashed(ArcSwap<imbl::HashMap<Box<str>, Plain>>);

impl Shared for Hashed {
    fn read(&self, batch: &[usize], frames: &Frames, out: &mut BytesMut) {
        let tree = self.0.load();
        batch.iter().for_each(|i| tree[frames.path(*i)].write(out));
    }

    fn write(&self, batch: &[usize], zxid: i64) {
        let mut tree = imbl::HashMap::clone(&self.0.load());
        for i in batch {
            tree.get_mut(path(*i).as_str())
                .expect("all were created")
                .set(zxid);
        }
        self.0.store(tree.into());
    }
}

/// Nanoseconds, in buckets an eighth of a power of two wide.
struct Histogram([u64; 512]);

impl Histogram {
    fn add(&mut self, ns: u64) {
        let ns = ns.max(8);
        let exponent = 63 - u64::from(ns.leading_zeros());
        self.0[(exponent * 8 + (ns >> (exponent - 3) & 7)) as usize] += 1;
    }

    fn micros_at(&self, share: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let bucket = bucket.unwrap_or(0) as i32;
        2f64.powi(bucket / 8) * (1.0 + f64::from(bucket % 8 + 1) / 8.0) / 1000.0
    }
}

fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize % NODES
}

fn read_loop(
    shared: &dyn Shared,
    frames: &Frames,
    size: usize,
    seed: u64,
    stop: &AtomicBool,
) -> (u64, Histogram) {
    let mut state = seed * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut latencies = Histogram([0; 512]);
    let mut reads = 0;
    let mut out = BytesMut::with_capacity(1 << 16);
    let mut batch = vec![0; size];
    while !stop.load(Ordering::Relaxed) {
        batch.iter_mut().for_each(|i| *i = random(&mut state));
        out.clear();
        let before = Instant::now();
        shared.read(&batch, frames, &mut out);
        latencies.add(before.elapsed().as_nanos() as u64);
        reads += size as u64;
    }
    (reads, latencies)
}

/// Writes at a rate, or rests; returns how many writes it managed.
fn write_loop(shared: &dyn Shared, rate: usize, size: usize, stop: &AtomicBool) -> u64 {
    let mut state = 77;
    let mut writes = 0;
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        if writes + size as u64 > due {
            thread::sleep(Duration::from_micros(20));
            continue;
        }
        let batch: Vec<usize> = (0..size).map(|_| random(&mut state)).collect();
        shared.write(&batch, 10_000_000 + writes as i64);
        writes += size as u64;
    }
    writes
}

fn run(
    name: &str,
    shared: &dyn Shared,
    frames: &Frames,
    load: (usize, usize),
    reads: usize,
    snapshot: bool,
) {
    let stop = AtomicBool::new(false);
    let (rate, size) = load;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|n| {
                scope.spawn({
                    let stop = &stop;
                    move || read_loop(shared, frames, reads, n as u64 + 1, stop)
                })
            })
            .collect();
        let writer = scope.spawn(|| write_loop(shared, rate, size, &stop));
        let snapshots = snapshot.then(|| {
            scope.spawn(|| {
                let mut out = Vec::new();
                while !stop.load(Ordering::Relaxed) && shared.snapshot_chunk(&mut out) {
                    out.clear();
                    thread::sleep(Duration::from_micros(50));
                }
            })
        });
        thread::sleep(RUN);
        stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        let mut latencies = Histogram([0; 512]);
        for reader in readers {
            let (reads, histogram) = reader.join().expect("a reader does not panic");
            total += reads;
            latencies
                .0
                .iter_mut()
                .zip(histogram.0)
                .for_each(|(sum, count)| *sum += count);
        }
        let writes = writer.join().expect("the writer does not panic");
        if let Some(snapshots) = snapshots {
            snapshots.join().expect("the snapshot does not panic");
        }
        let seconds = RUN.as_secs_f64();
        let extra = if snapshot { " + snapshot" } else { "" };
        println!(
            "| {name} | {rate}/s by {size}{extra} | {reads} | {:.0} k | {:.1} | {:.1} | {:.0} | {:.1} k |",
            total as f64 / seconds / 1000.0,
            latencies.micros_at(0.99),
            latencies.micros_at(0.999),
            latencies.micros_at(1.0),
            writes as f64 / seconds / 1000.0,
        );
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}

fn measure(name: &str) {
    let frames = Frames::new();
    let before = resident_bytes();
    let start = Instant::now();
    let shared: Box<dyn Shared> = match name {
        "slab" => Box::new(Slab::new()),
        "btree" => Box::new(Tree(RwLock::new(plain_nodes().collect()))),
        "imbl-ord" => Box::new(Ordered(ArcSwap::from_pointee(plain_nodes().collect()))),
        _ => Box::new(Hashed(ArcSwap::from_pointee(plain_nodes().collect()))),
    };
    let built = start.elapsed();
    let bytes = (resident_bytes() - before) / NODES;
    eprintln!(
        "{name}: {bytes} bytes a znode, built in {} ms",
        built.as_millis()
    );
    for load in [
        (0, 1),
        (20_000, 1),
        (20_000, 32),
        (100_000, 32),
        (100_000, 256),
    ] {
        for reads in [1, 32] {
            run(name, &*shared, &frames, load, reads, false);
        }
    }
    if name == "slab" {
        for reads in [1, 32] {
            run(name, &*shared, &frames, (20_000, 32), reads, true);
        }
    }
}

fn nanos_each(n: usize, mut act: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..n).for_each(&mut act);
    start.elapsed().as_nanos() as f64 / n as f64
}

/// What single operations cost on one thread.
fn costs() {
    let frames = Frames::new();
    let start = Instant::now();
    let slab = Slab::new();
    eprintln!(
        "create: {:.0} ns",
        start.elapsed().as_nanos() as f64 / NODES as f64
    );
    let mut replica = slab.0.into_inner();
    let mut state = 5;
    let mut out = BytesMut::with_capacity(1 << 20);
    let get = nanos_each(NODES, |_| {
        if out.len() > 1 << 19 {
            out.clear();
        }
        read_plainly(&replica, &[], frames.frame(random(&mut state)), &mut out);
    });
    eprintln!("getData, any node: {get:.0} ns");
    let get = nanos_each(NODES, |n| {
        if out.len() > 1 << 19 {
            out.clear();
        }
        read_plainly(&replica, &[], frames.frame(n % 1000), &mut out);
    });
    eprintln!("getData, 1000 hot nodes: {get:.0} ns");
    let txns: Vec<Txn> = (0..100_000).map(|_| set_data(random(&mut state))).collect();
    let set = nanos_each(txns.len(), |n| {
        let applied = replica.apply(&header(10_000_000 + n as i64, &txns[n]), &txns[n]);
        assert!(applied.result.is_ok());
    });
    eprintln!("setData: {set:.0} ns");
    let start = Instant::now();
    let id = replica.begin_snapshot();
    let mut image = Vec::new();
    let mut longest = Duration::ZERO;
    loop {
        let before = Instant::now();
        let done = replica.snapshot_chunk(id, 64, &mut image);
        longest = longest.max(before.elapsed());
        if done {
            break;
        }
    }
    replica.end_snapshot(id);
    eprintln!(
        "snapshot: {} ms, {} MB",
        start.elapsed().as_millis(),
        image.len() >> 20
    );
    let start = Instant::now();
    let mut reader = ImageReader::new(TreeOptions::default());
    for piece in image.chunks(1 << 16) {
        reader.feed(piece).expect("the image was just written");
    }
    let restored = reader.finish().expect("the image was just written");
    eprintln!("load: {} ms", start.elapsed().as_millis());
    assert_eq!(restored.tree.digest(), replica.tree().digest());
}

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    match wanted.as_deref() {
        Some("costs") => costs(),
        Some(name) if VARIANTS.contains(&name) => measure(name),
        _ => {
            println!(
                "| tree | writes | reads in a batch | reads/s | p99 µs | p99.9 µs | max µs | writes/s |"
            );
            println!("|---|---|---|---|---|---|---|---|");
            let this = std::env::current_exe().expect("a process knows its program");
            for name in VARIANTS.iter().chain(&["costs"]) {
                let status = Command::new(&this).arg(name).status();
                assert!(status.expect("it ran before").success());
            }
        }
    }
}
