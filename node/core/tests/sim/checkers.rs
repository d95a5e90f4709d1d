//! What must hold in every run. The names are those of the TLA+ specification of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use node_core::effect::RoleInfo;
use node_core::proto::client::{OpCode, Request};
use node_core::proto::code::ErrorCode;
use node_core::proto::quorum::Proposal;
use node_core::proto::txn::{Txn, TxnEntry, TxnHeader};
use node_core::quorum::config::QuorumConfig;
use node_core::replica::Replica;
use node_core::zxid::{Epoch, ServerId, SessionId, Zxid};

use crate::disk::Tree;
use crate::model::{Answer, Model};

/// Tree and sessions in two numbers.
type Print = (Option<i64>, i64);

fn print(replica: &Replica) -> Print {
    let sessions = replica.sessions().iter();
    let sum = sessions.fold(0i64, |sum, (id, timeout_ms)| {
        sum.wrapping_add(id.0.wrapping_mul(0x1_0000_01b3) ^ i64::from(*timeout_ms))
    });
    (replica.tree().digest(), sum)
}

/// A transaction that was committed, and what its client must hear.
pub(crate) struct Committed {
    pub(crate) header: TxnHeader,
    pub(crate) answer: Option<Answer>,
    /// What it was asked for, where this is certain.
    pub(crate) request: Option<Request>,
    print: Print,
}

pub(crate) struct Checkers {
    /// All that was ever committed, in order.
    pub(crate) zxids: Vec<Zxid>,
    pub(crate) committed: Vec<Committed>,
    /// All that was ever logged anywhere.
    logged: BTreeMap<Zxid, Proposal>,
    leaders: BTreeMap<Epoch, ServerId>,
    /// What each transaction came after, in every log.
    before: BTreeMap<Zxid, Zxid>,
    /// The last transaction of each log.
    ends: BTreeMap<ServerId, Zxid>,
    /// In which configurations a proposal needs a quorum, until it is committed.
    quorums: BTreeMap<Zxid, (QuorumConfig, QuorumConfig)>,
    /// How far the history of each server is on its disk.
    durable: BTreeMap<ServerId, Zxid>,
    /// Who has promised which epoch.
    promised: BTreeSet<(ServerId, Epoch)>,
    /// One that applies what is committed and does nothing else.
    replica: Replica,
    pub(crate) model: Model,
    /// What clients asked for.
    pub(crate) requests: BTreeMap<(SessionId, i32), Vec<Request>>,
    /// Sessions whose clients count from 1 again on every connection.
    pub(crate) recounting: BTreeSet<SessionId>,
    /// The last request of each session that was carried out.
    last_cxid: BTreeMap<SessionId, i32>,
}

impl Checkers {
    pub(crate) fn new() -> Self {
        Self {
            zxids: Vec::new(),
            committed: Vec::new(),
            logged: BTreeMap::new(),
            leaders: BTreeMap::new(),
            before: BTreeMap::new(),
            ends: BTreeMap::new(),
            quorums: BTreeMap::new(),
            durable: BTreeMap::new(),
            promised: BTreeSet::new(),
            replica: Tree::new().replica,
            model: Model::default(),
            requests: BTreeMap::new(),
            recounting: BTreeSet::new(),
            last_cxid: BTreeMap::new(),
        }
    }

    /// How many epochs had an established leader.
    pub(crate) fn epochs(&self) -> usize {
        self.leaders.len()
    }

    /// A server's log ends here now.
    pub(crate) fn log_ends(&mut self, id: ServerId, zxid: Zxid) {
        self.ends.insert(id, zxid);
    }

