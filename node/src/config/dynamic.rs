//! The files of dynamic reconfiguration (protocol reference §6.2): the membership moves out of `zoo.cfg` into
//! `zoo.cfg.dynamic.VERSION`, and what is proposed but not yet committed waits in `zoo.cfg.dynamic.next`.
//!
//! Every file is replaced atomically. The text of a configuration is what [`Membership::text`](super::Membership::text)
//! gives: lines, the last one `version=HEX`.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use node_core::zxid::Zxid;

use super::properties::line_of;
use super::values::read_file;
use super::{ConfigError, members};
use crate::storage::replace_file;

/// The version in the name of a dynamic file, `….HEX`; zero without one.
#[must_use]
pub fn version_of(path: &Path) -> Zxid {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let version = extension.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    version.map_or(Zxid::ZERO, |version| Zxid(version.cast_signed()))
}

/// Keeps a `zoo.cfg` that no reconfiguration has rewritten yet as `zoo.cfg.bak`, since that loses its comments. Called at
/// the start of a server of an ensemble with `reconfigEnabled`.
pub fn back_up(zoo_cfg: &Path) -> Result<(), ConfigError> {
    if read_file(zoo_cfg)?
        .iter()
        .any(|entry| entry.key == "dynamicConfigFile")
    {
        return Ok(());
    }
    let text = fs::read(zoo_cfg).map_err(io_error("read", zoo_cfg))?;
    let copy = with_suffix(zoo_cfg, ".bak");
    // A full disk must not keep a server from starting as it did before.
    match fs::read(&copy) {
        Ok(old) if old == text => Ok(()),
        _ => write(&copy, &text),
    }
}

/// The proposed configuration that was not known to be committed when the server stopped.
pub fn read_next(zoo_cfg: &Path) -> Result<Option<String>, ConfigError> {
    let path = next_file(zoo_cfg);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", &path)(e)),
    }
}

/// Where a proposed configuration is kept.
#[must_use]
pub fn next_file(zoo_cfg: &Path) -> PathBuf {
    with_suffix(zoo_cfg, ".dynamic.next")
}

/// Keeps a proposed configuration.
pub fn save_next(zoo_cfg: &Path, text: &str) -> Result<(), ConfigError> {
    write(&next_file(zoo_cfg), text.as_bytes())
}

/// Forgets the proposed configuration.
pub fn remove_next(zoo_cfg: &Path) -> Result<(), ConfigError> {
    let path = next_file(zoo_cfg);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Makes a committed configuration the one of the files: writes `zoo.cfg.dynamic.VERSION`, rewrites `zoo.cfg` to name it,
/// and forgets the proposed one. `gives_client_port` says whether this server's own line has a client address: the
/// client port's keys then go. Gives the path of the dynamic file.
pub fn activate(
    zoo_cfg: &Path,
    text: &str,
    version: Zxid,
    gives_client_port: bool,
) -> Result<PathBuf, ConfigError> {
    let absolute = std::path::absolute(zoo_cfg).map_err(io_error("resolve", zoo_cfg))?;
    let dynamic = with_suffix(&absolute, &format!(".dynamic.{:x}", version.0));
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("version="))
        .collect();
    lines.sort_unstable();
    write(&dynamic, lines.join("\n").as_bytes())?;

    let moved = |key: &str| {
        let key = key.strip_prefix("zookeeper.").unwrap_or(key);
        members::is_membership(key)
            || ["dynamicConfigFile", "peerType"].contains(&key)
            || (gives_client_port && ["clientPort", "clientPortAddress"].contains(&key))
    };
    let mut rewritten = Vec::new();
    for entry in read_file(zoo_cfg)?
        .iter()
        .filter(|entry| !moved(&entry.key))
    {
        rewritten.extend(line_of(&entry.key, &entry.value));
    }
    rewritten.extend(line_of("dynamicConfigFile", &dynamic.to_string_lossy()));
    write(zoo_cfg, &rewritten)?;
    remove_next(zoo_cfg)?;
    Ok(dynamic)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn write(path: &Path, content: &[u8]) -> Result<(), ConfigError> {
    Ok(replace_file(path, content)?)
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ConfigError {
    let path = path.to_owned();
    move |source| ConfigError::Io { act, path, source }
}
