//! The campaign: generated damage, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use node::storage::simulated::{Keep, SimDisk};
use node_core::standing::Standing;
use node_core::zxid::{Epoch, Zxid};

use crate::ensemble::{Ensemble, MEMBERS};

/// The sector of a disk.
const SECTOR: usize = 512;

/// What is done to a file, at a place in 0..1000 of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    FlippedBit,
    ZeroedSector,
    ZeroedBlock,
    Garbage,
    /// A sector holds what belongs elsewhere in the file.
    Misdirected,
    CutOff,
    Emptied,
    Lost,
}

const KINDS: [Kind; 8] = [
    Kind::FlippedBit,
    Kind::ZeroedSector,
    Kind::ZeroedBlock,
    Kind::Garbage,
    Kind::Misdirected,
    Kind::CutOff,
    Kind::Emptied,
    Kind::Lost,
];

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It was where nobody reads: before the newest snapshot, or in the room after the end. Everything was there, and
    /// everybody voted at once.
    Harmless,
    /// Found, and repaired from the member's own other files.
    RepairedByItself,
    /// Found, and repaired by a leader.
    RepairedByLeader,
    /// Found on so many members that none of the others may lead: they wait, and say why.
    WaitsAndSaysWhy,
}

#[derive(Clone, Debug)]
struct Case {
    world: usize,
    file: PathBuf,
    kind: Kind,
    place: usize,
    members: Vec<i64>,
}

/// Members with a history of several epochs, snapshots and log files, all stopped.
fn world(number: usize) -> Ensemble {
    let mut ensemble = Ensemble::new();
    for id in MEMBERS {
        ensemble.start(id);
    }
    let lagging = [None, Some(1), Some(2)][number % 3];
    for epoch in 0..3 {
        assert!(ensemble.run(60_000, Ensemble::is_settled), "epoch {epoch}");
        for n in 0..6 {
            ensemble.write(30 + 400 * (n % 3));
            if n == 3 {
                for id in ensemble.up() {
                    if epoch > 0 || id != 2 {
                        ensemble.snapshot(id, number > 2);
                    }
                }
            }
        }
        let leader = ensemble.leader().unwrap();
        ensemble.stop(
            leader,
            if number.is_multiple_of(2) {
                None
            } else {
                Some(Keep::Nothing)
            },
        );
        if epoch == 1
            && let Some(lagging) = lagging
        {
            if lagging != leader {
                ensemble.stop(lagging, None);
                ensemble.start(leader);
            }
        } else {
            ensemble.start(leader);
        }
    }
    assert!(ensemble.run(60_000, Ensemble::is_settled));
    ensemble.write(700);
    // The machines keep what the system had in memory in half of the worlds.
    for id in ensemble.up() {
        ensemble.stop(id, if number < 3 { None } else { Some(Keep::All) });
    }
    ensemble
}

fn fork(world: &Ensemble) -> Ensemble {
    let disks = world
        .members
        .iter()
        .map(|(id, m)| (*id, m.disk.duplicate()));
    Ensemble::on(disks.collect(), world.acknowledged.clone())
}

/// A world, and where each member's history and epochs end in it.
struct World {
    ensemble: Ensemble,
    before: BTreeMap<i64, (Zxid, Epoch, Epoch)>,
}

impl World {
    fn new(number: usize) -> Self {
        let ensemble = world(number);
        let mut started = fork(&ensemble);
        let before = MEMBERS.map(|id| {
            started.start(id);
            let peer = &started.running(id).expect("it starts").peer;
            (
                id,
                (
                    peer.last_logged(),
                    peer.accepted_epoch(),
                    peer.current_epoch(),
                ),
            )
        });
        Self {
            before: before.into(),
            ensemble,
        }
    }
}

