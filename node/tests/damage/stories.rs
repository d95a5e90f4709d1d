//! Stories about empty and damaged disks, one by one.

use node::storage::doubt;
use node::storage::simulated::Keep;
use node_core::standing::Standing;

use crate::ensemble::{DATA, Ensemble, MEMBERS};

fn started(members: &[i64]) -> Ensemble {
    let mut ensemble = Ensemble::new();
    for id in members {
        ensemble.start(*id);
    }
    ensemble
}

fn running() -> Ensemble {
    let mut ensemble = started(&MEMBERS);
    assert!(ensemble.run(5_000, Ensemble::is_settled));
    ensemble
}

fn voting(ensemble: &Ensemble, id: i64) -> bool {
    ensemble.running(id).unwrap().peer.standing() == Standing::Whole
}

#[test]
fn an_ensemble_of_new_members_begins_by_itself_when_all_are_there() {
    let mut ensemble = started(&[1, 2]);
    assert!(!ensemble.run(60_000, |e| e.leader().is_some()));
    let why = ensemble.running(1).unwrap().not_voting.clone().unwrap();
    assert!(why.contains("the voters 3 have none either"), "{why}");
    ensemble.start(3);
    assert!(ensemble.run(5_000, Ensemble::is_settled));
    ensemble.write(10);
    for id in MEMBERS {
        assert!(voting(&ensemble, id));
    }
}

#[test]
fn members_that_began_and_wrote_nothing_begin_again_without_each_other() {
    let mut ensemble = running();
    for id in MEMBERS {
        ensemble.stop(id, Some(Keep::Nothing));
    }
    ensemble.start(1);
    ensemble.start(2);
    assert!(ensemble.run(5_000, Ensemble::is_settled));
}

#[test]
fn a_person_can_say_that_an_empty_member_is_new() {
    let mut ensemble = Ensemble::new();
    for id in [1, 2] {
        use node::storage::files::{FileSystem, Open};
        let disk = &ensemble.members[&id].disk;
        disk.create_dir_all(DATA.as_ref()).unwrap();
        let path = std::path::Path::new(DATA).join(node::store::INITIALIZE);
        let file = disk.open_write(&path, Open::New).unwrap();
        file.sync_all().unwrap();
        disk.sync_dir(DATA.as_ref()).unwrap();
        ensemble.start(id);
        let disk = &ensemble.members[&id].disk;
        assert_eq!(disk.content(&path), None, "it counts once");
    }
    assert!(ensemble.run(5_000, Ensemble::is_settled));
}

#[test]
fn an_emptied_member_does_not_help_one_that_lags_to_a_majority() {
    let mut ensemble = running();
    ensemble.write(10);
    let lagging = MEMBERS
        .into_iter()
        .find(|id| Some(*id) != ensemble.leader())
        .unwrap();
    ensemble.stop(lagging, None);
    for _ in 0..5 {
        ensemble.write(10);
    }
    let leader = ensemble.leader().unwrap();
    let wiped = 6 - lagging - leader;
    for id in [leader, wiped] {
        ensemble.stop(id, Some(Keep::Nothing));
    }
    ensemble.members[&wiped].disk.wipe();
    ensemble.start(lagging);
    ensemble.start(wiped);
    assert!(
        !ensemble.run(300_000, |e| e.leader().is_some()),
        "what both others had is missing"
    );
    let why = ensemble.running(wiped).unwrap().not_voting.clone();
    assert!(why.unwrap().contains("this server has no history"));
    // It does not forget over a restart that it may not vote.
    ensemble.stop(wiped, Some(Keep::Nothing));
    ensemble.start(wiped);
    assert!(!ensemble.run(100_000, |e| e.leader().is_some()));
    ensemble.start(leader);
    assert!(ensemble.run(60_000, Ensemble::is_settled));
    for id in MEMBERS {
        assert_eq!(ensemble.missing(id), Vec::<&String>::new());
        assert!(voting(&ensemble, id));
    }
    ensemble.stop(leader, Some(Keep::Nothing));
    assert!(
        ensemble.run(60_000, Ensemble::is_settled),
        "the member that was emptied is as good as any"
    );
    assert_eq!(ensemble.missing(wiped), Vec::<&String>::new());
}

#[test]
fn a_member_that_crashes_at_any_moment_of_its_repair_is_repaired() {
    let mut base = running();
    for _ in 0..5 {
        base.write(600);
    }
    for id in MEMBERS {
        base.stop(id, None);
    }
    let follower = 1;
    base.members[&follower]
        .disk
        .rot(&log_of(&base, follower), |bytes| bytes[100] ^= 1);
    let fork = |base: &Ensemble| {
        let disks = base.members.iter().map(|(id, m)| (*id, m.disk.duplicate()));
        Ensemble::on(disks.collect(), base.acknowledged.clone())
    };
    let mut points = 0;
    loop {
        let mut ensemble = fork(&base);
        ensemble.start(2);
        ensemble.start(3);
        let before = ensemble.members[&follower].disk.operations();
        ensemble.members[&follower]
            .disk
            .set_faults(|faults| faults.power_until = Some(before + points));
        ensemble.start(follower);
        let whole = ensemble.run(20_000, |e| e.up().len() == 3 && e.is_settled());
        ensemble.stop(follower, Some(Keep::Some(points)));
        ensemble.start(follower);
        assert!(
            ensemble.run(60_000, |e| e.up().len() == 3 && e.is_settled()),
            "after a crash at operation {points}: {:?}",
            ensemble.members[&follower].failed
        );
        assert_eq!(ensemble.missing(follower), Vec::<&String>::new());
        assert!(
            ensemble.has_kept_files(follower),
            "after operation {points}"
        );
        if whole {
            break;
        }
        points += 1;
    }
    assert!(points > 30, "only {points} points");
}

fn log_of(ensemble: &Ensemble, id: i64) -> std::path::PathBuf {
    let paths = ensemble.members[&id].disk.paths();
    let is_log = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/log.");
    paths.iter().rfind(is_log).unwrap().clone()
}

#[test]
fn the_note_of_a_member_without_a_vote_is_there_for_a_person_to_read() {
    let mut ensemble = started(&[1]);
    ensemble.run(1_000, |_| false);
    let note = std::path::Path::new(DATA)
        .join("version-2")
        .join(doubt::FILE);
    let text = ensemble.members[&1].disk.content(&note).unwrap();
    assert!(String::from_utf8(text).unwrap().starts_with("empty\n"));
}
