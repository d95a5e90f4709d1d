//! Stories of clients whose server loses its leader.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use node_core::effect::Input;
use node_core::proto::client::{CreateRequest, OpCode, Request};
use node_core::proto::data::Acl;
use node_core::proto::quorum::Packet;
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId};

use crate::THREE;
use crate::client::Mood;
use crate::service::ToServer;
use crate::world::{Setup, World};

const ONE: ServerId = ServerId(1);
const TWO: ServerId = ServerId(2);
const LEADER: ServerId = ServerId(3);

fn create(path: &str) -> Request {
    Request::Create(CreateRequest {
        op: OpCode::Create,
        path: path.to_owned(),
        data: Some(Bytes::from_static(b"x")),
        acl: vec![Acl::open()],
        flags: 0,
        ttl: -1,
    })
}

/// A world that tells what happened in it when a test fails.
struct Story(World);

impl Deref for Story {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

impl DerefMut for Story {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.trace.take().unwrap_or_default());
        }
    }
}

/// Runs until `done`; false if that takes longer than `ms`.
fn within(world: &mut World, ms: u64, done: impl Fn(&World) -> bool) -> bool {
    world.run_until(world.now + ms, done)
}

/// Three servers, the third leads, and one client of each server that is named.
fn story(servers: &[ServerId]) -> Story {
    let setup = Setup {
        clients: servers.len(),
        ..THREE
    };
    let mut world = Story(World::new(0, setup));
    world.trace = Some(String::new());
    world.steady = true;
    world.mood = Mood::Quiet;
    world.ids().into_iter().for_each(|id| world.start(id));
    for (client, server) in servers.iter().enumerate() {
        world.clients[client].only = Some(*server);
    }
    let all_open = |w: &World| w.leader().is_some() && w.clients.iter().all(|c| c.is_open());
    assert!(world.run_until(3000, all_open), "nobody is served");
    assert_eq!(world.leader(), Some(LEADER));
    world
}

/// Runs until all that clients have asked for is answered; for how long that took.
fn answered(world: &mut World) -> u64 {
    let since = world.now;
    let done = |w: &World| w.clients.iter().all(|c| c.waits_for() == 0);
    assert!(world.run_until(since + 5000, done), "a request is lost");
    world.now - since
}

/// Where each client is connected.
fn places(world: &World) -> Vec<Option<ConnectionId>> {
    world.clients.iter().map(|c| c.connection()).collect()
}

/// What a session has done, by the numbers of its requests.
fn done(world: &World, client: usize) -> Vec<i32> {
    let session = world.clients[client].session;
    let all = world.checkers.committed.iter().map(|c| c.header);
    let of_client = all.filter(|h| Some(h.session) == session && h.cxid > 0);
    of_client.map(|h| h.cxid).collect()
}

/// Runs until the followers have logged something that the leader has proposed, but not until they know that it is
/// committed.
fn run_until_logged(world: &mut World) {
    let before = world.peer(TWO).last_logged();
    let logged =
        |w: &World| w.peer(ONE).last_logged() > before && w.peer(TWO).last_logged() > before;
    assert!(within(world, 100, logged), "nothing is proposed");
}

fn block_leader(world: &mut World) {
    for other in [ONE, TWO] {
        world.blocked.extend([(LEADER, other), (other, LEADER)]);
    }
}

#[test]
fn a_write_that_the_next_leader_has_is_answered_and_not_sent_again() {
    let mut world = story(&[ONE, TWO]);
    let before = places(&world);
    world.request(0, create("/a"));
    world.request(1, create("/b"));
    run_until_logged(&mut world);
    world.crash(LEADER);
    let ms = answered(&mut world);
    assert!(ms < 100, "{ms} ms");
    assert_eq!(places(&world), before, "a connection was closed");
    assert_eq!(world.counts.resent, 0);
    assert_eq!((done(&world, 0).len(), done(&world, 1).len()), (1, 1));
}

#[test]
fn writes_that_the_old_leader_never_saw_go_to_the_next_one_in_their_order() {
    let mut world = story(&[ONE, TWO]);
    let before = places(&world);
    block_leader(&mut world);
    for path in ["/a", "/a/1", "/a/2"] {
        world.request(0, create(path));
        world.request(0, Request::Sync { path: "/a".into() });
        world.request(
            0,
            Request::Exists {
                path: path.into(),
                watch: true,
            },
        );
        world.request(1, Request::Multi(vec![create("/b"), create("/c")]));
    }
    world.run_for(10);
    world.blocked.clear();
    world.crash(LEADER);
    world.run_for(2);
    world.request(1, create("/late"));
    answered(&mut world);
    assert_eq!(places(&world), before, "a connection was closed");
    assert!(world.counts.resent > 0);
    assert_eq!((done(&world, 0).len(), done(&world, 1).len()), (3, 4));
}

#[test]
fn a_leader_that_steps_down_keeps_its_clients_too() {
    let mut world = story(&[LEADER, ONE]);
    let before = places(&world);
    block_leader(&mut world);
    world.request(0, create("/a"));
    world.request(0, Request::Sync { path: "/a".into() });
    world.run_for(10);
    assert!(world.peer(LEADER).last_logged() > world.peer(ONE).last_logged());
    for other in [ONE, TWO] {
        world.cut(other, LEADER);
        world.cut(LEADER, other);
    }
    world.update_election_links();
    assert!(within(&mut world, 200, |w| w.leader() == Some(TWO)));
    world.blocked.clear();
    world.update_election_links();
    answered(&mut world);
    assert_eq!(places(&world), before, "a connection was closed");
    assert_eq!(done(&world, 0).len(), 1);
}

