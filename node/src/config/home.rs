//! `serve --home DIR --id N`: a server whose `zoo.cfg` it may not write, as in a container, keeps a copy that it may.
//!
//! The settings come from the given file at every start. The membership comes from the copy once the server has run: what
//! reconfigurations wrote there is the truth, and an older list might let servers form a quorum that is none.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::properties::{Entry, line_of};
use super::values::read_file;
use super::{ConfigError, Place, Problem, members};
use crate::storage::files::Lock;
use crate::storage::{StorageError, lock_dir, replace_file, sync_dir};

/// The copy, below `DIR`.
const COPY: &str = "conf/zoo.cfg";

/// A home that is ready. While this value lives no other process of this program can use it.
#[derive(Debug)]
pub struct Home {
    zoo_cfg: PathBuf,
    _lock: Lock,
}

impl Home {
    /// Makes `dir/conf/zoo.cfg` out of the settings of `zoo_cfg` and the membership that counts: the copy's own if it
    /// lists this server and `zoo_cfg` does not say `peerType=observer`, or else `zoo_cfg`'s. `id` is this server's number
    /// where `myid` need not be asked.
    pub fn prepare(zoo_cfg: &Path, dir: &Path, id: Option<i64>) -> Result<Self, ConfigError> {
        let given = read_file(zoo_cfg)?;
        let copy = dir.join(COPY);
        let conf = copy.parent().unwrap_or(dir);
        if !conf.is_dir() {
            let act = "make this server's own directory (--home)";
            fs::create_dir_all(conf).map_err(StorageError::io(act, conf))?;
            sync_dir(dir)?;
        }
        let lock = lock_dir(conf)?;
        let id = id.or_else(|| written_id(&last(&given, "dataDir").map(PathBuf::from)?));
        let text = match id.filter(|_| !says_observer(&given)) {
            Some(id) => match kept(&copy, id)? {
                Some(membership) => with_membership(&given, &membership),
                None => with_own_membership(&given)?,
            },
            None => with_own_membership(&given)?,
        };
        // A full disk must not keep a server from starting as it did before.
        if fs::read(&copy).ok().as_ref() != Some(&text) {
            replace_file(&copy, &text)?;
        }
        Ok(Self {
            zoo_cfg: copy,
            _lock: lock,
        })
    }

    /// The copy: what the server is to read, and to rewrite.
    #[must_use]
    pub fn zoo_cfg(&self) -> &Path {
        &self.zoo_cfg
    }
}

/// Makes `dataDir` of `zoo_cfg` the one of server `id`: writes `myid` when it is missing. A directory that belongs to
/// another server is refused.
pub fn claim(zoo_cfg: &Path, id: i64) -> Result<(), ConfigError> {
    let given = read_file(zoo_cfg)?;
    let Some(data_dir) = last(&given, "dataDir").filter(|dir| !dir.is_empty()) else {
        return Ok(()); // Reading the configuration says so.
    };
    let path = Path::new(data_dir).join("myid");
    let written = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let dir = Path::new(data_dir);
            if !dir.is_dir() && last(&given, "datadir.autocreate") != Some("false") {
                fs::create_dir_all(dir).map_err(StorageError::io("create the directory", dir))?;
            }
            return Ok(replace_file(&path, format!("{id}\n").as_bytes())?);
        }
        Err(error) => return Err(StorageError::io("read", &path)(error).into()),
    };
    if written.parse() == Ok(id) {
        return Ok(());
    }
    let written: String = written.chars().take(40).collect();
    let text = format!(
        "it says {written:?}, but --id says that this is server {id}: {data_dir} holds the data of another server; give this server its own directory"
    );
    Err(ConfigError::Problems(vec![Problem {
        place: Place { path, line: None },
        text,
    }]))
}