/// Does the damage; false if the file stayed as it was.
fn damage(disk: &SimDisk, file: &Path, kind: Kind, place: usize) -> bool {
    let Some(before) = disk.content(file) else {
        return false;
    };
    if kind == Kind::Lost {
        disk.lose(file);
        return true;
    }
    disk.rot(file, |bytes| {
        if bytes.is_empty() {
            return;
        }
        let at = place * bytes.len() / 1000;
        let sector = at / SECTOR * SECTOR;
        let end = |len: usize| (sector + len).min(bytes.len());
        match kind {
            Kind::FlippedBit => bytes[at] ^= 1 << (place % 8),
            Kind::ZeroedSector => {
                let end = end(SECTOR);
                bytes[sector..end].fill(0);
            }
            Kind::ZeroedBlock => {
                let end = end(4096);
                bytes[sector..end].fill(0);
            }
            Kind::Garbage => {
                let end = end(SECTOR);
                for (n, byte) in bytes[sector..end].iter_mut().enumerate() {
                    *byte = (n * 31 + place) as u8 ^ 0xa5;
                }
            }
            Kind::Misdirected => {
                let end = end(SECTOR);
                let from = (sector + 3 * SECTOR) % bytes.len();
                let other: Vec<u8> = bytes
                    .iter()
                    .cycle()
                    .skip(from)
                    .take(end - sector)
                    .copied()
                    .collect();
                bytes[sector..end].copy_from_slice(&other);
            }
            Kind::CutOff => bytes.truncate(at),
            Kind::Emptied => bytes.clear(),
            Kind::Lost => unreachable!("done above"),
        }
    });
    disk.content(file).as_ref() != Some(&before)
}

/// The files of a world by their names, on whatever member they are.
fn files(world: &Ensemble) -> Vec<PathBuf> {
    let all = world
        .members
        .values()
        .flat_map(|member| member.disk.paths());
    let mut files: Vec<PathBuf> = all.collect();
    files.sort();
    files.dedup();
    files
}

fn cases(worlds: &[World]) -> Vec<Case> {
    let sets: [&[i64]; 5] = [&[1], &[2], &[3], &[1, 3], &[1, 2, 3]];
    let mut cases = Vec::new();
    for (number, world) in worlds.iter().enumerate() {
        for (nth, file) in files(&world.ensemble).into_iter().enumerate() {
            for kind in KINDS {
                let places: &[usize] = match kind {
                    Kind::Emptied | Kind::Lost => &[0],
                    Kind::FlippedBit => &[0, 130, 480, 770, 999],
                    _ => &[60, 510, 980],
                };
                for place in places {
                    // Every case on one member; on several of them one set after the other.
                    let several = sets[3 + (nth + place) % 2];
                    let one = sets[(nth + place + kind as usize) % 3];
                    for members in [one, several] {
                        cases.push(Case {
                            world: number,
                            file: file.clone(),
                            kind,
                            place: (place + nth * 7) % 1000,
                            members: members.to_vec(),
                        });
                    }
                }
            }
        }
    }
    cases
}

fn play(world: &World, case: &Case) -> Option<Outcome> {
    let mut ensemble = fork(&world.ensemble);
    let changed = case.members.iter().filter(|id| {
        let disk = &ensemble.members[id].disk;
        damage(disk, &case.file, case.kind, case.place)
    });
    if changed.count() == 0 {
        return None;
    }
    for id in MEMBERS {
        ensemble.start(id);
        let failed = &ensemble.members[&id].failed;
        assert!(
            failed.is_none(),
            "{case:?}: {id} does not start: {failed:?}"
        );
    }
    let standing = |id: i64| ensemble.members[&id].standing;
    let lost: Vec<i64> = MEMBERS
        .into_iter()
        .filter(|id| standing(*id) != Some(Standing::Whole))
        .collect();
    // Who says that it is whole has all that it had: nothing was cut off for the leader to fill in.
    for id in MEMBERS.into_iter().filter(|id| !lost.contains(id)) {
        let peer = &ensemble.running(id).unwrap().peer;
        let epochs = (peer.accepted_epoch(), peer.current_epoch());
        let (last, accepted, current) = world.before[&id];
        assert_eq!(peer.last_logged(), last, "{case:?}: {id}");
        assert_eq!(epochs, (accepted, current), "{case:?}: {id}");
    }
    if lost.len() > 1 {
        waits(&mut ensemble, &lost, case);
        return Some(Outcome::WaitsAndSaysWhy);
    }
    assert!(
        ensemble.run(60_000, Ensemble::is_settled),
        "{case:?}: no leader, or not everybody votes; lost: {lost:?}"
    );
    for id in MEMBERS {
        assert_eq!(
            ensemble.missing(id),
            Vec::<&String>::new(),
            "{case:?}: lost on {id}"
        );
    }
    for id in &lost {
        assert!(ensemble.has_kept_files(*id), "{case:?}");
    }
    if case.place.is_multiple_of(4) {
        survives_a_power_failure(&mut ensemble, case);
    }
    let is_read = match group(&case.file) {
        "log" => false,
        // An older one is not opened.
        "snapshot" => case.members.iter().any(|id| {
            let paths = world.ensemble.members[id].disk.paths();
            paths.iter().rfind(|path| group(path) == "snapshot") == Some(&case.file)
        }),
        _ => true,
    };
    Some(match lost.len() {
        0 if is_read => Outcome::RepairedByItself,
        0 => Outcome::Harmless,
        _ => Outcome::RepairedByLeader,
    })
}