#[test]
fn who_gets_the_whole_tree_does_not_know_and_closes() {
    let mut world = story(&[LEADER, ONE]);
    let before = places(&world);
    block_leader(&mut world);
    world.request(0, create("/a"));
    world.run_for(10);
    for other in [ONE, TWO] {
        world.cut(other, LEADER);
        world.cut(LEADER, other);
    }
    world.update_election_links();
    assert!(within(&mut world, 200, |w| w.leader() == Some(TWO)));
    // The old leader's end is no place in the new history now.
    world.request(1, create("/b"));
    answered_by(&mut world, 1);
    let knows = |w: &World| !w.nodes[&LEADER].serving;
    assert!(within(&mut world, 2000, knows), "it leads alone");
    assert_eq!(places(&world), before, "closed too early");
    world.blocked.clear();
    world.update_election_links();
    assert!(within(&mut world, 3000, |w| w.nodes[&LEADER].serving));
    let another = |w: &World| w.clients[0].is_open() && places(w)[0] != before[0];
    assert!(within(&mut world, 1000, another), "it claims to know");
    assert_eq!(places(&world)[1], before[1]);
    assert_eq!(done(&world, 0).len(), 0);
}

fn answered_by(world: &mut World, client: usize) {
    let done = |w: &World| w.clients[client].waits_for() == 0;
    assert!(within(world, 1000, done), "a request is lost");
}

#[test]
fn a_server_without_a_quorum_lets_its_clients_go() {
    let mut world = story(&[ONE]);
    world.crash(LEADER);
    world.crash(TWO);
    world.request(0, create("/a"));
    let since = world.now;
    let bound = world.clients[0].timeout_ms() / 3;
    let connection = places(&world);
    world.run_until(since + bound - 20, |_| false);
    assert_eq!(places(&world), connection, "closed too early");
    let left = |w: &World| places(w) != connection;
    assert!(
        world.run_until(since + bound + 50, left),
        "it does not let go"
    );
    // Who calls now is sent away at once.
    world.run_for(300);
    assert!(!world.clients[0].is_open());
    world.start(TWO);
    world.start(LEADER);
    assert!(within(&mut world, 3000, |w| w.clients[0].is_open()));
    assert_eq!(
        done(&world, 0).len(),
        0,
        "what nobody waits for is not sent again"
    );
}

#[test]
fn a_handshake_waits_for_the_next_leader() {
    let mut world = story(&[ONE, TWO]);
    world.crash(LEADER);
    let looks = |w: &World| !w.nodes[&ONE].serving && !w.nodes[&TWO].serving;
    assert!(within(&mut world, 50, looks));
    world.leave(0, false);
    world.clients[0].lose_session();
    world.leave(1, false);
    world.connect(0, false);
    world.connect(1, false);
    let held = places(&world);
    let open = |w: &World| w.clients.iter().all(|c| c.is_open());
    assert!(within(&mut world, 100, open), "not served");
    assert_eq!(places(&world), held, "a handshake was turned away");
}

/// A client moves from the first server to the second, which the first one's half of the connection outlives; then the
/// leader crashes, and what the client had sent before it moved arrives.
fn late_request_of_a_client_that_moved(world: &mut World) {
    let old = world.clients[0].connection().unwrap();
    let session = world.clients[0].session.unwrap();
    world.request(0, create("/a"));
    answered(world);
    // The first server does not hear of the move before it synchronizes with the next leader.
    world.blocked.insert((LEADER, ONE));
    world.clients[0].only = Some(TWO);
    world.clients[0].disconnect();
    world.connect(0, false);
    assert!(within(world, 100, |w| w.clients[0].is_open()));
    world.request(0, create("/b"));
    answered(world);
    world.blocked.clear();
    world.crash(LEADER);
    world.cut(ONE, LEADER);
    let looks = |w: &World| !w.nodes[&ONE].serving;
    assert!(within(world, 50, looks));
    late(world, old, session);
    assert!(within(world, 500, |w| w.nodes[&ONE].serving));
    late(world, old, session);
    world.run_for(100);
}

fn late(world: &mut World, old: ConnectionId, session: SessionId) {
    let request = create("/late");
    let same = world.checkers.requests.entry((session, 1)).or_default();
    *same = vec![request.clone()];
    world.server_hears(old, ToServer::Request(1, request));
}

#[test]
fn what_a_client_sent_before_it_moved_is_not_done_after_it() {
    let mut world = story(&[ONE]);
    let session = world.clients[0].session;
    late_request_of_a_client_that_moved(&mut world);
    assert_eq!(world.clients[0].session, session);
    assert_eq!(done(&world, 0).len(), 2);
}

/// The proof of the proof: if a server did send a request that the next leader has in its history once more, the checkers would
/// see it.
#[test]
#[should_panic(expected = "after the session's request")]
fn a_request_that_is_sent_twice_is_noticed() {
    let mut world = story(&[ONE, TWO]);
    world.request(0, create("/a"));
    run_until_logged(&mut world);
    let twice = world.last_forwarded.clone().unwrap();
    world.crash(LEADER);
    answered(&mut world);
    let leader = world.leader().unwrap();
    let links = world.ends.keys().filter(|end| end.0 == leader);
    let link = links
        .map(|end| end.2)
        .find(|link| world.peer(leader).learner_of(*link) == Some(ONE));
    let packet = Packet::Request(twice);
    match link {
        Some(link) => world.step(leader, Input::Packet { link, packet }),
        None => panic!("the first server should follow"),
    }
    world.run_for(50);
}
