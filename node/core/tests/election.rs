//! Rows about votes that are too particular for the simulator to be sure to meet them.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use node_core::effect::{Effect, Input, LinkId};
use node_core::peer::{Peer, PeerConfig, Recovered, Timing};
use node_core::proto::election::{Notification, PeerState};
use node_core::quorum::config::QuorumConfig;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};

fn config(voters: &[i64], version: i64) -> QuorumConfig {
    let servers = voters.iter().copied().fold(3, i64::max);
    let lines = (1..=servers).map(|id| {
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
    for id in [1, 2]
        .iter()
        .chain(committed)
        .chain(proposed.unwrap_or_default())
    {
        let (id, up) = (ServerId(*id), true);
        let input = Input::ElectionLink { peer: id, up };
        peer.step(Time(0), input, &mut Vec::new());
    }
    peer
}

fn hear(peer: &mut Peer, from: i64, state: PeerState, leader: i64) -> Vec<Effect> {
    hear_at(peer, 1, from, state, leader)
}

fn hear_at(peer: &mut Peer, at_ms: u64, from: i64, state: PeerState, leader: i64) -> Vec<Effect> {
    hear_vote(peer, at_ms, from, state, (2, 0x1_0000_0004, leader))
}

/// What `from` says at a time: its state, and for whom it votes (epoch, zxid, and who it is).
fn hear_vote(
    peer: &mut Peer,
    at_ms: u64,
    from: i64,
    state: PeerState,
    (epoch, zxid, leader): (i64, i64, i64),
) -> Vec<Effect> {
    let is_looking = state == PeerState::Looking;
    let notification = Notification {
        state,
        leader: ServerId(leader),
        zxid: Zxid(zxid),
        // A later round than the one that has ended with a leader.
        round: if is_looking { 9 } else { 7 },
        peer_epoch: Epoch(epoch),
        version: Notification::VERSION,
        config: peer.config().to_string(),
    };
    let from = ServerId(from);
    let mut effects = Vec::new();
    peer.step(
        Time(at_ms),
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

fn answers(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Notify { .. }))
}

#[test]
fn servers_that_have_a_leader_are_not_answered() {
    let mut peer = looking(&[1, 3], None);
    assert!(!answers(&hear(&mut peer, 2, PeerState::Observing, 1)));
    assert!(answers(&hear(&mut peer, 2, PeerState::Looking, 2)));
}

/// One of Apache's in a later round would ask again with every answer.
#[test]
fn who_has_no_vote_is_told_the_same_once_in_a_while() {
    let mut peer = looking(&[1, 3], None);
    let mut ask = |at_ms| answers(&hear_at(&mut peer, at_ms, 2, PeerState::Looking, 2));
    assert_eq!(
        [1, 2, 100, 101, 150].map(&mut ask),
        [true, false, false, true, false]
    );
    // News is told at once.
    hear_at(&mut peer, 151, 1, PeerState::Looking, 1);
    assert!(answers(&hear_at(&mut peer, 152, 2, PeerState::Looking, 2)));
}

/// (The simulator found it: seed 9170 of its mixed scenarios as they were then.)
#[test]
fn a_vote_does_not_change_with_every_message() {
    let mut peer = looking(&[1, 2, 3, 4, 5], None);
    hear(&mut peer, 5, PeerState::Looking, 5);
    hear(&mut peer, 4, PeerState::Looking, 4);
    for at_ms in (50..=1_000).step_by(50) {
        peer.step(Time(at_ms), Input::Tick, &mut Vec::new());
    }
    assert_eq!(peer.vote().leader, ServerId(4), "5 has no quorum");
    let mut votes = Vec::new();
    for at_ms in 1_001..1_101 {
        let leader = if at_ms % 2 == 1 { 5 } else { 4 };
        hear_at(&mut peer, at_ms, 2, PeerState::Looking, leader);
        votes.push(peer.vote().leader);
    }
    assert_eq!(votes, [ServerId(5); 100]);
}

/// For whom a server votes when it looks at the clock.
fn vote_at(peer: &mut Peer, at_ms: u64) -> i64 {
    peer.step(Time(at_ms), Input::Tick, &mut Vec::new());
    peer.vote().leader.0
}

/// Two servers that had followed each other changed their votes at the same time for ever, as long as both clocks agreed:
/// each went over to the other at the moment in which it might vote for it again. (Seed 16877, as the simulator was then.)
#[test]
fn who_may_be_voted_for_again_is_given_time_to_come_over() {
    let mut peer = looking(&[1, 2, 3], None);
    hear(&mut peer, 1, PeerState::Following, 2);
    hear(&mut peer, 2, PeerState::Leading, 2);
    assert_eq!(peer.leader(), Some(ServerId(2)));
    let link = LinkId::dialled(0);
    peer.step(Time(2), Input::LinkUp(link), &mut Vec::new());
    peer.step(Time(2), Input::LinkDown(link), &mut Vec::new());
    assert_eq!((peer.leader(), peer.vote().leader.0), (None, 3));
    // Server 2 is no worse a candidate, but for its number.
    let its_own = (1, 0x1_0000_0005, 2);
    hear_vote(&mut peer, 3, 2, PeerState::Looking, its_own);
    let again = 2 + Timing::default().avoid_ms;
    let votes = [again - 1, again, again + 249, again + 250].map(|at| vote_at(&mut peer, at));
    assert_eq!(votes, [3, 3, 3, 2]);
}

#[test]
fn who_is_reached_again_is_given_time_to_come_over() {
    let mut peer = looking(&[1, 2, 3], None);
    let link = |up| Input::ElectionLink {
        peer: ServerId(2),
        up,
    };
    let its_own = (1, 0x1_0000_0005, 2);
    hear_vote(&mut peer, 1, 2, PeerState::Looking, its_own);
    peer.step(Time(2), link(false), &mut Vec::new());
    for at_ms in (50..=1_000).step_by(50) {
        assert_eq!(vote_at(&mut peer, at_ms), 3);
    }
    peer.step(Time(1_000), link(true), &mut Vec::new());
    let votes = [1_000, 1_249, 1_250].map(|at| vote_at(&mut peer, at));
    assert_eq!(votes, [3, 3, 2]);
}

/// Server 4 is to become a voter, which server 1 does not know: it stays with itself, though its history is shorter. Server 3 is
/// one whom both could elect, but nobody votes for it. (Seed 640.)
#[test]
fn where_the_best_candidate_is_not_known_to_all_another_offers_itself() {
    let mut peer = looking(&[1, 2, 3], Some(&[1, 2, 3, 4]));
    let its_own = (1, 0x1_0000_0005, 4);
    hear_vote(&mut peer, 1, 4, PeerState::Looking, its_own);
    assert_eq!(vote_at(&mut peer, 300), 4, "nobody says otherwise");
    let shorter = (1, 0x1_0000_0001, 1);
    hear_vote(&mut peer, 301, 1, PeerState::Looking, shorter);
    assert_eq!([550, 551].map(|at| vote_at(&mut peer, at)), [4, 3]);
}
