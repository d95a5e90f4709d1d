//! What happens to ensembles: each scenario is a start, and phases in which somebody or something acts.

use operator::cluster::Role;
use serde_json::{Value, json};

use super::api_model::{Key, World};
use super::sim::ensemble_key;

/// A story.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// The spec that is installed before it begins; none: the first phase makes the ensemble.
    pub start: Option<Value>,
    pub phases: Vec<Phase>,
}

/// One thing that happens, and what is to come of it.
#[derive(Clone)]
pub struct Phase {
    pub name: &'static str,
    pub act: fn(&mut World),
    pub then: Then,
}

/// What is to come of a phase.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// The spec, and rest.
    Converge,
    /// The status says these words.
    Say(&'static str),
    /// This many passes go by, in which a quorum serves.
    Serve(u64),
    /// This many passes go by.
    Pass(u64),
    /// Minutes go by, with a pass now and then.
    Wait(u64),
}

fn converge(name: &'static str, act: fn(&mut World)) -> Phase {
    Phase {
        name,
        act,
        then: Then::Converge,
    }
}

fn then(name: &'static str, act: fn(&mut World), then: Then) -> Phase {
    Phase { name, act, then }
}

/// A spec by its numbers.
pub fn spec(voters: u32, observers: u32) -> Value {
    json!({"voters": {"replicas": voters}, "observers": {"replicas": observers}})
}

fn scenario(name: &'static str, start: Value, phases: Vec<Phase>) -> Scenario {
    Scenario {
        name,
        start: Some(start),
        phases,
    }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    [
        sizes(),
        changes(),
        policies(),
        mistakes(),
        losses(),
        endings(),
        nodes(),
        farewells(),
        lives(),
    ]
    .concat()
}

fn voters(world: &mut World, count: u32) {
    world.edit_spec(|spec| spec["voters"]["replicas"] = json!(count));
}

fn observers(world: &mut World, count: u32) {
    world.edit_spec(|spec| spec["observers"]["replicas"] = json!(count));
}

fn sizes() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "install 3+2",
            start: None,
            phases: vec![converge("create", |world| {
                world.create_ensemble(spec(3, 2))
            })],
        },
        scenario(
            "voters 1 to 3 to 5 to 3 to 1 to 3",
            spec(1, 0),
            vec![
                converge("3", |world| voters(world, 3)),
                converge("5", |world| voters(world, 5)),
                converge("3 again", |world| voters(world, 3)),
                converge("1", |world| voters(world, 1)),
                converge("3 at last", |world| voters(world, 3)),
            ],
        ),
        scenario(
            "observers 0 to 4 to 2 to 0",
            spec(3, 0),
            vec![
                converge("4", |world| observers(world, 4)),
                converge("2", |world| observers(world, 2)),
                converge("0", |world| observers(world, 0)),
            ],
        ),
        scenario(
            "scaled away with the data kept",
            json!({"voters": {"replicas": 3}, "observers": {"replicas": 1}, "storage": {"whenScaledDown": "Retain"}}),
            vec![
                converge("fewer", |world| observers(world, 0)),
                converge("more", |world| observers(world, 2)),
                converge("one voter", |world| voters(world, 1)),
            ],
        ),
    ]
}

fn changes() -> Vec<Scenario> {
    vec![
        scenario(
            "rolling restarts",
            spec(3, 2),
            vec![
                converge("config", |world| {
                    world.edit_spec(|spec| spec["config"]["tickTime"] = json!(2500))
                }),
                converge("image", |world| {
                    world.edit_spec(|spec| spec["image"] = json!("node:2"))
                }),
                converge("asked for", |world| {
                    world.edit_spec(|spec| spec["restartedAt"] = json!("now"))
                }),
            ],
        ),
        scenario(
            "restarts without a spare",
            spec(1, 1),
            vec![converge("config", |world| {
                world.edit_spec(|spec| spec["config"]["tickTime"] = json!(2500))
            })],
        ),
        scenario(
            "volumes grow",
            spec(3, 1),
            vec![converge("20Gi", |world| {
                world.edit_spec(|spec| spec["storage"]["size"] = json!("20Gi"))
            })],
        ),
    ]
}

