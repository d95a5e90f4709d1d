//! The digest of the whole tree, kept up with every change (protocol reference §2.13).

use crate::path;
use crate::proto::data::StatPersisted;

/// The version of the algorithm, as snapshots and transactions carry it.
pub const DIGEST_VERSION: i32 = 2;

/// What a node adds to the digest. The root's path is empty here. The server's own nodes do not count.
pub(super) fn node_digest(path: &str, data: Option<&[u8]>, stat: &StatPersisted) -> i64 {
    if is_excluded(path) {
        return 0;
    }
    let mut fields = [0; 60];
    let longs = [
        stat.czxid.0,
        stat.mzxid.0,
        stat.pzxid.0,
        stat.ctime,
        stat.mtime,
    ];
    for (at, value) in longs.into_iter().enumerate() {
        fields[at * 8..at * 8 + 8].copy_from_slice(&value.to_be_bytes());
    }
    for (at, value) in [stat.version, stat.cversion, stat.aversion]
        .into_iter()
        .enumerate()
    {
        fields[40 + at * 4..44 + at * 4].copy_from_slice(&value.to_be_bytes());
    }
    fields[52..].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(path.as_bytes());
    crc.update(data.unwrap_or_default());
    crc.update(&fields);
    i64::from(crc.finalize())
}

/// Whether nothing at or below this path counts.
pub(super) fn is_excluded(path: &str) -> bool {
    path.strip_prefix(path::ZOOKEEPER)
        .is_some_and(|rest| rest.starts_with('/'))
}
