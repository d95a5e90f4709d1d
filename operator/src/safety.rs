//! May this member go down now? Pure, and pessimistic: what is not known counts as unsafe.

use std::fmt;

use crate::cluster::{Role, ServerId};
use crate::membership::Membership;
use crate::observed::{Instance, Member, Observed};

/// Why a member must stay up for now, or why a change of the membership must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsafe {
    /// No member says that it leads, or the leader did not tell the membership.
    NoLeader,
    /// Another member does not serve: the first one that does not come back stops the rest.
    NotServing(Vec<ServerId>),
    /// Without this member, too few healthy voters are left.
    NoSpare {
        /// Voters that are healthy now.
        healthy: usize,
        /// Voters that a quorum needs.
        quorum: usize,
    },
}

/// Whether `id` may be stopped (to come back at once) without risking the quorum.
///
/// Three or more voters must keep a quorum while one is away. An ensemble of one or two voters cannot: it may only
/// be disturbed while every voter is healthy, and it pauses for as long as the restart takes.
pub fn may_go_down(observed: &Observed, id: ServerId) -> Result<(), Unsafe> {
    may_restart(observed, id, 1)
}

/// As [`may_go_down`], with as many observers away at a time as the manifest allows. A member that is known to serve
/// nobody has nothing to lose, whatever the others do.
pub fn may_restart(
    observed: &Observed,
    id: ServerId,
    observers_at_once: usize,
) -> Result<(), Unsafe> {
    let committed = led_membership(observed)?;
    let idle = |member: &Member| member.is_idle();
    if observed.members.get(&id).is_some_and(idle) {
        return Ok(());
    }
    let mut away: Vec<ServerId> = observed
        .members
        .iter()
        .filter(|(other, member)| {
            **other != id && !member.retired && committed.servers.contains_key(other)
        })
        .filter(|(other, member)| {
            // Clients of a Service find only those that the kubelet has found ready.
            let ready = member.pod.ready != Some(false);
            member.instance != Instance::Running || !ready || !observed.healthy(**other)
        })
        .map(|(other, _)| *other)
        .collect();
    let observes = |id: &ServerId| committed.role(*id) == Some(Role::Observer);
    if observes(&id) && away.iter().all(observes) && away.len() < observers_at_once {
        away.clear();
    }
    if !away.is_empty() {
        return Err(Unsafe::NotServing(away));
    }
    if committed.role(id) != Some(Role::Voter) {
        return Ok(());
    }
    let (total, quorum) = (committed.voters().count(), committed.quorum());
    let left = committed
        .voters()
        .filter(|other| *other != id && observed.healthy(*other))
        .count();
    let enough = if total > 2 {
        left >= quorum
    } else {
        left + 1 == total
    };
    if enough {
        Ok(())
    } else {
        Err(Unsafe::NoSpare {
            healthy: healthy_voters(observed),
            quorum,
        })
    }
}

/// Whether the voter `id` may leave the membership: those that stay must be a quorum of the smaller ensemble, with a
/// spare or all of them.
pub fn may_leave(observed: &Observed, id: ServerId) -> Result<(), Unsafe> {
    let committed = led_membership(observed)?;
    let staying: Vec<ServerId> = committed.voters().filter(|other| *other != id).collect();
    let healthy = staying
        .iter()
        .filter(|other| observed.healthy(**other))
        .count();
    let quorum = staying.len() / 2 + 1;
    let leaver_serves = observed.healthy(id);
    if staying.is_empty()
        || healthy < quorum
        || (leaver_serves && healthy == quorum && healthy < staying.len())
    {
        return Err(Unsafe::NoSpare { healthy, quorum });
    }
    Ok(())
}

/// Whether one more voter may be promoted: every voter must be healthy.
pub fn may_grow(observed: &Observed) -> Result<(), Unsafe> {
    let committed = led_membership(observed)?;
    let away: Vec<ServerId> = committed
        .voters()
        .filter(|id| !observed.healthy(*id))
        .collect();
    if away.is_empty() {
        Ok(())
    } else {
        Err(Unsafe::NotServing(away))
    }
}

/// The membership, as the leader tells it.
fn led_membership(observed: &Observed) -> Result<&Membership, Unsafe> {
    let led = observed.leader().is_some();
    let committed = observed.committed.as_ref().filter(|_| led);
    committed.ok_or(Unsafe::NoLeader)
}

/// Voters that are healthy.
pub fn healthy_voters(observed: &Observed) -> usize {
    let committed = observed.committed.iter();
    committed
        .flat_map(|committed| committed.voters())
        .filter(|id| observed.healthy(*id))
        .count()
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("no leader is known"),
            Self::NotServing(ids) => write!(f, "{} not serving yet", crate::plan::are(ids)),
            Self::NoSpare { healthy, quorum } => {
                let are = if *healthy == 1 {
                    "voter is"
                } else {
                    "voters are"
                };
                write!(
                    f,
                    "{healthy} {are} healthy and a quorum needs {quorum}: there is none to spare"
                )
            }
        }
    }
}
