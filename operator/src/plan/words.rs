//! Steps and reasons as people read them.

use std::fmt;

use super::{Hindrance, Plan, Reason, Step};
use crate::cluster::{Role, ServerId};
use crate::crd::spec::Retention;
use crate::observed::Observed;

/// `member 3`, `members 3 and 4`, `members 3, 4 and 5`.
pub(crate) fn members(ids: &[ServerId]) -> String {
    match ids {
        [] => "no member".into(),
        [one] => format!("member {one}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(ToString::to_string).collect();
            format!("members {} and {last}", first.join(", "))
        }
    }
}

/// `member 3 as voter`, `members 3 and 4 as voters`.
fn as_role(ids: &[ServerId], role: &str) -> String {
    let plural = if ids.len() == 1 { "" } else { "s" };
    format!("{} as {role}{plural}", members(ids))
}

/// `member 3 is`, `members 3 and 4 are`.
pub fn are(ids: &[ServerId]) -> String {
    format!(
        "{} {}",
        members(ids),
        if ids.len() == 1 { "is" } else { "are" }
    )
}

impl Step {
    /// The step's name, for status, events and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bootstrap { .. } => "Bootstrap",
            Self::Start { .. } => "StartMembers",
            Self::Create { .. } => "CreateMember",
            Self::Join { .. } => "JoinAsObserver",
            Self::Promote { .. } => "PromoteToVoter",
            Self::Remove { .. } => "RemoveFromEnsemble",
            Self::Stop { .. } => "StopMembers",
            Self::Retire { .. } => "RetireMember",
            Self::Restart { .. } => "RestartMember",
            Self::Replace { .. } => "ReplaceMember",
            Self::GrowVolume { .. } => "GrowVolume",
            Self::Render { .. } => "RenderConfig",
        }
    }

    /// The member that it concerns, when it is one.
    pub fn member(&self) -> Option<ServerId> {
        match self {
            Self::Create { id, .. }
            | Self::Promote { id, .. }
            | Self::Retire { id, .. }
            | Self::Replace { id, .. }
            | Self::GrowVolume { id }
            | Self::Restart { id } => Some(*id),
            Self::Start { ids }
            | Self::Stop { ids }
            | Self::Render { ids }
            | Self::Join { ids, .. }
            | Self::Remove { ids, .. } => match ids.as_slice() {
                [id] => Some(*id),
                _ => None,
            },
            Self::Bootstrap { .. } => None,
        }
    }

    /// Whether a leader may change because of it.
    pub fn disturbs(&self, leader: ServerId) -> bool {
        match self {
            Self::Restart { id } | Self::Promote { id, .. } => *id == leader,
            Self::Remove { ids, .. } | Self::Stop { ids } => ids.contains(&leader),
            Self::Bootstrap { .. }
            | Self::Start { .. }
            | Self::Create { .. }
            | Self::Join { .. }
            | Self::Retire { .. }
            | Self::Replace { .. }
            | Self::GrowVolume { .. }
            | Self::Render { .. } => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap { voters, observers } => {
                write!(f, "set up a new ensemble: {}", as_role(voters, "voter"))?;
                if observers.is_empty() {
                    return Ok(());
                }
                write!(f, ", {}", as_role(observers, "observer"))
            }
            Self::Start { ids } => write!(f, "start {}", members(ids)),
            Self::Create {
                id,
                role: Role::Voter,
            } => write!(f, "create member {id}, to become a voter"),
            Self::Create {
                id,
                role: Role::Observer,
            } => write!(f, "create member {id}, an observer"),
            Self::Join { ids, .. } => write!(f, "add {} to the ensemble as observer", members(ids)),
            Self::Promote { id, .. } => write!(f, "let member {id} vote"),
            Self::Remove { ids, .. } => write!(f, "take {} out of the ensemble", members(ids)),
            Self::Stop { ids } => write!(f, "stop {}", members(ids)),
            Self::Retire {
                id,
                data: Retention::Delete,
            } => write!(f, "delete the data of member {id}"),
            Self::Retire {
                id,
                data: Retention::Retain,
            } => write!(f, "retire member {id}, and keep its data"),
            Self::Restart { id } => write!(f, "restart member {id}"),
            Self::Replace { id, why } => write!(f, "give member {id} up for another: {why}"),
            Self::GrowVolume { id } => write!(f, "grow the volume of member {id}"),
            Self::Render { ids } => write!(f, "write the configuration of {} anew", members(ids)),
        }
    }
}

impl Reason {
    /// The reason's name, for conditions.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoLeader(_) => "NoLeader",
            Self::CatchUp(_) => "MemberNotSynced",
            Self::Settle(_) => "ConfigNotSettled",
            Self::Stopping(_) => "MemberStopping",
            Self::Failed(_) => "MemberFailed",
            Self::Starting(_) => "MemberStarting",
            Self::Unsafe {
                why: crate::safety::Unsafe::NoSpare { .. },
                ..
            } => "SlackTooSmall",
            Self::Unsafe { .. } => "MemberNotReady",
            Self::NoFreeId => "NoFreeServerId",
            Self::Condemned { .. } => "MemberLost",
            Self::AllLost => "AllDataLost",
            Self::Paused(_) => "Paused",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader(ids) => write!(f, "{} to elect a leader", members(ids)),
            Self::CatchUp(id) => write!(
                f,
                "member {id} to catch up with the leader, so that it may vote"
            ),
            Self::Settle(ids) => write!(f, "{} to take over the new membership", members(ids)),
            Self::Stopping(ids) => write!(f, "{} to stop", members(ids)),
            Self::Failed(ids) => write!(f, "a new try: {} down", are(ids)),
            Self::Starting(ids) => write!(f, "{} to serve", members(ids)),
            Self::Unsafe { step, why } => write!(f, "the moment to {step}: {why}"),
            Self::NoFreeId => f.write_str("a free server id: all are taken by data that is kept"),
            Self::Condemned { id, why, hindrance } => {
                write!(f, "help with member {id}: {why}, and {hindrance}")
            }
            Self::AllLost => f.write_str(
                "a decision: the data of all members is gone; delete the ensemble and make it anew, \
                 then restore what you have",
            ),
            Self::Paused(step) => {
                write!(f, "spec.updatePolicy.pause to become false; then: {step}")
            }
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("spec.repair.replaceDamaged is false"),
            Self::OnlyCopy => f.write_str(
                "it has the only copy of the data: raise spec.voters.replicas while it serves, or restore a backup",
            ),
            Self::OneAtATime => f.write_str("another voter that was given up is still part of the ensemble"),
            Self::GrowsFirst => f.write_str("it serves as yet: other voters come first"),
            Self::Unsafe(why) => write!(f, "it cannot be replaced now: {why}"),
        }
    }
}

/// The members that are in trouble.
pub(super) fn troubles(observed: &Observed) -> Vec<String> {
    let members = observed.members.iter();
    let troubled = members.filter(|(_, member)| !member.retired);
    troubled
        .filter_map(|(id, member)| Some(format!("member {id}: {}", member.trouble.as_ref()?)))
        .collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.next, &self.waiting) {
            (Some(step), _) => write!(f, "{step}"),
            (None, Some(reason)) => {
                write!(f, "waiting for {reason}")?;
                let some = self.blocked_by.iter().take(TROUBLES_MAX);
                some.into_iter()
                    .try_for_each(|trouble| write!(f, "; {trouble}"))
            }
            (None, None) => f.write_str("At rest"),
        }
    }
}

/// Troubles that fit on one line.
const TROUBLES_MAX: usize = 3;
