//! Each rule has a history that breaks it and nothing else; good histories break none.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use node_history::{Call, Change, Done, Event, NodeState, Refusal, Reply, Rule, check, check_all};

#[derive(Default)]
struct Story {
    events: Vec<Event>,
    ops: u64,
}

fn node(value: u64, version: i32, czxid: i64, mzxid: i64) -> NodeState {
    NodeState {
        value,
        version,
        czxid,
        mzxid,
        owner: 0,
    }
}

fn create(path: &str, value: u64) -> Call {
    Call::Write(vec![Change::Create {
        path: path.into(),
        value,
        ephemeral: false,
        sequential: false,
    }])
}

fn ephemeral(path: &str, value: u64) -> Call {
    Call::Write(vec![Change::Create {
        path: path.into(),
        value,
        ephemeral: true,
        sequential: false,
    }])
}

fn set(path: &str, value: u64) -> Call {
    Call::Write(vec![Change::Set {
        path: path.into(),
        value,
        version: None,
    }])
}

fn get(path: &str) -> Call {
    let (path, watch) = (path.into(), false);
    Call::Get { path, watch }
}

fn watching(path: &str) -> Call {
    let (path, watch) = (path.into(), true);
    Call::Get { path, watch }
}

fn created(path: &str) -> Result<Reply, Refusal> {
    Ok(Reply::Written(vec![Done::Created(path.into())]))
}

fn set_to(version: i32) -> Result<Reply, Refusal> {
    Ok(Reply::Written(vec![Done::Set(version)]))
}

fn op_of(event: &Event) -> Option<u64> {
    match event {
        Event::Invoke { op, .. } | Event::Return { op, .. } => Some(*op),
        _ => None,
    }
}

impl Story {
    fn ask(&mut self, session: i64, call: Call) -> u64 {
        self.ops += 1;
        let op = self.ops;
        self.events.push(Event::Invoke { op, session, call });
        op
    }

    fn answer(&mut self, op: u64, zxid: i64, result: Result<Reply, Refusal>) {
        self.events.push(Event::Return { op, zxid, result });
    }

    fn done(&mut self, session: i64, call: Call, zxid: i64, result: Result<Reply, Refusal>) {
        let op = self.ask(session, call);
        self.answer(op, zxid, result);
    }

    /// Session 1 creates /a with the value 1 at zxid 1.
    fn with_node() -> Self {
        let mut story = Self::default();
        story.events.push(Event::Connected { session: 1 });
        story.done(1, create("/a", 1), 1, created("/a"));
        story
    }

