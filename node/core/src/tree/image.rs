//! Reads the body of a snapshot (protocol reference §5.5, items 2 to 5) from bytes that come in pieces of any size.
//!
//! Nothing is allocated for a length before its bytes are there, so a broken stream costs no more than what it sent.

use super::acls::AclLoader;
use super::znode::NodeId;
use super::{DataTree, TreeOptions};
use crate::jute::DecodeError;
use crate::path;
use crate::proto::data::{Acl, SessionTimeout, StatPersisted};
use crate::zxid::Zxid;

/// Why a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes are no records.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A node came before its parent.
    #[error("the parent of {0:?} is missing")]
    MissingParent(String),
    /// The stream ended early.
    #[error("the snapshot ends early")]
    Incomplete,
    /// A field is longer than any that a server writes.
    #[error("a field of {0} bytes is too long")]
    TooLong(usize),
}

/// How far a piece brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the piece that belong to the body.
    pub consumed: usize,
    /// Whether the body is complete.
    pub done: bool,
}

/// What a snapshot holds.
#[derive(Debug)]
pub struct Restored {
    /// The tree.
    pub tree: DataTree,
    /// The sessions, in the order of the snapshot.
    pub sessions: Vec<SessionTimeout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    SessionCount,
    Sessions(i32),
    AclCount,
    Acls(i32),
    Nodes,
    Done,
}

/// No record is longer: the largest frame is far below.
const RECORD_MAX: usize = 256 << 20;

/// Builds a tree from a snapshot's body.
#[derive(Debug)]
pub struct ImageReader {
    section: Section,
    /// Bytes of a record that is not complete yet.
    carry: Vec<u8>,
    tree: DataTree,
    acls: AclLoader,
    sessions: Vec<SessionTimeout>,
    has_root: bool,
    /// The parent of the node before: its siblings mostly come next.
    parent_path: Vec<u8>,
    parent: NodeId,
}

impl ImageReader {
    /// Begins with nothing read.
    #[must_use]
    pub fn new(options: TreeOptions) -> Self {
        Self {
            section: Section::SessionCount,
            carry: Vec::new(),
            tree: DataTree::bare(options),
            acls: AclLoader::new(),
            sessions: Vec::new(),
            has_root: false,
            parent_path: Vec::new(),
            parent: NodeId::ROOT,
        }
    }