/// The membership lines of the copy, if there is a copy and it lists this server.
fn kept(copy: &Path, id: i64) -> Result<Option<Vec<Entry>>, ConfigError> {
    if !copy.try_exists().map_err(StorageError::io("read", copy))? {
        return Ok(None);
    }
    let lost = |error: ConfigError| StorageError::MembershipLost {
        path: copy.to_owned(),
        what: error.to_string(),
    };
    let entries = read_file(copy).map_err(lost)?;
    let (list, membership) = match last(&entries, "dynamicConfigFile") {
        None => {
            let own: Vec<Entry> = entries
                .into_iter()
                .filter(|entry| members::is_membership(&entry.key))
                .collect();
            (own.clone(), own)
        }
        Some(named) => {
            let file = beside(copy, Path::new(named));
            let entry = Entry {
                line: 0,
                key: "dynamicConfigFile".to_owned(),
                value: file.to_string_lossy().into_owned(),
            };
            (read_file(&file).map_err(lost)?, vec![entry])
        }
    };
    let own = format!("server.{id}");
    Ok(list
        .iter()
        .any(|entry| entry.key == own)
        .then_some(membership))
}

/// A dynamic file that the server wrote lies beside its copy; the directory may have been moved since.
fn beside(copy: &Path, named: &Path) -> PathBuf {
    let beside = copy.with_file_name(named.file_name().unwrap_or(OsStr::new("")));
    if named.exists() || !beside.exists() {
        named.to_owned()
    } else {
        std::path::absolute(&beside).unwrap_or(beside)
    }
}

/// The settings alone, with another membership after them.
fn with_membership(given: &[Entry], membership: &[Entry]) -> Vec<u8> {
    let is_setting =
        |entry: &&Entry| !members::is_membership(&entry.key) && !is(entry, "dynamicConfigFile");
    let mut copy = Copy::default();
    for entry in given.iter().filter(is_setting) {
        copy.at_line(entry.line, &entry.key, &entry.value);
    }
    copy.listen_everywhere(given);
    for entry in membership {
        copy.line(&entry.key, &entry.value);
    }
    copy.text
}

/// All of the given file.
fn with_own_membership(given: &[Entry]) -> Result<Vec<u8>, ConfigError> {
    let mut copy = Copy::default();
    for entry in given {
        let mut value = entry.value.clone();
        if is(entry, "dynamicConfigFile") && !value.is_empty() {
            let path =
                std::path::absolute(&value).map_err(StorageError::io("find", Path::new(&value)))?;
            value = path.to_string_lossy().into_owned();
        }
        copy.at_line(entry.line, &entry.key, &value);
    }
    copy.listen_everywhere(given);
    Ok(copy.text)
}

/// The text of the copy. Every entry keeps the line that it has in the given file, so that problems name the same line.
#[derive(Default)]
struct Copy {
    text: Vec<u8>,
    lines: usize,
}

impl Copy {
    fn at_line(&mut self, line: usize, key: &str, value: &str) {
        while self.lines + 1 < line {
            self.text.push(b'\n');
            self.lines += 1;
        }
        self.line(key, value);
    }

    fn line(&mut self, key: &str, value: &str) {
        self.text.extend(line_of(key, value));
        self.lines += 1;
    }

    /// Where others manage the machine, its own name may not be known yet, or lead to an earlier address.
    fn listen_everywhere(&mut self, given: &[Entry]) {
        if last(given, "quorumListenOnAllIPs").is_none() {
            self.line("quorumListenOnAllIPs", "true");
        }
    }
}

fn is(entry: &Entry, key: &str) -> bool {
    entry.key.strip_prefix("zookeeper.").unwrap_or(&entry.key) == key
}

/// The value that counts.
fn last<'a>(entries: &'a [Entry], key: &str) -> Option<&'a str> {
    let found = entries.iter().rev().find(|entry| is(entry, key));
    found.map(|entry| entry.value.as_str())
}

fn says_observer(given: &[Entry]) -> bool {
    last(given, "peerType").is_some_and(|role| role.eq_ignore_ascii_case("observer"))
}

/// What `myid` says, when it says something.
fn written_id(data_dir: &Path) -> Option<i64> {
    let text: io::Result<String> = fs::read_to_string(data_dir.join("myid"));
    text.ok()?.trim().parse().ok()
}
