//! Rows about votes that are too particular for the simulator to be sure to meet them.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use node_core::effect::{Effect, Input};
use node_core::peer::{Peer, PeerConfig, Recovered, Timing};
use node_core::proto::election::{Notification, PeerState};
use node_core::quorum::config::QuorumConfig;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};

fn config(voters: &[i64], version: i64) -> QuorumConfig {
    let lines = (1..=3).map(|id| {
        let role = if voters.contains(&id) {
            "participant"
        } else {
            "observer"
        };
        format!("server.{id}=s{id}:1:2:{role}\n")
    });
    let text = lines.collect::<String>() + &format!("version={version:x}");
    QuorumConfig::parse(&text).unwrap()
}

/// Server 3, looking for a leader.
fn looking(committed: &[i64], proposed: Option<&[i64]>) -> Peer {
    let config_of = |voters| config(voters, 0x1_0000_0005);
    let peer = PeerConfig {
        my_id: ServerId(3),
        config: config(committed, 0x1_0000_0001),
        timing: Timing::default(),
        reconfig_enabled: true,
        observer: false,
        observer_keeps_disk: true,
    };
    let recovered = Recovered {
        accepted_epoch: Epoch(1),
        current_epoch: Epoch(1),
        last_zxid: Zxid(0x1_0000_0005),
        last_seen_config: proposed.map(config_of),
        ..Recovered::default()
    };
    let mut peer = Peer::new(peer, recovered, Time(0));
    peer.step(Time(0), Input::Tick, &mut Vec::new());
    for id in [1, 2] {
        let (id, up) = (ServerId(id), true);
        let input = Input::ElectionLink { peer: id, up };
        peer.step(Time(0), input, &mut Vec::new());
    }
    peer
}

fn hear(peer: &mut Peer, from: i64, state: PeerState, leader: i64) -> Vec<Effect> {
    let notification = Notification {
        state,
        leader: ServerId(leader),
        zxid: Zxid(0x1_0000_0004),
        round: 7,
        peer_epoch: Epoch(2),
        version: Notification::VERSION,
        config: peer.config().to_string(),
    };
    let from = ServerId(from);
    let mut effects = Vec::new();
    peer.step(
        Time(1),
        Input::Notification { from, notification },
        &mut effects,
    );
    effects
}

#[test]
fn a_lost_configuration_keeps_nobody_from_joining_the_leader() {
    let mut peer = looking(&[1, 2, 3], Some(&[2, 3]));
    hear(&mut peer, 1, PeerState::Leading, 1);
    hear(&mut peer, 2, PeerState::Following, 1);
    assert_eq!(peer.leader(), Some(ServerId(1)));
}

#[test]
fn servers_that_have_a_leader_are_not_answered() {
    let mut peer = looking(&[1, 3], None);
    let answers = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Notify { .. }));
    assert!(!answers(&hear(&mut peer, 2, PeerState::Observing, 1)));
    assert!(answers(&hear(&mut peer, 2, PeerState::Looking, 2)));
}