    /// A zxid names one transaction, whoever logs it, and it comes after the same one in every log.
    pub(crate) fn logged(&mut self, id: ServerId, proposal: &Proposal) {
        let zxid = proposal.zxid;
        let last = self.ends.insert(id, zxid).unwrap_or_default();
        // The start of an epoch stands for whatever was before.
        if last.counter() != 0 {
            let before = *self.before.entry(zxid).or_insert(last);
            assert_eq!(before, last, "{id} logs {zxid} behind another one");
        }
        let first = self
            .logged
            .entry(proposal.zxid)
            .or_insert_with(|| proposal.clone());
        assert!(first == proposal, "{id} logs another {}", proposal.zxid);
    }

    /// Leadership: an epoch has one established leader. Completeness: it has everything that was committed in earlier
    /// epochs. (One that was slow may be established when a later one already is; it can't commit anything.)
    pub(crate) fn leader_established(&mut self, id: ServerId, epoch: Epoch, history: &[Zxid]) {
        let leader = *self.leaders.entry(epoch).or_insert(id);
        assert_eq!(leader, id, "two leaders of epoch {epoch}");
        let earlier = self.zxids.partition_point(|zxid| zxid.epoch() < epoch);
        assert!(
            history.len() >= earlier,
            "leader {id} of epoch {epoch} lacks {:?}",
            &self.zxids[history.len()..]
        );
        self.prefix(id, history);
        for zxid in history.iter().skip(self.zxids.len()) {
            let proposal = self.logged.get(zxid).expect("it was logged").clone();
            self.commit(id, &proposal);
        }
    }

    /// Prefix consistency.
    fn prefix(&self, id: ServerId, history: &[Zxid]) {
        let both = history.len().min(self.zxids.len());
        if history[..both] != self.zxids[..both] {
            let at = (0..both).find(|at| history[*at] != self.zxids[*at]);
            let at = at.expect("they differ");
            panic!(
                "{id} has {} at place {at} where {} was committed",
                history[at], self.zxids[at]
            );
        }
    }

    /// What a server serves is a beginning of what was committed, and its tree is what that makes.
    pub(crate) fn serves(&self, id: ServerId, tree: &Tree) {
        self.prefix(id, &tree.history);
        assert!(
            tree.history.len() <= self.zxids.len(),
            "{id} serves what is not committed"
        );
        self.tree_is_right(id, tree);
    }

    /// Agreement and total order: everybody applies the same at the same place.
    pub(crate) fn applies(&mut self, id: ServerId, tree: &Tree, entry: &TxnEntry) {
        let (index, zxid) = (tree.history.len(), entry.header.zxid);
        match self.zxids.get(index) {
            Some(committed) => assert_eq!(
                *committed, zxid,
                "{id} applied {zxid} at place {index} where {committed} was committed"
            ),
            None => panic!("{id} applied {zxid} before it was committed"),
        }
        let data = &self.logged[&zxid].data;
        assert_eq!(*data, entry.encode(), "{id} applied another {zxid}");
    }

    /// A leader proposes: what is to be committed needs a quorum of both configurations.
    pub(crate) fn proposed(&mut self, zxid: Zxid, config: &QuorumConfig, next: &QuorumConfig) {
        self.quorums.insert(zxid, (config.clone(), next.clone()));
    }

    /// A server's history is on its disk up to this.
    pub(crate) fn is_durable(&mut self, id: ServerId, zxid: Zxid) {
        self.durable.insert(id, zxid);
    }

    /// A server that lost its disk, or has none, may promise anew.
    pub(crate) fn has_forgotten(&mut self, id: ServerId) {
        self.promised.retain(|(promised, _)| *promised != id);
    }

    /// A server promises an epoch to one leader.
    pub(crate) fn promises(&mut self, id: ServerId, epoch: Epoch) {
        assert!(
            self.promised.insert((id, epoch)),
            "{id} promises epoch {epoch} once more"
        );
    }

    /// The epoch of a history is remembered when the history is.
    pub(crate) fn saves_epoch(&self, id: ServerId, epoch: Epoch) {
        let last = self.ends.get(&id).copied().unwrap_or_default();
        let durable = self.durable.get(&id).copied().unwrap_or_default();
        assert!(
            durable >= last,
            "{id} begins epoch {epoch} with a history up to {last} of which {durable} is on disk"
        );
    }

