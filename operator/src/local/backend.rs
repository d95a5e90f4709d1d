//! `observe` and `execute` for processes on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backend::{Backend, BackendError};
use crate::client::{Change, reconfigure};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::spec::Retention;
use crate::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use crate::desired::Desired;
use crate::ensemble::{Told, ask};
use crate::membership::{Address, Membership, Server};
use crate::observed::{Instance, Member, Observed, State};
use crate::plan::Step;
use crate::render::{MembershipSource, Place, peer_type, super_digest, zoo_cfg};

use super::home::{
    Dir, EnsembleRecord, Home, MemberRecord, read_yaml, write_atomically, write_status, write_yaml,
};
use super::ports::{Ports, is_free};
use super::process::{End, Process, STOP_TIMEOUT};

/// The members' processes and what is kept about them.
#[derive(Debug)]
pub(super) struct LocalBackend {
    dir: Dir,
    name: String,
    base_port: Option<u16>,
    node: PathBuf,
    super_password: String,
    record: Option<EnsembleRecord>,
    members: BTreeMap<ServerId, LocalMember>,
    /// The object that `status.yaml` shows.
    ensemble: Option<ZooKeeperEnsemble>,
    status: ZooKeeperEnsembleStatus,
    /// Things a person should know, not yet told.
    notes: Vec<String>,
}

#[derive(Debug)]
struct LocalMember {
    record: MemberRecord,
    process: Process,
}

impl LocalBackend {
    /// Takes over what the last run left in `dir`.
    pub(super) fn open(
        dir: &Path,
        name: &str,
        base_port: Option<u16>,
        node: PathBuf,
    ) -> Result<Self, BackendError> {
        let dir = Dir::open(dir)?;
        let record: Option<EnsembleRecord> = read_yaml(&dir.ensemble_file())?;
        if let Some(other) = record
            .as_ref()
            .map(|record| &record.name)
            .filter(|other| *other != name)
        {
            let message = format!(
                "{} holds {other:?}, not {name:?}; give another --dir",
                dir.path().display()
            );
            return Err(BackendError::Refused(message));
        }
        let object: Option<ZooKeeperEnsemble> = read_yaml(&dir.status_file())?;
        let found = dir.members()?.into_iter();
        let members = found.map(|(id, record)| {
            (
                id,
                LocalMember {
                    record,
                    process: Process::default(),
                },
            )
        });
        let mut backend = Self {
            super_password: dir.super_password()?,
            dir,
            name: name.to_owned(),
            base_port,
            node,
            record,
            members: members.collect(),
            ensemble: None,
            status: object.and_then(|object| object.status).unwrap_or_default(),
            notes: Vec::new(),
        };
        backend.note_other_ports();
        // That the members were stopped with the last run is no surprise to the one who stopped it.
        backend.status.leader_changes.expected_after_epoch = backend.status.epoch;
        Ok(backend)
    }

    /// The status of the last pass, or of the last run.
    pub(super) fn previous(&self) -> &ZooKeeperEnsembleStatus {
        &self.status
    }

    /// The object that the status belongs to.
    pub(super) fn set_ensemble(&mut self, ensemble: &ZooKeeperEnsemble) {
        if self.ensemble.as_ref().map(|own| &own.metadata) != Some(&ensemble.metadata) {
            self.ensemble = Some(ensemble.clone());
        }
    }

    /// What happened outside the plan since the last call.
    pub(super) fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Stops every member; gives the ones that had to be killed.
    pub(super) async fn stop_all(&mut self) -> Vec<ServerId> {
        for member in self.members.values_mut() {
            member.process.stop();
        }
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        let mut killed = Vec::new();
        for (id, member) in &mut self.members {
            if tokio::time::timeout_at(deadline, member.process.ended())
                .await
                .is_err()
            {
                member.process.kill();
                member.process.ended().await;
                killed.push(*id);
            }
        }
        killed
    }