/// What the operator may do, and all kinds of changes together.
fn policies() -> Vec<Scenario> {
    vec![
        scenario(
            "paused",
            spec(3, 0),
            vec![
                then(
                    "more voters, but not now",
                    |world| {
                        world.edit_spec(|spec| spec["updatePolicy"]["pause"] = json!(true));
                        voters(world, 5);
                    },
                    Then::Serve(20),
                ),
                converge("now", |world| {
                    world.edit_spec(|spec| spec["updatePolicy"]["pause"] = json!(false))
                }),
            ],
        ),
        scenario(
            "policies switched off and on",
            spec(3, 1),
            vec![
                converge("off", |world| {
                    world.edit_spec(|spec| {
                        spec["networkPolicy"]["enabled"] = json!(false);
                        spec["podDisruptionBudget"]["enabled"] = json!(false);
                    });
                }),
                converge("on", |world| {
                    world.edit_spec(|spec| {
                        spec["networkPolicy"]["enabled"] = json!(true);
                        spec["podDisruptionBudget"]["enabled"] = json!(true);
                    });
                }),
            ],
        ),
        scenario(
            "everything at once",
            spec(3, 2),
            vec![converge("all", |world| {
                world.edit_spec(|spec| {
                    spec["voters"]["replicas"] = json!(5);
                    spec["observers"]["replicas"] = json!(1);
                    spec["image"] = json!("node:3");
                    spec["storage"]["size"] = json!("11Gi");
                });
            })],
        ),
    ]
}

fn mistakes() -> Vec<Scenario> {
    vec![
        scenario(
            "a bad image, then a good one",
            spec(3, 1),
            vec![
                then(
                    "bad",
                    |world| world.edit_spec(|spec| spec["image"] = json!("node:missing")),
                    Then::Say("missing"),
                ),
                then("still bad", |_| {}, Then::Serve(40)),
                converge("good", |world| {
                    world.edit_spec(|spec| spec["image"] = json!("node:2"))
                }),
            ],
        ),
        scenario(
            "a wrong configuration, then a right one",
            spec(3, 0),
            vec![
                then(
                    "wrong",
                    |world| world.edit_spec(|spec| spec["config"]["preAllocSize"] = json!(13)),
                    Then::Serve(60),
                ),
                converge("right", |world| {
                    world.edit_spec(|spec| spec["config"]["preAllocSize"] = json!(1024))
                }),
            ],
        ),
        scenario(
            "resources that no node has, then less",
            spec(3, 0),
            vec![
                then(
                    "too much",
                    |world| {
                        world.edit_spec(|spec| {
                            spec["resources"] = json!({"requests": {"cpu": "100"}})
                        })
                    },
                    Then::Say("Insufficient cpu"),
                ),
                then("still too much", |_| {}, Then::Serve(30)),
                converge("less", |world| {
                    world.edit_spec(|spec| spec["resources"] = json!({"requests": {"cpu": "100m"}}))
                }),
            ],
        ),
        scenario(
            "a bad image from the start",
            json!({"voters": {"replicas": 1}}),
            vec![
                then(
                    "more, of a bad image",
                    |world| {
                        voters(world, 3);
                        world.edit_spec(|spec| spec["image"] = json!("node:missing"));
                    },
                    Then::Pass(40),
                ),
                converge("good", |world| {
                    world.edit_spec(|spec| spec["image"] = json!("node:2"))
                }),
            ],
        ),
    ]
}

/// The voter that leads, or one that does not; or an observer.
fn someone(world: &World, leader: Option<bool>) -> u32 {
    let Some(leads) = leader else {
        return world.members(Role::Observer)[0].0;
    };
    let voters = world.members(Role::Voter);
    voters
        .into_iter()
        .find(|id| (world.leader() == Some(*id)) == leads)
        .unwrap()
        .0
}

fn delete_pod(world: &mut World, id: u32) {
    world.note(format!("somebody deletes pod {id}"));
    world
        .store
        .delete(&World::pod_key(id), &Default::default())
        .unwrap();
}

