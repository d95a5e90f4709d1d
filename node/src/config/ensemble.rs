//! The ensemble of a configuration: the server list, wherever it is, and this server's place in it (`myid`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use node_core::zxid::{ServerId, Zxid};

use super::properties::Entry;
use super::servers::{HostPort, Role};
use super::values::{Values, read_file};
use super::{ConfigError, Membership, Place, Problem, dynamic, members};

/// What the server list and `myid` say together.
pub(super) struct Ensemble {
    pub(super) my_id: ServerId,
    pub(super) role: Role,
    pub(super) membership: Membership,
    pub(super) proposed: Option<String>,
}

/// What the server list means.
pub(super) enum Mode {
    /// There is none, or one that doesn't make an ensemble.
    Standalone,
    /// An ensemble.
    Ensemble(Ensemble),
    /// It is wrong, and the problems say how.
    Wrong,
}

impl Ensemble {
    /// Where this server's own line lets clients connect.
    pub(super) fn client(&self) -> Option<HostPort> {
        self.membership
            .server(self.my_id)
            .and_then(|server| server.client.clone())
    }
}

/// Finds the ensemble.
pub(super) fn read(
    path: &Path,
    listed: Vec<Entry>,
    values: &mut Values,
    data_dir: &Path,
    reconfig: bool,
) -> Result<Mode, ConfigError> {
    let dynamic_file = values.text("dynamicConfigFile").map(PathBuf::from);
    let (list_path, entries) = match &dynamic_file {
        None => (path.to_owned(), listed),
        Some(file) => {
            if let Some(entry) = listed.first() {
                let text = format!(
                    "{} must be in {}, because dynamicConfigFile names it; server, group and weight lines cannot be in both files",
                    entry.key,
                    file.display()
                );
                values.problem(Some(entry.line), text);
            }
            (file.clone(), read_file(file)?)
        }
    };
    let (mut membership, problems) = members::parse(&list_path, &entries);
    membership.version = dynamic_file
        .as_deref()
        .map_or(Zxid::ZERO, dynamic::version_of);
    let list_is_sound = problems.is_empty();
    values.extend(problems);
    let standalone = is_standalone(&list_path, &membership, values, list_is_sound);
    let peer_type = values.word("peerType");
    if !list_is_sound {
        return Ok(Mode::Wrong);
    }
    if standalone {
        return Ok(Mode::Standalone);
    }
    let Some(my_id) = read_my_id(data_dir, &membership, &list_path, values) else {
        return Ok(Mode::Wrong);
    };
    let role = membership
        .server(my_id)
        .map_or(Role::Participant, |server| server.role);
    if let Some(line) = values.line("peerType")
        && peer_type.is_some_and(|written| written != role.to_string())
    {
        let text = format!(
            "peerType={} contradicts the server list, in which server.{my_id} is {}; the list counts",
            peer_type.unwrap_or_default(),
            with_article(role)
        );
        values.warn(Some(line), text);
    }
    let proposed = if reconfig {
        dynamic::read_next(path)?
    } else {
        None
    };
    Ok(Mode::Ensemble(Ensemble {
        my_id,
        role,
        membership,
        proposed,
    }))
}

fn with_article(role: Role) -> &'static str {
    match role {
        Role::Participant => "a participant",
        Role::Observer => "an observer",
    }
}

/// Whether the list means a standalone server; notes lists that mean nothing.
fn is_standalone(path: &Path, membership: &Membership, values: &mut Values, sound: bool) -> bool {
    let standalone_enabled = values.flag("standaloneEnabled");
    let observers = membership
        .servers
        .iter()
        .filter(|server| server.role == Role::Observer)
        .count();
    let voters = membership.servers.len() - observers;
    let place = Place {
        path: path.to_owned(),
        line: None,
    };
    let mut problem = |text: String| {
        if sound {
            values.problems.push(Problem {
                place: place.clone(),
                text,
            });
        }
    };
    match voters {
        0 if observers > 0 => {
            problem(
                "every server in the list is an observer; an ensemble needs servers that vote"
                    .to_owned(),
            );
        }
        0 if !standalone_enabled => {
            problem("standaloneEnabled=false needs a server list with at least one voter, like server.1=HOST:2888:3888".to_owned());
        }
        1 if standalone_enabled && observers > 0 => {
            problem("observers need at least two servers that vote, or standaloneEnabled=false with one".to_owned());
        }
        0 => return true,
        1 if standalone_enabled => {
            let text = "a list of one server means a standalone server, so the list is ignored; set standaloneEnabled=false for an ensemble of one";
            values.warn(None, text);
            return true;
        }
        2 => values.warn(
            None,
            "an ensemble of two voters does not survive the loss of either; use three",
        ),
        n if n % 2 == 0 && membership.hierarchy.is_empty() => {
            let text = format!(
                "an ensemble of {n} voters survives no more failures than one of {}",
                n - 1
            );
            values.warn(None, text);
        }
        _ => {}
    }
    false
}

/// Reads `dataDir/myid`.
fn read_my_id(
    data_dir: &Path,
    membership: &Membership,
    list: &Path,
    values: &mut Values,
) -> Option<ServerId> {
    if data_dir.as_os_str().is_empty() {
        return None;
    }
    let path = data_dir.join("myid");
    let mut problem = |text: String| {
        values.problems.push(Problem {
            place: Place {
                path: path.clone(),
                line: None,
            },
            text,
        });
        None
    };
    let ids: Vec<String> = membership
        .servers
        .iter()
        .map(|server| server.id.to_string())
        .collect();
    let ids = ids.join(", ");
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return problem(format!(
                "the file is missing; it must hold this server's number in the server list ({ids}): echo N > {}",
                path.display()
            ));
        }
        Err(e) => return problem(format!("the file cannot be read: {e}")),
    };
    let written = text.lines().next().unwrap_or("").trim();
    let Ok(id) = written.parse::<i64>() else {
        let written: String = written.chars().take(40).collect();
        return problem(format!(
            "it holds {written:?}, but it must hold this server's number in the server list ({ids})"
        ));
    };
    if membership.server(ServerId(id)).is_none() {
        return problem(format!(
            "it says that this is server {id}, but {} has no server.{id}; it has {ids}",
            list.display()
        ));
    }
    Some(ServerId(id))
}
