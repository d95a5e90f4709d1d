//! The steps that a change would take if all went well: the planner run against a world where every step succeeds.

use super::{Step, next};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::spec::Retention;
use crate::desired::Desired;
use crate::membership::{Address, Membership, Server};
use crate::observed::{Answer, Instance, Member, Observed, State};

/// The next steps, at most [`FORECAST_MAX`] of them.
pub(super) fn forecast(cluster: &Cluster, desired: &Desired, mut world: Observed) -> Vec<Step> {
    run(cluster, desired, &mut world, FORECAST_MAX)
}

/// All steps from here to rest, carried out on `world`.
pub fn carry_out(cluster: &Cluster, desired: &Desired, world: &mut Observed) -> Vec<Step> {
    run(cluster, desired, world, STEPS_MAX)
}

fn run(cluster: &Cluster, desired: &Desired, world: &mut Observed, max: usize) -> Vec<Step> {
    settle(world);
    let mut steps = Vec::new();
    while steps.len() < max {
        let Some(step) = next(cluster, desired, world).next else {
            break;
        };
        after(world, desired, &step);
        settle(world);
        steps.push(step);
    }
    steps
}

/// What a step changes by itself, when it succeeds.
pub(super) fn after(world: &mut Observed, desired: &Desired, step: &Step) {
    match step {
        Step::Bootstrap { voters, observers } => bootstrap(world, voters, observers),
        Step::Start { ids } => {
            for id in ids {
                let role = known(world).and_then(|known| known.role(*id));
                if let Some(member) = world.members.get_mut(id) {
                    member.instance = Instance::Running;
                    member.template_hash = Some(desired.template(member.role).hash.clone());
                    member.rendered_role = role;
                }
            }
        }
        Step::Create { id, role } => {
            let newcomer = Member::new(*role, false, address(*id));
            world.members.insert(*id, newcomer);
        }
        Step::Join { ids, .. } => reconfigure(world, |servers| {
            servers.extend(ids.iter().map(|id| (*id, server(*id, Role::Observer))));
        }),
        Step::Promote { id, .. } => reconfigure(world, |servers| {
            servers.insert(*id, server(*id, Role::Voter));
        }),
        Step::Remove { ids, .. } => {
            reconfigure(world, |servers| servers.retain(|id, _| !ids.contains(id)))
        }
        Step::Stop { ids } => ids.iter().for_each(|id| stop(world, *id)),
        Step::Restart { id } => stop(world, *id),
        Step::Retire { id, data } => match (data, world.members.get_mut(id)) {
            (Retention::Delete, _) => drop(world.members.remove(id)),
            (Retention::Retain, Some(member)) => member.retired = true,
            (Retention::Retain, None) => {}
        },
        Step::Replace { id, .. } => {
            if let Some(member) = world.members.get_mut(id) {
                (member.retired, member.replaced) = (true, true);
                (member.condemned, member.trouble) = (None, None);
            }
        }
        Step::GrowVolume { id } => {
            let member = world.members.get_mut(id);
            member
                .into_iter()
                .for_each(|member| member.undersized = false);
        }
        Step::Render { ids } => {
            for id in ids {
                let role = known(world).and_then(|known| known.role(*id));
                world
                    .members
                    .get_mut(id)
                    .into_iter()
                    .for_each(|member| member.rendered_role = role);
            }
        }
    }
}

fn bootstrap(world: &mut Observed, voters: &[ServerId], observers: &[ServerId]) {
    let voters = voters.iter().map(|id| (*id, Role::Voter));
    let mut initial = Membership::default();
    for (id, role) in voters.chain(observers.iter().map(|id| (*id, Role::Observer))) {
        world
            .members
            .insert(id, Member::new(role, true, address(id)));
        initial.servers.insert(id, server(id, role));
    }
    world.initial = Some(initial);
}

fn server(id: ServerId, role: Role) -> Server {
    Server {
        role,
        address: address(id),
    }
}

/// Lets time pass until everyone who can serve does: the running voters elect, the others follow.
fn settle(world: &mut Observed) {
    let leader = world.leader();
    if world.committed.is_none() {
        world.committed = world.initial.clone();
    }
    let Some(committed) = world.committed.clone() else {
        return;
    };
    for member in world.members.values_mut() {
        match member.instance {
            Instance::Failed if member.condemned.is_some() => {}
            Instance::Stopping | Instance::Failed => member.instance = Instance::Stopped,
            Instance::New | Instance::Stopped | Instance::Running => {}
        }
    }
    let running = |id: &ServerId| {
        world
            .members
            .get(id)
            .is_some_and(|member| member.instance == Instance::Running)
    };
    let voters: Vec<ServerId> = committed.voters().filter(running).collect();
    let leader = leader
        .filter(|leader| voters.contains(leader))
        .or(voters.last().copied());
    let quorate = voters.len() >= committed.quorum();
    for (id, member) in &mut world.members {
        let state = match committed.role(*id) {
            _ if member.instance != Instance::Running || !quorate => None,
            _ if leader == Some(*id) => Some(State::Leader),
            Some(Role::Voter) => Some(State::Follower),
            Some(Role::Observer) => Some(State::Observer),
            // A server that the membership does not know follows without a vote.
            None => Some(State::Follower),
        };
        let answer = |state| Answer {
            state,
            zxid: 1 << 32,
            config_version: Some(committed.version),
        };
        member.answer = state.map(answer);
        member.pod.ready = member.pod.ready.map(|_| state.is_some());
    }
}

fn stop(world: &mut Observed, id: ServerId) {
    if let Some(member) = world.members.get_mut(&id) {
        member.instance = Instance::Stopped;
        member.answer = None;
    }
}

fn reconfigure(
    world: &mut Observed,
    change: impl FnOnce(&mut std::collections::BTreeMap<ServerId, Server>),
) {
    if let Some(committed) = &mut world.committed {
        change(&mut committed.servers);
        committed.version += 1;
    }
}

fn known(world: &Observed) -> Option<&Membership> {
    world.committed.as_ref().or(world.initial.as_ref())
}

/// Nobody connects to it: a forecast only needs members to differ.
fn address(id: ServerId) -> Address {
    Address {
        host: format!("member-{id}"),
        quorum_port: 2888,
        election_port: 3888,
        client_port: 2181,
    }
}

/// Longest forecast.
const FORECAST_MAX: usize = 12;
/// More steps than any change takes.
const STEPS_MAX: usize = 10_000;