    /// Whether the history up to `zxid` is on the disks of a quorum, or of more than can be told (`excused`).
    fn has_quorum(&self, config: &QuorumConfig, zxid: Zxid, excused: &BTreeSet<ServerId>) -> bool {
        let durable = |id: &ServerId| self.durable.get(id).is_some_and(|at| *at >= zxid);
        config.is_quorum(|id| excused.contains(&id) || durable(&id))
    }

    /// A leader commits, in its own epoch, what is on the disks of a quorum. `excused`: servers that have lost their disks,
    /// or follow a later leader.
    pub(crate) fn leader_commits(
        &mut self,
        id: ServerId,
        zxid: Zxid,
        excused: &BTreeSet<ServerId>,
    ) {
        if self.zxids.last().is_some_and(|last| *last >= zxid) {
            return;
        }
        let proposal = self.logged.get(&zxid).expect("it was logged").clone();
        if let Some((config, next)) = self.quorums.remove(&zxid) {
            for config in [config, next] {
                assert!(
                    self.has_quorum(&config, zxid, excused),
                    "{id} committed {zxid} without a quorum that has it on disk: {:?}",
                    self.durable
                );
            }
        }
        self.quorums = self.quorums.split_off(&zxid);
        self.commit(id, &proposal);
    }

    /// A leader's history is on the disks of a quorum when its epoch begins.
    pub(crate) fn begins_with_quorum(
        &self,
        id: ServerId,
        configs: [&QuorumConfig; 2],
        last: Zxid,
        excused: &BTreeSet<ServerId>,
    ) {
        for config in configs {
            assert!(
                self.has_quorum(config, last, excused),
                "{id} leads without a quorum that has its history up to {last} on disk: {:?}",
                self.durable
            );
        }
    }

    /// Between servers of one kind no message comes that cannot be.
    pub(crate) fn role_changed(&self, id: ServerId, role: &RoleInfo) {
        let impossible = [
            " sent ",
            "before it was proposed",
            "wants to cut",
            "NEWLEADER",
        ];
        assert!(
            !impossible.iter().any(|words| role.why.contains(words)),
            "{id}: an impossible message: {}",
            role.why
        );
    }

    /// Trees and sessions are equal at equal zxid.
    pub(crate) fn tree_is_right(&self, id: ServerId, tree: &Tree) {
        let Some(place) = tree.history.len().checked_sub(1) else {
            return;
        };
        let last = tree.replica.last_zxid();
        assert_eq!(last, self.zxids[place], "{id}'s last zxid");
        let (expected, found) = (self.committed[place].print, print(&tree.replica));
        assert_eq!(expected, found, "{id}'s tree or sessions at {last}");
        self.owners_live(id, &tree.replica);
    }

    /// Every ephemeral node's owner is a session.
    fn owners_live(&self, id: ServerId, replica: &Replica) {
        for owner in replica.tree().ephemeral_owners() {
            assert!(
                replica.sessions().contains_key(&owner),
                "{id}: a node of {owner:?}, which has ended"
            );
        }
    }

    fn commit(&mut self, id: ServerId, proposal: &Proposal) {
        if let Some(last) = self.zxids.last() {
            assert!(
                proposal.zxid.follows(*last),
                "{id}: {proposal:?} after {last}"
            );
        }
        let entry = TxnEntry::decode(proposal.data.clone()).expect("a transaction");
        assert_eq!(entry.header.zxid, proposal.zxid);
        let request = self.request_of(&entry);
        let answer = self.expected(&entry, request.as_ref());
        let applied = self.replica.apply(&entry.header, &entry.txn);
        if let Some(answer) = &answer {
            assert_eq!(
                *answer,
                applied.result,
                "{:?} became {entry:?}",
                self.requests
                    .get(&(entry.header.session, entry.header.cxid))
            );
        }
        self.zxids.push(proposal.zxid);
        self.committed.push(Committed {
            header: entry.header,
            answer,
            request,
            print: print(&self.replica),
        });
    }

