//! What happens, in lines that a person can read.

use node_core::effect::{Effect, Input};
use node_core::member::work::Work;
use node_core::proto::quorum::Packet;

pub(crate) fn brief_input(input: &Input) -> String {
    match input {
        Input::Notification {
            from,
            notification: n,
        } => {
            let (state, leader, zxid, round, epoch) =
                (n.state, n.leader, n.zxid, n.round, n.peer_epoch);
            format!("vote of {from}: {state:?} {leader} ({epoch}, {zxid}) round {round}")
        }
        Input::Packet { packet, .. } => brief_packet(packet),
        Input::LinkUp(_) => "LinkUp".into(),
        Input::LinkDown(_) => "LinkDown".into(),
        other => format!("{other:?}"),
    }
}

fn brief_packet(packet: &Packet) -> String {
    match packet {
        Packet::NewLeader { epoch, .. } => format!("NewLeader {epoch}"),
        Packet::LeaderInfo { epoch, .. } => format!("LeaderInfo {epoch}"),
        Packet::FollowerInfo {
            accepted_epoch,
            info,
        } => format!("FollowerInfo of {}, {accepted_epoch}", info.id),
        Packet::ObserverInfo {
            accepted_epoch,
            info,
        } => format!("ObserverInfo of {}, {accepted_epoch}", info.id),
        other => format!("{other:?}"),
    }
}

pub(crate) fn brief_effect(effect: &Effect) -> String {
    match effect {
        Effect::Notify {
            to,
            notification: n,
        } => {
            let (state, leader, zxid, round, epoch) =
                (n.state, n.leader, n.zxid, n.round, n.peer_epoch);
            format!("tell {to}: {state:?} {leader} ({epoch}, {zxid}) round {round}")
        }
        Effect::Send {
            packet: Packet::NewLeader { epoch, .. },
            ..
        } => format!("send NewLeader {epoch}"),
        Effect::Send { packet, .. } => format!("send {packet:?}"),
        Effect::SaveConfig(config) => format!("SaveConfig {}", config.version),
        Effect::SaveNextConfig(config) => format!("SaveNextConfig {}", config.version),
        other => format!("{other:?}"),
    }
}

pub(crate) fn brief_work(work: &Work) -> String {
    match work {
        Work::Apply { entry, waiting, .. } => {
            let waiting = waiting.as_ref().map(|p| (p.connection, p.xid));
            format!(
                "Apply {} for {waiting:?}: {:?}",
                entry.header.zxid, entry.txn
            )
        }
        Work::SetConfig { version, .. } => format!("SetConfig {version}"),
        other => format!("{other:?}"),
    }
}