    /// The membership that was last known, of the members that still have a home.
    fn remembered(&self) -> Option<Membership> {
        let recorded = self.status.membership.as_ref()?;
        let of = |ids: &[u32], role: Role| -> Vec<(ServerId, Server)> {
            let server = |id: &u32| {
                let address = self.members.get(&ServerId(*id))?.record.address.clone();
                Some((ServerId(*id), Server { role, address }))
            };
            ids.iter().filter_map(server).collect()
        };
        let mut servers = of(&recorded.voters, Role::Voter);
        servers.extend(of(&recorded.observers, Role::Observer));
        Some(Membership {
            version: 0,
            servers: servers.into_iter().collect(),
        })
    }

    fn note_other_ports(&mut self) {
        let Some(base) = self.base_port else { return };
        for (id, member) in &self.members {
            let port = member.record.address.client_port;
            if u32::from(base) + id.0 != u32::from(port) {
                self.notes.push(format!(
                    "member {id} keeps client port {port}, which it was made with"
                ));
            }
        }
    }

    /// Looks after the processes: who has ended since the last look.
    fn check_processes(&mut self) {
        for (id, member) in &mut self.members {
            if let Some(End::Died(exit)) = member.process.check() {
                let words = self.dir.member(*id).last_words();
                let words =
                    words.map_or(String::new(), |words| format!("; its last words: {words}"));
                self.notes.push(format!("member {id} died ({exit}){words}"));
            }
        }
    }

    fn member(&mut self, id: ServerId) -> Result<&mut LocalMember, BackendError> {
        self.members
            .get_mut(&id)
            .ok_or_else(|| BackendError::Refused(format!("there is no member {id}")))
    }

    /// Gives a new member its folder and its ports.
    fn create(&mut self, id: ServerId, role: Role, founder: bool) -> Result<(), BackendError> {
        if self.members.contains_key(&id) {
            return Ok(());
        }
        let taken = self.members.values().map(|member| &member.record);
        let taken = taken.flat_map(|record| {
            let Address {
                quorum_port,
                election_port,
                client_port,
                ..
            } = record.address;
            [quorum_port, election_port, client_port, record.metrics_port]
        });
        let reserved = self
            .base_port
            .into_iter()
            .flat_map(|base| base..=base.saturating_add(254));
        let mut ports = Ports::new(self.dir.path(), taken.chain(reserved));
        let mut free = || {
            ports
                .free()
                .ok_or_else(|| BackendError::Refused("no port is free".into()))
        };
        let client_port = match self.base_port {
            None => free()?,
            Some(base) => chosen_port(base, id)?,
        };
        let address = Address {
            host: HOST.into(),
            quorum_port: free()?,
            election_port: free()?,
            client_port,
        };
        let record = MemberRecord {
            role,
            founder,
            retired: false,
            started: false,
            address,
            metrics_port: free()?,
            template_hash: None,
        };
        self.dir.member(id).create(id, &record)?;
        self.members.insert(
            id,
            LocalMember {
                record,
                process: Process::default(),
            },
        );
        Ok(())
    }

    fn bootstrap(
        &mut self,
        voters: &[ServerId],
        observers: &[ServerId],
    ) -> Result<(), BackendError> {
        let roles = voters
            .iter()
            .map(|id| (*id, Role::Voter))
            .chain(observers.iter().map(|id| (*id, Role::Observer)));
        let mut initial = Membership::default();
        for (id, role) in roles {
            self.create(id, role, true)?;
            let address = self.member(id)?.record.address.clone();
            initial.servers.insert(id, Server { role, address });
        }
        let record = EnsembleRecord {
            name: self.name.clone(),
            initial,
        };
        write_yaml(&self.dir.ensemble_file(), &record)?;
        self.record = Some(record);
        Ok(())
    }

    fn start(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        id: ServerId,
    ) -> Result<(), BackendError> {
        let (node, home) = (self.node.clone(), self.dir.member(id));
        self.render(desired, observed, id)?;
        let member = self.member(id)?;
        member.record.started = true;
        member.record.template_hash = Some(desired.template(member.record.role).hash.clone());
        // Recorded first: a member that may have run must never be taken for a new one.
        write_yaml(&home.record_file(), &member.record)?;
        member.process.start(&node, &home)
    }