    /// What the client that asked for it must hear; `None` if nobody did, or this is not modelled.
    fn expected(&mut self, entry: &TxnEntry, request: Option<&Request>) -> Option<Answer> {
        let TxnHeader {
            session, cxid, op, ..
        } = entry.header;
        if session == SessionId(0) || op == OpCode::Reconfig as i32 {
            return None;
        }
        match entry.txn {
            Txn::CreateSession { .. } => {
                assert!(self.model.sessions.insert(session), "{session:?} twice");
                return None;
            }
            Txn::Error { code } if code == ErrorCode::SESSION_MOVED.0 => return None,
            Txn::Error { code } if code == ErrorCode::SESSION_EXPIRED.0 => {
                assert!(!self.model.sessions.contains(&session), "{entry:?}");
                return None;
            }
            _ => {}
        }
        assert!(
            self.model.sessions.remove(&session),
            "{entry:?} for a session that is no more"
        );
        if op != OpCode::CloseSession as i32 {
            self.model.sessions.insert(session);
        }
        if cxid != 0 && !self.recounting.contains(&session) {
            let last = self.last_cxid.insert(session, cxid).unwrap_or(0);
            assert!(last < cxid, "{entry:?} after the session's request {last}");
        }
        let request = request.filter(|r| !matches!(r, Request::Reconfig { .. }))?;
        Some(self.model.execute(&entry.header, request))
    }

    /// The request that a transaction comes from. A client that counts from 1 again may have made several with the same
    /// number; those that succeed differ in what they write.
    fn request_of(&self, entry: &TxnEntry) -> Option<Request> {
        let TxnHeader { session, cxid, .. } = entry.header;
        if cxid == 0 {
            return Some(Request::CloseSession);
        }
        let requests = self.requests.get(&(session, cxid))?;
        if let [only] = &requests[..] {
            return Some(only.clone());
        }
        requests.iter().find(|r| came_from(&entry.txn, r)).cloned()
    }

    /// The committed transaction with this zxid.
    pub(crate) fn at(&self, zxid: Zxid) -> Option<&Committed> {
        let place = self.zxids.binary_search(&zxid).ok()?;
        self.committed.get(place)
    }

    /// The tree, node by node.
    pub(crate) fn tree_is_the_model(&self, id: ServerId, replica: &Replica) {
        for (path, node) in self.model.all() {
            let found = replica.tree().get(path);
            let found = found.unwrap_or_else(|| panic!("{id} lacks {path}"));
            assert_eq!(found.stat(), node.stat(), "{id}: {path}");
            assert_eq!(found.data(), node.data.as_deref(), "{id}: {path}");
        }
        let root = replica.tree().get("/").expect("a root");
        let own = 1 + replica
            .tree()
            .get("/zookeeper")
            .map_or(0, |n| n.descendant_count());
        assert_eq!(
            root.descendant_count(),
            self.model.all().count() + own,
            "{id}"
        );
        self.owners_live(id, replica);
    }
}

fn came_from(txn: &Txn, request: &Request) -> bool {
    match (txn, request) {
        (Txn::Create(made), Request::Create(asked)) => made.data == asked.data,
        (Txn::SetData { data, .. }, Request::SetData { data: asked, .. }) => data == asked,
        (Txn::Delete { path }, Request::Delete { path: asked, .. }) => path == asked,
        (Txn::Multi(txns), Request::Multi(ops)) => {
            let mut both = txns.iter().zip(ops);
            txns.len() == ops.len() && both.all(|(txn, op)| came_from(txn, op))
        }
        (Txn::Check { path, .. }, Request::Check { path: asked, .. }) => path == asked,
        (Txn::CloseSession { .. }, Request::CloseSession) => true,
        _ => false,
    }
}
