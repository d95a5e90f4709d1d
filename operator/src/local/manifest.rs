//! The manifest's file and its edits.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use crate::validate::{Problem, parse, validate};

/// The manifest in force, and the file that it came from.
#[derive(Debug)]
pub(super) struct Manifest {
    file: PathBuf,
    /// The file's content at the last look, good or not.
    text: String,
    ensemble: ZooKeeperEnsemble,
    cluster: Cluster,
}

/// What an edit came to.
#[derive(Debug)]
pub(super) enum News {
    /// It is in force.
    Accepted,
    /// It is not, and why.
    Refused(Vec<String>),
}

impl Manifest {
    /// Reads the file; the error has a line for each problem.
    pub(super) fn open(file: &Path) -> Result<Self, Vec<String>> {
        let text = fs::read_to_string(file)
            .map_err(|error| vec![format!("{}: {error}", file.display())])?;
        let (ensemble, cluster) = read(&text).map_err(|problems| {
            let line = |problem: &Problem| format!("{}: {problem}", file.display());
            problems.iter().map(line).collect::<Vec<_>>()
        })?;
        let mut manifest = Self {
            file: file.to_owned(),
            text,
            ensemble,
            cluster,
        };
        manifest.set_generation(1);
        Ok(manifest)
    }

    /// Goes on counting generations where the last run stopped.
    pub(super) fn continue_from(&mut self, previous: &ZooKeeperEnsembleStatus) {
        self.set_generation(previous.observed_generation.unwrap_or(0) + 1);
    }

    pub(super) fn name(&self) -> &str {
        &self.cluster.name
    }

    pub(super) fn ensemble(&self) -> &ZooKeeperEnsemble {
        &self.ensemble
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Looks at the file again. A file that is gone, or just being replaced, is no news.
    pub(super) fn poll(&mut self) -> Option<News> {
        let text = fs::read_to_string(&self.file).ok()?;
        if text == self.text {
            return None;
        }
        self.text = text;
        let (ensemble, cluster) = match read(&self.text) {
            Ok(read) => read,
            Err(problems) => {
                return Some(News::Refused(
                    problems.iter().map(ToString::to_string).collect(),
                ));
            }
        };
        if cluster.name != self.cluster.name {
            let message = format!(
                "metadata.name: this folder holds {:?}; start {:?} by a call of its own",
                self.cluster.name, cluster.name
            );
            return Some(News::Refused(vec![message]));
        }
        let generation = self.cluster.generation.unwrap_or(0);
        let same = self.ensemble.spec == ensemble.spec;
        (self.ensemble, self.cluster) = (ensemble, cluster);
        self.set_generation(if same { generation } else { generation + 1 });
        if same { None } else { Some(News::Accepted) }
    }

    fn set_generation(&mut self, generation: i64) {
        self.ensemble.metadata.generation = Some(generation);
        self.cluster.generation = Some(generation);
    }
}

fn read(text: &str) -> Result<(ZooKeeperEnsemble, Cluster), Vec<Problem>> {
    let ensemble = parse(text)?;
    let cluster = validate(&ensemble)?;
    Ok((ensemble, cluster))
}