fn delete_claim(world: &mut World, id: u32) {
    world.note(format!("somebody deletes the claim of member {id}"));
    world
        .store
        .delete(&World::claim_key(id), &Default::default())
        .unwrap();
}

fn damage(world: &mut World, id: u32) {
    world.note(format!("the volume of member {id} is damaged"));
    world.damage(id);
}

fn losses() -> Vec<Scenario> {
    vec![
        scenario(
            "pods deleted",
            spec(3, 1),
            vec![
                converge("a follower's", |world| {
                    delete_pod(world, someone(world, Some(false)))
                }),
                converge("the leader's", |world| {
                    delete_pod(world, someone(world, Some(true)))
                }),
                converge("an observer's", |world| {
                    delete_pod(world, someone(world, None))
                }),
                converge("all", |world| (1..=4).for_each(|id| delete_pod(world, id))),
            ],
        ),
        scenario(
            "claims deleted",
            spec(3, 1),
            vec![
                converge("a follower's", |world| {
                    delete_claim(world, someone(world, Some(false)))
                }),
                converge("the leader's, and its pod", |world| {
                    let leader = someone(world, Some(true));
                    delete_claim(world, leader);
                    delete_pod(world, leader);
                }),
                converge("an observer's", |world| {
                    delete_claim(world, someone(world, None))
                }),
            ],
        ),
        scenario(
            "volumes damaged",
            spec(3, 1),
            vec![
                converge("a follower's", |world| {
                    damage(world, someone(world, Some(false)))
                }),
                converge("the leader's", |world| {
                    damage(world, someone(world, Some(true)))
                }),
                converge("an observer's", |world| damage(world, someone(world, None))),
            ],
        ),
    ]
}

/// What ends by itself, and objects that somebody removes.
fn endings() -> Vec<Scenario> {
    vec![scenario(
        "pods that have ended, and objects that are gone",
        spec(3, 1),
        vec![
            converge("a node shut down in good order", |world| {
                let key = World::pod_key(someone(world, Some(false)));
                world
                    .store
                    .edit(&key, |pod| pod["status"]["phase"] = json!("Failed"));
            }),
            converge("shared objects deleted", |world| {
                for (resource, name) in SHARED_OBJECTS {
                    let key = Key::new(resource, "ns", name);
                    world.store.delete(&key, &Default::default()).unwrap();
                }
            }),
            converge("members' files deleted", |world| {
                let id = someone(world, Some(false));
                world
                    .store
                    .remove(&Key::new("configmaps", "ns", &format!("demo-{id}")));
                delete_pod(world, id);
            }),
        ],
    )]
}

/// The node of a member.
fn node_of(world: &World, id: u32) -> String {
    let servers = &world.ensemble.servers;
    servers
        .values()
        .find(|server| server.id == id)
        .unwrap()
        .node
        .clone()
}

fn lose_node(world: &mut World, id: u32, power: bool) {
    let node = node_of(world, id);
    world.set_lost(&node, Some(power));
}

