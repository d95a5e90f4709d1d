//! `DIR` and the members' folders in it: what is kept about an ensemble between two runs.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::BackendError;
use crate::client::new_password;
use crate::cluster::{Role, ServerId};
use crate::membership::{Address, Membership};
use crate::render::membership_lines;

/// `ensemble.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EnsembleRecord {
    /// Name of the ensemble that the folder belongs to.
    pub name: String,
    /// The membership that it was first started with.
    pub initial: Membership,
}

/// `member-N/member.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemberRecord {
    /// What it is meant to be.
    pub role: Role,
    /// Created with the ensemble, not later.
    #[serde(default)]
    pub founder: bool,
    /// Scaled away, data kept.
    #[serde(default)]
    pub retired: bool,
    /// Whether it was ever started.
    #[serde(default)]
    pub started: bool,
    /// Where it is reached.
    pub address: Address,
    /// Where its metrics are.
    pub metrics_port: u16,
    /// Template of its last start.
    #[serde(default)]
    pub template_hash: Option<String>,
}

/// The folder of an ensemble.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    /// Held for as long as this operator lives: two of them would fight over the members.
    _lock: File,
}

impl Dir {
    /// Opens the folder, making it when it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, BackendError> {
        fs::create_dir_all(path).map_err(BackendError::io(format!("making {}", path.display())))?;
        let path = path
            .canonicalize()
            .map_err(BackendError::io(format!("finding {}", path.display())))?;
        let lock = path.join("lock");
        let file =
            File::create(&lock).map_err(BackendError::io(format!("making {}", lock.display())))?;
        if file.try_lock().is_err() {
            let message = format!(
                "another zookeeper-operator keeps the ensemble in {}",
                path.display()
            );
            return Err(BackendError::Refused(message));
        }
        Ok(Self { path, _lock: file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn ensemble_file(&self) -> PathBuf {
        self.path.join("ensemble.yaml")
    }

    pub(super) fn status_file(&self) -> PathBuf {
        self.path.join("status.yaml")
    }

    pub(super) fn member(&self, id: ServerId) -> Home {
        Home {
            path: self.path.join(format!("member-{id}")),
        }
    }

    /// The members that have a home.
    pub(super) fn members(&self) -> Result<Vec<(ServerId, MemberRecord)>, BackendError> {
        let entries = fs::read_dir(&self.path)
            .map_err(BackendError::io(format!("reading {}", self.path.display())))?;
        let mut members = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix("member-")?.parse().ok());
            if let Some(id) = id.map(ServerId)
                && let Some(record) = read_yaml(&self.member(id).record_file())?
            {
                members.push((id, record));
            }
        }
        members.sort_by_key(|(id, _)| *id);
        Ok(members)
    }

    /// The superuser's password, made at random the first time; nobody but the owner may read it.
    pub(super) fn super_password(&self) -> Result<String, BackendError> {
        let path = self.path.join("super-password");
        let failed = || BackendError::io(path.display().to_string());
        match fs::read_to_string(&path) {
            Ok(password) if !password.is_empty() => return Ok(password),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed()(error)),
        }
        let password = new_password().map_err(failed())?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed())?;
        file.write_all(password.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        Ok(password)
    }
}

/// One member's folder.
#[derive(Clone, Debug)]
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    /// Makes the folder, with its `myid` and, last, its record: without one there is no member.
    pub(super) fn create(&self, id: ServerId, record: &MemberRecord) -> Result<(), BackendError> {
        let data = self.data_dir();
        fs::create_dir_all(&data)
            .map_err(BackendError::io(format!("making {}", data.display())))?;
        write_atomically(&data.join("myid"), &format!("{id}\n"))?;
        write_yaml(&self.record_file(), record)
    }

    /// Deletes the folder: the record first, so that a crash leaves no half member.
    pub(super) fn delete(&self) -> Result<(), BackendError> {
        let failed = || BackendError::io(format!("deleting {}", self.path.display()));
        fs::remove_file(self.record_file()).map_err(failed())?;
        fs::remove_dir_all(&self.path).map_err(failed())
    }

    pub(super) fn record_file(&self) -> PathBuf {
        self.path.join("member.yaml")
    }

    pub(super) fn zoo_cfg(&self) -> PathBuf {
        self.path.join("zoo.cfg")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.path.join("node.log")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The text of its `zoo.cfg`; none before its first start.
    pub(super) fn read_zoo_cfg(&self) -> Option<String> {
        fs::read_to_string(self.zoo_cfg()).ok()
    }

    /// The lines of its `zoo.cfg` that tell the membership, and what they tell (or the dynamic file that they name).
    pub(super) fn kept_membership(&self) -> Option<(Vec<String>, Membership)> {
        let lines = membership_lines(&self.read_zoo_cfg()?);
        let dynamic = lines
            .iter()
            .find_map(|line| line.strip_prefix("dynamicConfigFile="));
        let text = match dynamic {
            Some(file) => fs::read_to_string(self.path.join(file)).ok()?,
            None => lines.join("\n"),
        };
        let membership = Membership::parse(&text).ok()?;
        Some((lines, membership)).filter(|(_, membership)| !membership.servers.is_empty())
    }

    /// The last line of its log that says something.
    pub(super) fn last_words(&self) -> Option<String> {
        let log = fs::read(self.log_file()).ok()?;
        let tail = log.get(log.len().saturating_sub(4096)..)?;
        let text = String::from_utf8_lossy(tail);
        text.lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }
}

/// Reads a YAML file; none when it is not there.
pub(super) fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, BackendError> {
    match fs::read_to_string(path) {
        Ok(text) => serde_yaml::from_str(&text).map(Some).map_err(|error| {
            BackendError::Refused(format!("{} is damaged: {error}", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackendError::io(format!("reading {}", path.display()))(
            error,
        )),
    }
}

/// Writes a YAML file, for good.
pub(super) fn write_yaml<T: Serialize>(path: &Path, value: &T) -> Result<(), BackendError> {
    write_atomically(
        path,
        &serde_yaml::to_string(value).expect("records are plain data"),
    )
}

/// Writes the status: often, so it does not keep the disk from the members' logs. A crash of the machine may undo it.
pub(super) fn write_status<T: Serialize>(path: &Path, value: &T) -> Result<(), BackendError> {
    replace(
        path,
        &serde_yaml::to_string(value).expect("a status is plain data"),
        false,
    )
}

/// Writes a file so that a reader, or a crash, sees the old or the new content and nothing between.
pub(super) fn write_atomically(path: &Path, text: &str) -> Result<(), BackendError> {
    replace(path, text, true)
}

fn replace(path: &Path, text: &str, durable: bool) -> Result<(), BackendError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    write().map_err(BackendError::io(format!("writing {}", path.display())))
}