/// Nobody leads, and each damaged member says why.
fn waits(ensemble: &mut Ensemble, lost: &[i64], case: &Case) {
    assert!(
        !ensemble.run(8_000, |e| e.leader().is_some()),
        "{case:?}: an ensemble without its history"
    );
    for id in lost {
        let why = ensemble.running(*id).unwrap().not_voting.as_ref();
        assert!(
            why.is_some_and(|why| why.contains("damaged")),
            "{case:?}: {why:?}"
        );
        assert!(ensemble.has_kept_files(*id), "{case:?}");
    }
}

/// It goes on, and after everybody lost power all of it is there.
fn survives_a_power_failure(ensemble: &mut Ensemble, case: &Case) {
    ensemble.write(100);
    for id in MEMBERS {
        ensemble.stop(id, Some(Keep::Nothing));
    }
    for id in MEMBERS {
        ensemble.start(id);
        assert_eq!(
            ensemble.members[&id].standing,
            Some(Standing::Whole),
            "{case:?}"
        );
    }
    assert!(ensemble.run(60_000, Ensemble::is_settled), "{case:?}");
    for id in MEMBERS {
        assert_eq!(
            ensemble.missing(id),
            Vec::<&String>::new(),
            "{case:?}: lost on {id}"
        );
    }
}

type Counts = BTreeMap<(Outcome, &'static str), usize>;

fn group(file: &Path) -> &'static str {
    let name = file.file_name().unwrap().to_string_lossy();
    [
        "log",
        "snapshot",
        "acceptedEpoch",
        "currentEpoch",
        "marks",
        "ends",
    ]
    .into_iter()
    .find(|part| name.starts_with(part) || name.ends_with(part))
    .unwrap_or("other")
}

#[test]
fn every_damage_is_found_and_repaired_or_told() {
    let worlds: Vec<World> = (0..6).map(World::new).collect();
    let cases = cases(&worlds);
    println!("{} cases are generated", cases.len());
    let share = |nth: usize| {
        let mut counts = Counts::new();
        for case in cases.iter().skip(nth).step_by(2) {
            if let Some(outcome) = play(&worlds[case.world], case) {
                *counts.entry((outcome, group(&case.file))).or_default() += 1;
            }
        }
        counts
    };
    let mut counts = share_out(&share);
    for ((outcome, group), count) in &counts {
        println!("{outcome:?} {group}: {count}");
    }
    let played: usize = counts.values().sum();
    println!("{played} cases");
    assert!(played >= 2_000, "only {played} cases");
    counts.retain(|(outcome, _), _| *outcome == Outcome::RepairedByLeader);
    assert!(!counts.is_empty());
}

/// Half of the cases in a thread of its own: they have nothing in common.
fn share_out(share: &(impl Fn(usize) -> Counts + Sync)) -> Counts {
    std::thread::scope(|scope| {
        let half = scope.spawn(|| share(1));
        let mut counts = share(0);
        for (key, count) in half.join().expect("the other half") {
            *counts.entry(key).or_default() += count;
        }
        counts
    })
}