fn find_nodes(world: &mut World) {
    let lost: Vec<String> = world
        .machines
        .iter()
        .filter(|(_, machine)| machine.lost.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    lost.iter().for_each(|name| world.set_lost(name, None));
}

fn drain(world: &mut World, name: &str) {
    for machine in world.machines.values_mut() {
        machine.cordoned = false;
    }
    if let Some(machine) = world.machines.get_mut(name) {
        machine.cordoned = true;
    }
    let pods: Vec<Key> = world
        .store
        .all("pods")
        .filter(|(_, pod)| pod["spec"]["nodeName"] == name)
        .map(|(key, _)| key.clone())
        .collect();
    for key in pods {
        // What is refused now is tried again later by whoever drains.
        if let Err(refusal) = world.evict(&key) {
            world.note(format!("{}: {}", key.name, refusal.message));
        }
    }
}

fn nodes() -> Vec<Scenario> {
    let repair = json!({"voters": {"replicas": 3}, "observers": {"replicas": 1}, "repair": {"afterNodeLost": "60s"}});
    vec![
        scenario(
            "a node without power, and back",
            spec(3, 1),
            vec![
                then(
                    "lost",
                    |world| lose_node(world, someone(world, Some(true)), true),
                    Then::Serve(30),
                ),
                then("lost for long", |_| {}, Then::Wait(7)),
                converge("back", find_nodes),
            ],
        ),
        scenario(
            "a node with its cable out, and back",
            spec(3, 1),
            vec![
                then(
                    "lost",
                    |world| lose_node(world, someone(world, Some(false)), false),
                    Then::Serve(30),
                ),
                converge("back", find_nodes),
            ],
        ),
        scenario(
            "a node lost for good, with repair",
            repair.clone(),
            vec![
                converge("lost", |world| {
                    lose_node(world, someone(world, Some(false)), true)
                }),
                converge("back after all", find_nodes),
            ],
        ),
        scenario(
            "the leader's node cut off for good, with repair",
            repair,
            vec![converge("lost", |world| {
                lose_node(world, someone(world, Some(true)), false)
            })],
        ),
    ]
}

/// Nodes that are emptied, and all that are off.
fn farewells() -> Vec<Scenario> {
    vec![
        scenario(
            "nodes drained",
            spec(3, 2),
            vec![
                converge("the first", |world| drain(world, "node-1")),
                converge("the second", |world| drain(world, "node-2")),
                converge("the third", |world| drain(world, "node-3")),
                converge("the leader's", |world| {
                    let node = node_of(world, someone(world, Some(true)));
                    drain(world, &node);
                }),
            ],
        ),
        scenario(
            "everything without power at once",
            spec(3, 0),
            vec![
                then(
                    "dark",
                    |world| {
                        let names: Vec<String> = world.machines.keys().cloned().collect();
                        names
                            .iter()
                            .for_each(|name| world.set_lost(name, Some(true)));
                    },
                    Then::Wait(2),
                ),
                converge("light", find_nodes),
            ],
        ),
    ]
}

fn delete_ensemble(world: &mut World) {
    world.note("somebody deletes the ensemble");
    world
        .store
        .delete(&ensemble_key(), &Default::default())
        .unwrap();
}

/// The data of an ensemble that is gone is nobody's loss any more.
fn forget_ensemble(world: &mut World) {
    world.ensemble = Default::default();
}

fn lives() -> Vec<Scenario> {
    let gone = json!({"voters": {"replicas": 3}, "storage": {"whenDeleted": "Delete"}});
    vec![
        scenario(
            "deleted with its data, and made anew",
            gone,
            vec![
                then(
                    "deleted",
                    |world| {
                        delete_ensemble(world);
                        forget_ensemble(world);
                    },
                    Then::Pass(10),
                ),
                converge("made anew", |world| {
                    assert!(
                        world.volumes.is_empty(),
                        "the data goes with the ensemble: {:?}",
                        world.volumes
                    );
                    world.create_ensemble(spec(3, 0));
                }),
            ],
        ),
        scenario(
            "deleted, its data kept, and made anew",
            spec(3, 0),
            vec![
                then("deleted", delete_ensemble, Then::Pass(10)),
                then(
                    "made anew over foreign data",
                    |world| {
                        assert_eq!(world.volumes.len(), 3, "the data stays");
                        world.create_ensemble(spec(3, 0));
                    },
                    Then::Say("earlier ensemble"),
                ),
                converge("the data is given up", |world| {
                    forget_ensemble(world);
                    (1..=3).for_each(|id| delete_claim(world, id));
                }),
            ],
        ),
        scenario(
            "made anew at once",
            json!({"voters": {"replicas": 3}, "storage": {"whenDeleted": "Delete"}}),
            vec![converge("deleted and made", |world| {
                delete_ensemble(world);
                world.create_ensemble(spec(1, 1));
                forget_ensemble(world);
            })],
        ),
    ]
}

const SHARED_OBJECTS: [(&str, &str); 6] = [
    ("services", "demo-headless"),
    ("services", "demo-client"),
    ("services", "demo-observers"),
    ("poddisruptionbudgets", "demo-voters"),
    ("networkpolicies", "demo"),
    ("configmaps", "demo"),
];
