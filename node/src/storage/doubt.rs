//! The note that a server's history is not to be trusted, and what is done with the files of such a one.
//!
//! The note is written before the first file is touched and removed when a leader's history is on stable storage. As long
//! as it is there the server does not vote, whatever else is in the directory: nothing in it was ever acknowledged.

use node_core::standing::Standing;

use super::StorageError;
use super::dirs::{self, DataDirs};
use super::files::Dir;

/// The name of the note, in the snapshots' directory.
pub const FILE: &str = "zookeeper-node.not-voting";

/// The word that stands before the name of a damaged file that is kept.
pub const ASIDE: &str = "damaged.";

/// What the note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The directories were empty.
    Empty,
    /// The damaged files are being set aside.
    SettingAside,
    /// They are. What is there now came after.
    Lost,
}

impl Doubt {
    /// What it means for the server.
    #[must_use]
    pub fn standing(self) -> Standing {
        match self {
            Self::Empty => Standing::Empty,
            Self::SettingAside | Self::Lost => Standing::Lost,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::SettingAside => "setting aside",
            Self::Lost => "lost",
        }
    }
}

/// The note. One that cannot be read doubts everything.
pub fn read(dirs: &DataDirs) -> Result<Option<Doubt>, StorageError> {
    let dir = dirs.snap_dir();
    let Some(content) = dir.content(&dir.join(FILE))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let doubt = match text.lines().next().unwrap_or("") {
        "empty" => Doubt::Empty,
        "lost" => Doubt::Lost,
        _ => Doubt::SettingAside,
    };
    Ok(Some(doubt))
}

/// Writes the note, for good, with the reason for a person.
pub(crate) fn write(dirs: &DataDirs, doubt: Doubt, why: &str) -> Result<(), StorageError> {
    let text = format!(
        "{}\n{why}\nThis server does not vote before a leader has given it everything. It removes this file then.\n",
        doubt.word()
    );
    dirs.snap_dir()
        .replace(&dirs.snap_dir().join(FILE), text.as_bytes())
}

/// The history can be trusted.
pub(crate) fn remove(dirs: &DataDirs) -> Result<(), StorageError> {
    dirs.snap_dir().remove(&dirs.snap_dir().join(FILE))?;
    dirs.snap_dir().sync()
}

/// Whether a name is one of a file that holds history.
fn is_history(name: &str) -> bool {
    let epochs = ["acceptedEpoch", "currentEpoch"];
    let ours = [super::marks::FILE, super::ends::FILE];
    name.starts_with(dirs::LOG)
        || name.starts_with(dirs::SNAPSHOT)
        || ours.contains(&name)
        || epochs.iter().any(|epoch| name.starts_with(epoch))
}

/// The files that hold history.
fn history(dir: &Dir) -> Result<Vec<String>, StorageError> {
    let mut names = dir.names()?;
    names.retain(|name| is_history(name));
    names.sort();
    Ok(names)
}

/// Whether there is any file that holds history.
pub(crate) fn is_empty(dirs: &DataDirs) -> Result<bool, StorageError> {
    Ok(history(dirs.snap_dir())?.is_empty() && history(dirs.log_dir())?.is_empty())
}

/// Keeps the damaged files under other names; those of an earlier damage are removed.
pub(crate) fn set_aside(dirs: &DataDirs, why: &str) -> Result<(), StorageError> {
    if read(dirs)? != Some(Doubt::SettingAside) {
        for dir in [dirs.snap_dir(), dirs.log_dir()] {
            for name in dir.names()?.iter().filter(|name| name.starts_with(ASIDE)) {
                dir.remove(&dir.join(name))?;
            }
        }
        write(dirs, Doubt::SettingAside, why)?;
    }
    for dir in [dirs.snap_dir(), dirs.log_dir()] {
        for name in history(dir)? {
            let kept = dir.join(format!("{ASIDE}{name}"));
            dir.files()
                .rename(&dir.join(&name), &kept)
                .map_err(StorageError::io("rename to", &kept))?;
        }
        dir.sync()?;
    }
    write(dirs, Doubt::Lost, why)
}

/// Removes what came after the note and was not finished.
pub(crate) fn clear(dirs: &DataDirs) -> Result<(), StorageError> {
    for dir in [dirs.log_dir(), dirs.snap_dir()] {
        for name in history(dir)? {
            dir.remove(&dir.join(name))?;
        }
        dir.sync()?;
    }
    Ok(())
}