    /// Writes a member's `zoo.cfg`.
    fn render(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        id: ServerId,
    ) -> Result<(), BackendError> {
        let home = self.dir.member(id);
        let digest = super_digest(&self.super_password);
        let record = &self.member(id)?.record;
        let known = observed.known();
        let source = membership_source(&home, record, observed, id);
        let role = known
            .and_then(|known| known.role(id))
            .unwrap_or(Role::Observer);
        let data_dir = home.data_dir();
        let place = Place {
            data_dir: &data_dir.to_string_lossy(),
            log_dir: None,
            client_host: HOST,
            client_port: record.address.client_port,
            metrics_port: record.metrics_port,
            super_digest: &digest,
        };
        let text = zoo_cfg(desired.template(record.role), &place, role, &source);
        write_atomically(&home.zoo_cfg(), &text)
    }

    /// Makes members part of the membership, or changes the role that they have in it.
    async fn join(
        &self,
        observed: &Observed,
        ids: &[ServerId],
        role: Role,
        from_version: u64,
    ) -> Result<(), BackendError> {
        let joining = ids.iter().map(|id| self.spec(*id, role));
        let change = Change {
            joining: joining.collect::<Result<_, _>>()?,
            leaving: Vec::new(),
            from_version,
        };
        self.reconfigure(observed, change).await
    }

    async fn reconfigure(&self, observed: &Observed, change: Change) -> Result<(), BackendError> {
        // Any member that serves takes it; the leader is asked first, unless it is told not to serve clients.
        let leader = observed.leader();
        let mut serving: Vec<ServerId> = observed
            .members
            .keys()
            .copied()
            .filter(|id| observed.healthy(*id))
            .collect();
        serving.sort_by_key(|id| leader != Some(*id));
        let addresses = serving
            .iter()
            .filter_map(|id| self.members.get(id))
            .map(|member| member.record.address.client());
        let addresses: Vec<String> = addresses.collect();
        Ok(reconfigure(&addresses, &self.super_password, &change).await?)
    }

    fn spec(&self, id: ServerId, role: Role) -> Result<String, BackendError> {
        let member = self
            .members
            .get(&id)
            .ok_or_else(|| BackendError::Refused(format!("there is no member {id}")))?;
        Ok(member.record.address.reconfig_spec(id, role))
    }

    fn retire(&mut self, id: ServerId, data: Retention) -> Result<(), BackendError> {
        let home = self.dir.member(id);
        match data {
            Retention::Delete => {
                home.delete()?;
                self.members.remove(&id);
                Ok(())
            }
            Retention::Retain => {
                let member = self.member(id)?;
                member.record.retired = true;
                write_yaml(&home.record_file(), &member.record)
            }
        }
    }
}