    /// Takes the next piece. What follows the body is left alone.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Progress, ImageError> {
        let used = if self.carry.is_empty() {
            let used = self.read_records(piece)?;
            if self.section != Section::Done {
                self.carry.extend_from_slice(&piece[used..]);
                return Ok(Progress {
                    consumed: piece.len(),
                    done: false,
                });
            }
            used
        } else {
            let before = self.carry.len();
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(piece);
            let used = self.read_records(&carry)?;
            if self.section != Section::Done {
                carry.drain(..used);
                self.carry = carry;
                return Ok(Progress {
                    consumed: piece.len(),
                    done: false,
                });
            }
            used - before
        };
        Ok(Progress {
            consumed: used,
            done: true,
        })
    }

    /// The tree, once all is read.
    pub fn finish(mut self) -> Result<Restored, ImageError> {
        if self.section != Section::Done || !self.has_root {
            return Err(ImageError::Incomplete);
        }
        if self.tree.get(path::ZOOKEEPER).is_none() {
            return Err(ImageError::MissingParent(path::CONFIG.to_owned()));
        }
        self.tree.acls = self.acls.finish();
        self.tree.rebuild_quotas();
        Ok(Restored {
            tree: self.tree,
            sessions: self.sessions,
        })
    }

    /// Reads whole records from the front; returns how many bytes they were.
    fn read_records(&mut self, bytes: &[u8]) -> Result<usize, ImageError> {
        let mut used = 0;
        while self.section != Section::Done {
            let mut cursor = Cursor(&bytes[used..]);
            match self.read_record(&mut cursor) {
                Ok(()) => used = bytes.len() - cursor.0.len(),
                Err(ImageError::Decode(DecodeError::Short { .. })) => {
                    let left = bytes.len() - used;
                    return if left > RECORD_MAX {
                        Err(ImageError::TooLong(left))
                    } else {
                        Ok(used)
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    }

    fn read_record(&mut self, input: &mut Cursor<'_>) -> Result<(), ImageError> {
        self.section = match self.section {
            Section::SessionCount => Section::Sessions(input.i32()?),
            Section::Sessions(count) if count <= 0 => Section::AclCount,
            Section::Sessions(count) => {
                let session = crate::zxid::SessionId(input.i64()?);
                self.sessions.push(SessionTimeout {
                    session,
                    timeout_ms: input.i32()?,
                });
                Section::Sessions(count - 1)
            }
            Section::AclCount => Section::Acls(input.i32()?),
            Section::Acls(count) if count <= 0 => Section::Nodes,
            Section::Acls(count) => {
                let number = input.i64()?;
                let list = input.acls()?;
                self.acls.add(number, list);
                Section::Acls(count - 1)
            }
            Section::Nodes => self.read_node(input)?,
            Section::Done => Section::Done,
        };
        Ok(())
    }

    fn read_node(&mut self, input: &mut Cursor<'_>) -> Result<Section, ImageError> {
        let path = input.buffer()?.unwrap_or_default();
        if path == b"/" {
            return Ok(Section::Done);
        }
        let data = input.buffer()?;
        let acl = input.i64()?;
        let stat = input.stat()?;
        let path = std::str::from_utf8(path).map_err(|_| DecodeError::Utf8)?;
        self.place(path, data, acl, &stat)?;
        Ok(Section::Nodes)
    }

    fn place(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: i64,
        stat: &StatPersisted,
    ) -> Result<(), ImageError> {
        let missing = || ImageError::MissingParent(path.to_owned());
        let existing = if path.is_empty() {
            self.has_root = true;
            Some(NodeId::ROOT)
        } else {
            let (parent, name) = path::split(path).ok_or_else(missing)?;
            if !self.has_root || name.is_empty() {
                return Err(missing());
            }
            if parent.as_bytes() != self.parent_path {
                self.parent = self
                    .tree
                    .nodes
                    .find(parent.as_bytes())
                    .ok_or_else(missing)?;
                self.parent_path.clear();
                self.parent_path.extend_from_slice(parent.as_bytes());
            }
            self.tree.nodes.child(self.parent, name.as_bytes())
        };
        let acl = self.acls.use_number(acl);
        let tree = &mut self.tree;
        let id = if let Some(id) = existing {
            // The root, or a node that a fuzzy snapshot holds twice: the later one counts.
            tree.digest = tree.digest.wrapping_sub(if path.is_empty() {
                0
            } else {
                tree.digest_of(id, path)
            });
            tree.unlist_owner(id);
            let before = tree.nodes.data(id).unwrap_or_default().len() as i64;
            tree.data_size += data.unwrap_or_default().len() as i64 - before;
            tree.nodes.set_data(id, data);
            tree.nodes.set_stat(id, stat);
            let old = tree.nodes.set_acl(id, acl);
            if !path.is_empty() {
                self.acls.drop_use(old);
            }
            tree.list_owner(id);
            id
        } else {
            let name = &path.as_bytes()[self.parent_path.len() + 1..];
            let name = std::str::from_utf8(name).map_err(|_| DecodeError::Utf8)?;
            let id = tree.attach(self.parent, name, data, acl, stat);
            if mutant!(Zk4837) {
                tree.unlist_owner(id);
            }
            id
        };
        tree.digest = tree.digest.wrapping_add(tree.digest_of(id, path));
        Ok(())
    }
}

/// Takes fields off the front of a slice; [`DecodeError::Short`] when the rest is still to come.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short {
            wanted: n,
            left: self.0.len(),
        };
        let (taken, rest) = self.0.split_at_checked(n).ok_or(short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Short {
            wanted: N,
            left: self.0.len(),
        };
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn buffer(&mut self) -> Result<Option<&'a [u8]>, ImageError> {
        match self.i32()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| DecodeError::Length(len))?;
                if len > RECORD_MAX {
                    return Err(ImageError::TooLong(len));
                }
                Ok(Some(self.take(len)?))
            }
        }
    }

    fn acls(&mut self) -> Result<Vec<Acl>, ImageError> {
        let count = self.i32()?;
        let count = usize::try_from(count).map_err(|_| DecodeError::Length(count))?;
        let mut list = Vec::new();
        for _ in 0..count {
            let perms = self.i32()?;
            let mut text = || -> Result<String, ImageError> {
                let bytes = self.buffer()?.unwrap_or_default();
                Ok(std::str::from_utf8(bytes)
                    .map_err(|_| DecodeError::Utf8)?
                    .to_owned())
            };
            let id = crate::proto::data::Id {
                scheme: text()?,
                id: text()?,
            };
            list.push(Acl { perms, id });
        }
        Ok(list)
    }

    fn stat(&mut self) -> Result<StatPersisted, DecodeError> {
        Ok(StatPersisted {
            czxid: Zxid(self.i64()?),
            mzxid: Zxid(self.i64()?),
            ctime: self.i64()?,
            mtime: self.i64()?,
            version: self.i32()?,
            cversion: self.i32()?,
            aversion: self.i32()?,
            ephemeral_owner: self.i64()?,
            pzxid: Zxid(self.i64()?),
        })
    }
}