    fn is_good(&self) {
        let (_, violations) = check_all(&self.events);
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// Exactly this promise is broken, and what is reported shows it by itself; without any of it there is nothing wrong.
    fn breaks(&self, rule: Rule) {
        let alone = self.breaks_only(rule);
        for left_out in &alone {
            let op = op_of(left_out);
            let fewer = alone.iter().filter(|event| match op {
                Some(op) => op_of(event) != Some(op),
                None => event != &left_out,
            });
            let (_, left) = check_all(&fewer.cloned().collect::<Vec<_>>());
            assert!(
                left.iter().all(|v| v.rule != rule),
                "{left_out:?} is not needed"
            );
        }
    }

    fn breaks_only(&self, rule: Rule) -> Vec<Event> {
        let (_, violations) = check_all(&self.events);
        assert!(!violations.is_empty(), "nothing was found");
        for violation in &violations {
            assert_eq!(violation.rule, rule, "{}", violation.report(&self.events));
        }
        let shortest = check(&self.events).unwrap_err();
        let alone: Vec<Event> = shortest.shortest(&self.events).cloned().collect();
        let (_, again) = check_all(&alone);
        assert!(
            again.iter().any(|v| v.rule == rule),
            "not by itself: {}",
            shortest.report(&self.events)
        );
        alone
    }
}

#[test]
fn what_happens_in_order_is_good() {
    let mut story = Story::with_node();
    story.done(2, watching("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.done(1, set("/a", 2), 2, set_to(1));
    story.events.push(Event::Fired {
        session: 2,
        path: "/a".into(),
    });
    story.done(2, get("/a"), 2, Ok(Reply::Node(node(2, 1, 1, 2))));
    story.done(2, create("/a", 3), 3, Err(Refusal::NodeExists));
    story.done(1, set("/b", 4), 4, Err(Refusal::NoNode));
    let multi = Call::Write(vec![
        Change::Set {
            path: "/a".into(),
            value: 5,
            version: Some(1),
        },
        Change::Delete {
            path: "/a".into(),
            version: None,
        },
    ]);
    let both = Ok(Reply::Written(vec![Done::Set(2), Done::Deleted]));
    story.done(1, multi, 5, both);
    story.done(2, get("/a"), 5, Ok(Reply::Absent));
    story.is_good();
    let summary = check(&story.events).unwrap();
    assert_eq!((summary.writes, summary.reads, summary.fired), (5, 3, 1));
}

#[test]
fn a_lagging_server_may_show_the_past_to_others() {
    let mut story = Story::with_node();
    story.done(1, set("/a", 2), 2, set_to(1));
    story.done(2, get("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.done(3, get("/a"), 0, Ok(Reply::Absent));
    story.is_good();
}

#[test]
fn a_write_without_an_answer_may_be_there_or_not() {
    let mut story = Story::with_node();
    story.ask(2, set("/a", 2));
    story.done(1, get("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.is_good();
    story.done(1, get("/a"), 5, Ok(Reply::Node(node(2, 1, 1, 4))));
    story.is_good();
    // Or somebody's version shows that it was there.
    let mut story = Story::with_node();
    story.ask(2, set("/a", 2));
    story.done(1, set("/a", 3), 7, set_to(2));
    story.is_good();
}

#[test]
fn a_deletion_without_an_answer_explains_one_absence() {
    let mut story = Story::with_node();
    story.ask(
        2,
        Call::Write(vec![Change::Delete {
            path: "/a".into(),
            version: None,
        }]),
    );
    story.done(1, create("/a", 2), 5, created("/a"));
    story.is_good();
    story.done(1, create("/a", 3), 6, created("/a"));
    story.breaks(Rule::NothingLost);
}

#[test]
fn an_ended_session_takes_its_nodes_along() {
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.done(1, Call::Close, 2, Ok(Reply::Done));
    story.done(2, get("/e"), 2, Ok(Reply::Absent));
    story.is_good();
    // Nobody needs to be told of an end.
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.done(2, get("/e"), 9, Ok(Reply::Absent));
    story.is_good();
}

#[test]
fn a_write_before_one_that_was_acknowledged_earlier() {
    let mut story = Story::with_node();
    story.done(1, create("/b", 2), 9, created("/b"));
    story.done(2, create("/c", 3), 5, created("/c"));
    story.breaks(Rule::LinearizableWrites);
}

#[test]
fn two_writes_at_one_place() {
    let mut story = Story::with_node();
    let (b, c) = (story.ask(2, create("/b", 2)), story.ask(3, create("/c", 3)));
    story.answer(b, 5, created("/b"));
    story.answer(c, 5, created("/c"));
    story.breaks(Rule::LinearizableWrites);
}

#[test]
fn writes_that_run_side_by_side_have_any_order() {
    let mut story = Story::with_node();
    let (b, c) = (story.ask(2, create("/b", 2)), story.ask(3, create("/c", 3)));
    story.answer(b, 6, created("/b"));
    story.answer(c, 5, created("/c"));
    story.is_good();
}

#[test]
fn a_session_whose_writes_change_places() {
    let mut story = Story::default();
    let (a, b) = (story.ask(1, create("/a", 1)), story.ask(1, create("/b", 2)));
    story.answer(a, 6, created("/a"));
    story.answer(b, 5, created("/b"));
    story.breaks(Rule::SessionOrder);
}

#[test]
fn an_answer_that_overtakes() {
    let mut story = Story::with_node();
    story.ask(2, get("/a"));
    let second = story.ask(2, get("/b"));
    story.answer(second, 1, Ok(Reply::Absent));
    story.breaks(Rule::SessionOrder);
}

#[test]
fn a_session_that_goes_back_at_another_server() {
    let mut story = Story::with_node();
    story.done(2, get("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
    let forgets_watches = false;
    story.events.push(Event::Disconnected {
        session: 2,
        forgets_watches,
    });
    story.events.push(Event::Connected { session: 2 });
    story.done(2, get("/b"), 0, Ok(Reply::Absent));
    story.breaks(Rule::MonotonicReads);
}

#[test]
fn data_before_its_watch() {
    let mut story = Story::with_node();
    story.done(2, watching("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.done(1, set("/a", 2), 2, set_to(1));
    story.done(2, get("/b"), 2, Ok(Reply::Absent));
    story.breaks(Rule::WatchFirst);
}

#[test]
fn a_watch_that_a_client_forgets_is_not_missed() {
    for forgets_watches in [true, false] {
        let mut story = Story::with_node();
        story.done(2, watching("/a"), 1, Ok(Reply::Node(node(1, 0, 1, 1))));
        story.events.push(Event::Disconnected {
            session: 2,
            forgets_watches,
        });
        story.done(1, set("/a", 2), 2, set_to(1));
        story.done(2, get("/b"), 2, Ok(Reply::Absent));
        if forgets_watches {
            story.is_good();
        } else {
            story.breaks(Rule::WatchFirst);
        }
    }
}

#[test]
fn a_node_of_a_closed_session() {
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.done(1, Call::Close, 2, Ok(Reply::Done));
    let mut left = node(1, 0, 1, 1);
    left.owner = 1;
    story.done(2, get("/e"), 2, Ok(Reply::Node(left)));
    story.breaks(Rule::EphemeralOutlives);
}

#[test]
fn a_node_of_an_expired_session() {
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.events.push(Event::Expired { session: 1 });
    let mut left = node(1, 0, 1, 1);
    left.owner = 1;
    // A server that lags may show it.
    story.done(3, get("/e"), 1, Ok(Reply::Node(left)));
    story.done(2, create("/b", 2), 3, created("/b"));
    story.is_good();
    story.done(2, get("/e"), 3, Ok(Reply::Node(left)));
    story.breaks(Rule::EphemeralOutlives);
}

#[test]
fn a_node_that_goes_before_its_session() {
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.done(2, get("/e"), 5, Ok(Reply::Absent));
    story.done(1, create("/b", 2), 7, created("/b"));
    story.breaks(Rule::EphemeralEarly);
}

#[test]
fn a_session_that_comes_back_without_its_node() {
    let mut story = Story::default();
    story.done(1, ephemeral("/e", 1), 1, created("/e"));
    story.done(2, get("/e"), 5, Ok(Reply::Absent));
    story.events.push(Event::Connected { session: 1 });
    story.breaks(Rule::EphemeralEarly);
}

#[test]
fn a_lost_write_that_happens_twice() {
    let mut story = Story::with_node();
    story.ask(2, set("/a", 2));
    story.done(1, get("/a"), 3, Ok(Reply::Node(node(2, 1, 1, 3))));
    story.done(1, set("/a", 3), 4, set_to(2));
    story.done(1, get("/a"), 5, Ok(Reply::Node(node(2, 3, 1, 5))));
    story.breaks(Rule::AtMostOnce);
}

#[test]
fn a_refused_write_that_shows() {
    let mut story = Story::with_node();
    story.done(2, set("/a", 2), 2, Err(Refusal::Other));
    story.done(1, get("/a"), 3, Ok(Reply::Node(node(2, 1, 1, 2))));
    story.breaks(Rule::AtMostOnce);
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    let mut story = Story::with_node();
    story.done(1, set("/a", 2), 2, set_to(1));
    story.done(2, get("/a"), 3, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.breaks(Rule::NothingLost);
}

#[test]
fn an_acknowledged_node_that_is_lost() {
    let mut story = Story::with_node();
    story.done(2, get("/a"), 3, Ok(Reply::Absent));
    story.breaks(Rule::NothingLost);
}

#[test]
fn a_deleted_node_that_comes_back() {
    let mut story = Story::with_node();
    let path = || "/a".to_owned();
    let delete = Call::Write(vec![Change::Delete {
        path: path(),
        version: None,
    }]);
    story.done(1, delete, 2, Ok(Reply::Written(vec![Done::Deleted])));
    story.done(2, get("/a"), 3, Ok(Reply::Node(node(1, 0, 1, 1))));
    story.breaks(Rule::NothingLost);
}

#[test]
fn a_value_that_nobody_wrote() {
    let mut story = Story::with_node();
    story.done(2, get("/b"), 3, Ok(Reply::Node(node(77, 0, 3, 3))));
    story.breaks(Rule::RightAnswer);
}

#[test]
fn a_version_that_jumps() {
    let mut story = Story::with_node();
    story.done(1, set("/a", 2), 2, set_to(2));
    story.breaks_only(Rule::RightAnswer);
}

#[test]
fn a_version_that_is_refused_though_it_is_right() {
    let mut story = Story::with_node();
    let asks = Call::Write(vec![Change::Set {
        path: "/a".into(),
        value: 2,
        version: Some(0),
    }]);
    story.done(2, asks, 2, Err(Refusal::BadVersion));
    story.breaks(Rule::RightAnswer);
}

#[test]
fn a_node_that_went_with_its_session_and_was_made_anew_has_another_version() {
    let mut story = Story::default();
    story.done(1, ephemeral("/a", 1), 1, created("/a"));
    story.done(1, set("/a", 2), 2, set_to(1));
    story.ask(2, create("/a", 3));
    let asks = Call::Write(vec![Change::Set {
        path: "/a".into(),
        value: 4,
        version: Some(1),
    }]);
    story.done(3, asks, 5, Err(Refusal::BadVersion));
    story.is_good();
}