impl Backend for LocalBackend {
    async fn observe(&mut self) -> Result<Observed, BackendError> {
        self.check_processes();
        let mut asked = tokio::task::JoinSet::new();
        for (id, member) in &self.members {
            if member.process.instance(true) == Instance::Running {
                let (id, address) = (*id, member.record.address.client());
                asked.spawn(async move { (id, ask(&address).await) });
            }
        }
        let mut told: BTreeMap<ServerId, Told> = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            if let Ok((id, Some(answer))) = answer {
                told.insert(id, answer);
            }
        }
        let initial = self.record.as_ref().map(|record| record.initial.clone());
        let mut observed = Observed {
            initial,
            remembered: self.remembered(),
            ..Observed::default()
        };
        for (id, member) in &self.members {
            let MemberRecord {
                role,
                founder,
                retired,
                started,
                address,
                metrics_port: _,
                template_hash,
            } = &member.record;
            let zoo_cfg = self.dir.member(*id).read_zoo_cfg();
            let member = Member {
                retired: *retired,
                instance: member.process.instance(*started),
                template_hash: template_hash.clone(),
                rendered_role: zoo_cfg.as_deref().map(peer_type),
                answer: told.get(id).map(|told| told.answer.clone()),
                ..Member::new(*role, *founder, address.clone())
            };
            observed.members.insert(*id, member);
        }
        let leader = observed.leader().and_then(|id| told.remove(&id));
        observed.committed = leader
            .filter(|told| told.answer.state == State::Leader)
            .and_then(|told| told.membership);
        Ok(observed)
    }

    async fn publish(&mut self, status: &ZooKeeperEnsembleStatus) -> Result<(), BackendError> {
        let Some(ensemble) = &mut self.ensemble else {
            return Ok(());
        };
        let mut same_time = status.clone();
        same_time.observed_at = ensemble
            .status
            .as_ref()
            .and_then(|old| old.observed_at.clone());
        if ensemble.status.as_ref() != Some(&same_time) {
            ensemble.status = Some(status.clone());
            self.status = status.clone();
            write_status(&self.dir.status_file(), ensemble)?;
        }
        Ok(())
    }

    async fn execute(
        &mut self,
        _: &Cluster,
        desired: &Desired,
        observed: &Observed,
        step: &Step,
    ) -> Result<(), BackendError> {
        match step {
            Step::Bootstrap { voters, observers } => self.bootstrap(voters, observers),
            Step::Start { ids } => ids
                .iter()
                .try_for_each(|id| self.start(desired, observed, *id)),
            Step::Create { id, role } => self.create(*id, *role, false),
            Step::Join { ids, version } => self.join(observed, ids, Role::Observer, *version).await,
            Step::Promote { id, version } => {
                self.join(observed, &[*id], Role::Voter, *version).await
            }
            Step::Remove { ids, version } => {
                let change = Change {
                    joining: Vec::new(),
                    leaving: ids.clone(),
                    from_version: *version,
                };
                self.reconfigure(observed, change).await
            }
            Step::Stop { ids } => ids.iter().try_for_each(|id| {
                self.member(*id)?.process.stop();
                Ok(())
            }),
            Step::Restart { id } => {
                self.member(*id)?.process.stop();
                Ok(())
            }
            Step::Retire { id, data } => self.retire(*id, *data),
            // A folder is as large as its disk, and is damaged or lost in no way that this backend would notice.
            Step::Replace { .. } | Step::GrowVolume { .. } => Ok(()),
            Step::Render { ids } => ids
                .iter()
                .try_for_each(|id| self.render(desired, observed, *id)),
        }
    }
}

/// Where a member takes the membership from. What it wrote itself stays: with another list, it might form a quorum
/// that the others know nothing of. Two kinds of members cannot do that and get the committed membership instead:
/// those that do not vote, and those that were given their vote before they wrote themselves down.
fn membership_source(
    home: &Home,
    record: &MemberRecord,
    observed: &Observed,
    id: ServerId,
) -> MembershipSource {
    let kept = home.kept_membership().filter(|_| record.started);
    if let Some((lines, kept)) = kept {
        let committed = observed.committed.as_ref();
        let votes = committed.is_none_or(|committed| committed.role(id) == Some(Role::Voter));
        if votes && (committed.is_none() || kept.role(id).is_some()) {
            return MembershipSource::Kept(lines);
        }
    }
    let known = observed.known();
    let mut membership = known.cloned().unwrap_or_default();
    // A newcomer that the membership does not know yet begins as an observer of it.
    let own = Server {
        role: Role::Observer,
        address: record.address.clone(),
    };
    membership.servers.entry(id).or_insert(own);
    MembershipSource::Servers(membership)
}

/// The client port that a base port gives a member.
fn chosen_port(base: u16, id: ServerId) -> Result<u16, BackendError> {
    let port = u16::try_from(u32::from(base) + id.0);
    let port = port.map_err(|_| {
        BackendError::Refused(format!("--base-port {base} leaves no port for member {id}"))
    })?;
    if is_free(port) {
        return Ok(port);
    }
    Err(BackendError::Refused(format!(
        "port {port} of member {id} is in use; give another --base-port"
    )))
}

const HOST: &str = "127.0.0.1";
