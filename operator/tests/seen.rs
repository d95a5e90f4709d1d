//! What a cluster's objects say of an ensemble: each case is a few fields of real objects, and what is made of them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use operator::cluster::{Cluster, ServerId};
use operator::crd::status::MemberStatus;
use operator::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use operator::desired::desired;
use operator::ensemble::Told;
use operator::kubernetes::Settings;
use operator::kubernetes::seen::{Contradiction, Seen, ask_at, observed};
use operator::membership::Membership;
use operator::observed::{Answer, Instance, Observed, State};
use operator::plan::{next, plan};
use operator::validate::{parse, validate};
use serde_json::{Value, json};

struct Scene {
    ensemble: ZooKeeperEnsemble,
    seen: Seen,
    told: BTreeMap<ServerId, Told>,
}

fn settings() -> Settings {
    Settings {
        node_image: "node:1".into(),
        cluster_domain: "cluster.local".into(),
    }
}

fn scene(spec: &str) -> Scene {
    let text = format!(
        "{{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, \
         metadata: {{name: demo, namespace: prod, uid: u-1}}, spec: {{{spec}}}}}"
    );
    Scene {
        ensemble: parse(&text).unwrap(),
        seen: Seen::default(),
        told: BTreeMap::new(),
    }
}

/// Three founders that have claims, and pods on nodes of their own.
fn three() -> Scene {
    let mut scene = scene("");
    for id in 1..=3 {
        scene.claim(id, json!({}));
        scene.pod(id, json!({}));
        scene.node(id, "True");
        let state = if id == 3 {
            State::Leader
        } else {
            State::Follower
        };
        scene.tell(id, state);
    }
    scene
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                    continue;
                }
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

impl Scene {
    fn claim_named(&mut self, prefix: &str, id: u32, over: Value) {
        let mut claim = json!({
            "metadata": {
                "name": format!("{prefix}-demo-{id}"), "namespace": "prod",
                "labels": {
                    "zookeeper.ensemble.dev/ensemble": "demo", "zookeeper.ensemble.dev/ensemble-uid": "u-1",
                    "zookeeper.ensemble.dev/role": if id <= 3 { "voter" } else { "observer" },
                    "zookeeper.ensemble.dev/id": id.to_string(),
                },
                "annotations": {
                    "zookeeper.ensemble.dev/founder": "true", "zookeeper.ensemble.dev/started": "true",
                },
            },
            "spec": {"resources": {"requests": {"storage": "10Gi"}}},
            "status": {"phase": "Bound"},
        });
        merge(&mut claim, over);
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        self.seen.claims.push(Arc::new(claim));
    }

    fn claim(&mut self, id: u32, over: Value) {
        self.claim_named("data", id, over);
    }

    fn pod(&mut self, id: u32, over: Value) {
        let mut pod = json!({
            "metadata": {
                "name": format!("demo-{id}"), "namespace": "prod", "uid": format!("pod-{id}"),
                "labels": {
                    "zookeeper.ensemble.dev/ensemble": "demo",
                    "zookeeper.ensemble.dev/role": if id <= 3 { "voter" } else { "observer" },
                    "zookeeper.ensemble.dev/id": id.to_string(),
                },
                "annotations": {"zookeeper.ensemble.dev/template-hash": "old"},
                "ownerReferences": [{
                    "apiVersion": "zookeeper.ensemble.dev/v1alpha1", "kind": "ZooKeeperEnsemble", "name": "demo",
                    "uid": "u-1", "controller": true,
                }],
            },
            "spec": {"nodeName": format!("n{id}"), "containers": []},
            "status": {
                "phase": "Running", "podIP": format!("10.0.0.{id}"),
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container(json!({"running": {}}), true)],
            },
        });
        merge(&mut pod, over);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.seen.pods.push(Arc::new(pod));
    }

    fn node(&mut self, id: u32, ready: &str) {
        let node = json!({
            "metadata": {"name": format!("n{id}"), "labels": {"topology.kubernetes.io/zone": format!("z{id}")}},
            "status": {"conditions": [{
                "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        self.seen
            .nodes
            .retain(|other| other.metadata.name != node.metadata.name);
        self.seen.nodes.push(Arc::new(node));
    }

    fn tell(&mut self, id: u32, state: State) {
        let lines = "server.1=demo-1:2888:3888:participant;2181\nserver.2=demo-2:2888:3888:participant;2181\n\
                     server.3=demo-3:2888:3888:participant;2181\nversion=100000000";
        let told = Told {
            answer: Answer {
                state,
                zxid: 1 << 32,
                config_version: Some(1 << 32),
            },
            membership: Some(Membership::parse(lines).unwrap()),
        };
        self.told.insert(ServerId(id), told);
    }

    fn cluster(&self) -> Cluster {
        settings().complete(validate(&self.ensemble).unwrap())
    }

    /// Ten minutes after the nodes' last change.
    fn look(&self) -> Result<Observed, Contradiction> {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let cluster = self.cluster();
        observed(
            &self.ensemble,
            &cluster,
            &desired(&cluster),
            &settings(),
            &self.seen,
            &self.told,
            now,
        )
    }

    fn check(&self, expected: Expect) {
        let text = match self.look() {
            Err(contradiction) => format!("{contradiction}\n"),
            Ok(observed) => words(&observed),
        };
        expected.assert_eq(&text);
    }

    /// What the planner says to it.
    fn check_plan(&self, expected: Expect) {
        let cluster = self.cluster();
        let mut observed = self.look().unwrap();
        // A pod's template is none of the matter here.
        for member in observed.members.values_mut() {
            let hash = desired(&cluster).template(member.role).hash.clone();
            member.template_hash = member.template_hash.as_ref().map(|_| hash);
        }
        expected.assert_eq(&format!(
            "{}\n",
            plan(&cluster, &desired(&cluster), &observed)
        ));
    }
}

fn container(state: Value, ready: bool) -> Value {
    json!({
        "name": "zookeeper", "image": "node:1", "imageID": "", "ready": ready, "restartCount": 0, "state": state,
    })
}

/// A container that waits for this reason, after an end with this exit code.
fn waiting(reason: &str, message: &str, exit: Option<(i32, &str)>) -> Value {
    let mut status = container(
        json!({"waiting": {"reason": reason, "message": message}}),
        false,
    );
    if let Some((code, words)) = exit {
        status["restartCount"] = json!(4);
        status["lastState"] = json!({"terminated": {"exitCode": code, "message": words}});
    }
    json!({"status": {"conditions": [], "containerStatuses": [status]}})
}

fn words(observed: &Observed) -> String {
    let mut text = String::new();
    for (id, member) in &observed.members {
        let mut line = format!("{id} {} {:?}", member.role, member.instance);
        for (word, holds) in [
            ("founder", member.founder),
            ("retired", member.retired),
            ("replaced", member.replaced),
            ("evicted", member.evicted),
            ("undersized", member.undersized),
        ] {
            if holds {
                line.push(' ');
                line.push_str(word);
            }
        }
        if let Some(why) = &member.condemned {
            line.push_str(&format!(" condemned({why:?})"));
        }
        if let Some(trouble) = &member.trouble {
            line.push_str(&format!("\n  {:?}: {trouble}", trouble.kind));
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

#[test]
fn members_that_run() {
    let scene = three();
    scene.check(expect![[r#"
        1 voter Running founder
        2 voter Running founder
        3 voter Running founder
    "#]]);
    let observed = scene.look().unwrap();
    assert_eq!(observed.leader(), Some(ServerId(3)));
    assert_eq!(observed.committed.unwrap().voters().count(), 3);
    let pod = &observed.members[&ServerId(2)].pod;
    assert_eq!(
        (pod.node.as_deref(), pod.zone.as_deref()),
        (Some("n2"), Some("z2"))
    );
    assert_eq!((pod.uid.as_deref(), pod.ready), (Some("pod-2"), Some(true)));
    assert_eq!(
        observed.members[&ServerId(2)].address.client(),
        "demo-2.demo-headless.prod.svc.cluster.local:2181"
    );
    assert_eq!(ask_at(&scene.seen)[&ServerId(2)], "10.0.0.2:2181");
}

#[test]
fn nothing_at_all_is_a_new_ensemble_and_any_claim_is_not() {
    let mut scene = scene("");
    assert_eq!(scene.look().unwrap().initial, None);
    scene.claim(2, json!({}));
    let initial = scene.look().unwrap().initial.unwrap();
    assert_eq!(initial.voters().collect::<Vec<_>>(), [ServerId(2)]);
    // A claim of a later member says nothing of the first ones, but that there were some.
    let mut scene = scene_with_late_claim();
    assert_eq!(
        scene.look().unwrap().initial.unwrap(),
        Membership::default()
    );
    scene.ensemble.status = Some(
        serde_json::from_value(json!({"initial": {"voters": [1, 2, 3], "observers": [4]}}))
            .unwrap(),
    );
    assert_eq!(scene.look().unwrap().initial.unwrap().servers.len(), 4);
}

fn scene_with_late_claim() -> Scene {
    let mut scene = scene("");
    let late = json!({"metadata": {"annotations": {"zookeeper.ensemble.dev/founder": "false"}}});
    scene.claim(7, late);
    scene
}

#[test]
fn the_first_members_are_made_until_each_has_a_home() {
    let mut scene = scene("");
    scene.check_plan(expect![[r#"
        set up a new ensemble: members 1, 2 and 3 as voters
    "#]]);
    // The operator died after the first claim, and meanwhile the manifest was edited: what was recorded counts.
    scene.ensemble.spec.voters.replicas = 5;
    scene.ensemble.status =
        Some(serde_json::from_value(json!({"initial": {"voters": [1, 2, 3]}})).unwrap());
    let fresh = json!({"metadata": {"annotations": {"zookeeper.ensemble.dev/started": "false"}}});
    scene.claim(1, fresh.clone());
    scene.check_plan(expect![[r#"
        set up a new ensemble: members 1, 2 and 3 as voters
    "#]]);
    scene.claim(2, fresh.clone());
    scene.claim(3, fresh);
    scene.check_plan(expect![[r#"
        start members 1, 2 and 3
    "#]]);
}

#[test]
fn an_ensemble_that_was_led_is_never_set_up_again() {
    let mut scene = scene("");
    let status = json!({"initial": {"voters": [1, 2, 3]}, "membership": {"version": "5", "voters": [1, 2, 3]}});
    scene.ensemble.status = Some(serde_json::from_value(status).unwrap());
    scene.check_plan(expect![[r#"
        waiting for a decision: the data of all members is gone; delete the ensemble and make it anew, then restore what you have
    "#]]);
}

#[test]
fn pods_that_are_gone_over_or_going() {
    let mut scene = scene("");
    scene.claim(1, json!({}));
    scene.claim(2, json!({}));
    scene.pod(2, json!({"status": {"phase": "Failed"}}));
    scene.claim(
        3,
        json!({"metadata": {"annotations": {"zookeeper.ensemble.dev/started": "false"}}}),
    );
    scene.claim(4, json!({}));
    scene.pod(
        4,
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z"}}),
    );
    scene.claim(5, json!({}));
    let evicted = json!([{"type": "DisruptionTarget", "status": "True"}]);
    scene.pod(5, json!({"status": {"conditions": evicted}}));
    scene.check(expect![[r#"
        1 voter Stopped founder
        2 voter Stopped founder
        3 voter New founder
        4 observer Stopping founder
        5 observer Running founder evicted
    "#]]);
    assert!(!ask_at(&scene.seen).contains_key(&ServerId(2)));
}

#[test]
fn pods_in_trouble_say_what_to_do() {
    let mut scene = scene("");
    let cases = [
        waiting(
            "ImagePullBackOff",
            "Back-off pulling image \"nope:1\"",
            None,
        ),
        waiting("CreateContainerConfigError", "secret \"x\" not found", None),
        waiting(
            "CrashLoopBackOff",
            "back-off 10s",
            Some((1, "a line\nno space left on device\n")),
        ),
        waiting(
            "CrashLoopBackOff",
            "back-off 10s",
            Some((2, "tickTime: \"x\" is no number")),
        ),
        json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "containerStatuses": null, "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu."}]}}),
        waiting("ContainerCreating", "", None),
    ];
    for (id, case) in (1..).zip(cases) {
        scene.claim(id, json!({}));
        scene.pod(id, case);
    }
    scene.check(expect![[r#"
        1 voter Failed founder
          Template: the image node:1 cannot be pulled: Back-off pulling image "nope:1"; correct spec.image or spec.imagePullSecrets
        2 voter Failed founder
          Template: its container cannot be made: secret "x" not found; correct spec.pod, spec.image or what they refer to
        3 voter Failed founder
          Crash: it died with exit code 1: no space left on device
        4 observer Failed founder
          Template: it refuses its configuration: tickTime: "x" is no number; correct spec.config
        5 observer Failed founder
          Scheduling: no node takes it: 0/3 nodes are available: 3 Insufficient cpu; make room, or change resources, pod.affinity, pod.nodeSelector, pod.tolerations or storage
        6 observer Running founder
    "#]]);
}

#[test]
fn memory_that_was_not_enough() {
    let mut scene = scene("");
    scene.claim(1, json!({}));
    let mut status = container(json!({"running": {}}), false);
    status["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    scene.pod(1, json!({"status": {"containerStatuses": [status]}}));
    scene.check(expect![[r#"
        1 voter Running founder
          Template: it was killed for using more memory than its limit; raise resources.limits.memory
    "#]]);
}

#[test]
fn a_lost_node_is_waited_for_unless_the_manifest_says_how_long() {
    let mut scene = three();
    scene.node(2, "Unknown");
    scene.told.remove(&ServerId(2));
    scene.check(expect![[r#"
        1 voter Running founder
        2 voter Running founder
          Node: its node n2 is not ready since 00:00:00 UTC; bring the node back, or delete it, or set repair.afterNodeLost
        3 voter Running founder
    "#]]);
    scene.check_plan(expect![[r#"
        waiting for member 2 to serve; member 2: its node n2 is not ready since 00:00:00 UTC; bring the node back, or delete it, or set repair.afterNodeLost
    "#]]);
    scene.ensemble.spec.repair.after_node_lost = Some("11m".into());
    assert_eq!(
        scene.look().unwrap().members[&ServerId(2)].condemned,
        None,
        "not yet"
    );
    scene.ensemble.spec.repair.after_node_lost = Some("10m".into());
    scene.check_plan(expect![[r#"
        give member 2 up for another: its node n2 is lost
    "#]]);
    // The kubelet alone may be dead: the member serves on.
    scene.tell(2, State::Follower);
    assert_eq!(scene.look().unwrap().members[&ServerId(2)].condemned, None);
}

#[test]
fn a_pod_that_only_fits_where_its_lost_volume_is() {
    let mut scene = three();
    scene.told.remove(&ServerId(2));
    scene.ensemble.spec.repair.after_node_lost = Some("5m".into());
    scene.seen.pods.remove(1);
    scene.pod(2, json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "containerStatuses": null, "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:01:00Z",
        "message": "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."}]}}));
    scene.check_plan(expect![[r#"
        give member 2 up for another: the node that has its volume is lost
    "#]]);
}

#[test]
fn volumes_that_are_deleted_lost_or_damaged_condemn_their_member() {
    let change = |over: Value| {
        let mut scene = three();
        scene.seen.claims.remove(1);
        scene.claim(2, over);
        scene
    };
    change(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z"}})).check_plan(expect![
        [r#"
            give member 2 up for another: its volume was deleted
        "#]
    ]);
    change(json!({"status": {"phase": "Lost"}})).check_plan(expect![[r#"
        give member 2 up for another: its volume is lost
    "#]]);
    let mut damaged = three();
    damaged.seen.pods.remove(1);
    damaged.pod(
        2,
        waiting(
            "CrashLoopBackOff",
            "",
            Some((3, "log.1 is damaged at byte 7")),
        ),
    );
    damaged.told.remove(&ServerId(2));
    damaged.check(expect![[r#"
        1 voter Running founder
        2 voter Failed founder condemned(StorageDamaged)
          Volume: its data is damaged: log.1 is damaged at byte 7
        3 voter Running founder
    "#]]);
    damaged.check_plan(expect![[r#"
        give member 2 up for another: its data is damaged
    "#]]);
    damaged.ensemble.spec.repair.replace_damaged = false;
    damaged.check_plan(expect![[r#"
        waiting for help with member 2: its data is damaged, and spec.repair.replaceDamaged is false; member 2: its data is damaged: log.1 is damaged at byte 7
    "#]]);
}

#[test]
fn a_log_volume_belongs_to_the_home() {
    // The third one is not made to its end, and counts as not made at all.
    let mut scene = scene("storage: {log: {size: 10Gi}}");
    scene.claim(1, json!({}));
    scene.claim_named("log", 1, json!({}));
    scene.claim(2, json!({}));
    scene.claim(
        3,
        json!({"metadata": {"annotations": {"zookeeper.ensemble.dev/started": "false"}}}),
    );
    scene.claim_named("log", 4, json!({}));
    scene.check(expect![[r#"
        1 voter Stopped founder
        2 voter Stopped founder condemned(VolumeDeleted)
          Volume: its volume was deleted
        4 observer Stopped retired replaced
    "#]]);
}

#[test]
fn what_is_left_without_a_volume_is_cleared_away() {
    let mut scene = three();
    scene.seen.claims.remove(1);
    scene.check(expect![[r#"
        1 voter Running founder
        2 voter Running retired replaced
        3 voter Running founder
    "#]]);
    scene.check_plan(expect![[r#"
        take member 2 out of the ensemble
    "#]]);
}

#[test]
fn a_replaced_member_goes_for_good_and_one_that_was_scaled_away_stays() {
    let retired =
        |why: &str| json!({"metadata": {"annotations": {"zookeeper.ensemble.dev/retired": why}}});
    let mut scene = three();
    scene.claim(5, retired("scaled away"));
    scene.check_plan(expect![[r#"
        At rest
    "#]]);
    scene.claim(4, retired("replaced: its volume is lost"));
    scene.check(expect![[r#"
        1 voter Running founder
        2 voter Running founder
        3 voter Running founder
        4 observer Stopped founder retired replaced
        5 observer Stopped founder retired
    "#]]);
    scene.check_plan(expect![[r#"
        delete the data of member 4
    "#]]);
    // Where it ran is out of reach: as long as its pod is there, so is its volume, and nothing waits for it.
    scene.pod(
        4,
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z"}}),
    );
    scene.check_plan(expect![[r#"
        At rest
    "#]]);
}

#[test]
fn volumes_grow() {
    let mut scene = three();
    scene.ensemble.spec.storage.size.0 = "10240Mi".into();
    scene.check_plan(expect![[r#"
        At rest
    "#]]);
    scene.ensemble.spec.storage.size.0 = "11Gi".into();
    scene.check_plan(expect![[r#"
        grow the volume of member 1
    "#]]);
}

#[test]
fn objects_of_others_stop_everything() {
    let mut old = scene("");
    old.claim(
        1,
        json!({"metadata": {"labels": {"zookeeper.ensemble.dev/ensemble-uid": "u-0"}}}),
    );
    old.check(expect![[r#"
        volume claim data-demo-1 holds data of an earlier ensemble demo (uid u-0), and is never used for another: give this ensemble another name, or delete that data with kubectl -n prod delete pvc -l zookeeper.ensemble.dev/ensemble-uid=u-0
    "#]]);
    let mut unknown = scene("");
    unknown.claim(
        1,
        json!({"metadata": {"labels": {"zookeeper.ensemble.dev/ensemble-uid": null}}}),
    );
    unknown.check(expect![[r#"
        volume claim data-demo-1 does not say which ensemble its data is of (label zookeeper.ensemble.dev/ensemble-uid): delete it, or give this ensemble another name
    "#]]);
    let mut copy = three();
    copy.pod(1, json!({"metadata": {"name": "demo-1-debug"}}));
    copy.check(expect![[r#"
        pod demo-1-debug carries the label zookeeper.ensemble.dev/ensemble=demo and is of no member; take the label away, or delete it
    "#]]);
    let mut orphan = three();
    orphan.seen.pods.remove(0);
    orphan.pod(1, json!({"metadata": {"ownerReferences": []}}));
    orphan.check(expect![[r#"
        pod demo-1 is not owned by this ensemble; delete it with kubectl -n prod delete pod demo-1
    "#]]);
    let mut others = three();
    others.claim(
        9,
        json!({"metadata": {"labels": {"zookeeper.ensemble.dev/ensemble": "another"}}}),
    );
    assert_eq!(others.look().unwrap().members.len(), 3);
}

#[test]
fn a_wrong_template_then_a_right_one_starts_anew_without_a_leader() {
    let mut scene = scene("");
    for id in 1..=3 {
        scene.claim(id, json!({}));
        scene.pod(id, waiting("ImagePullBackOff", "", None));
    }
    // Everyone runs the template of now: only a person can help.
    scene.check_plan(expect![[r#"
        waiting for members 1, 2 and 3 to elect a leader; member 1: the image node:1 cannot be pulled; correct spec.image or spec.imagePullSecrets; member 2: the image node:1 cannot be pulled; correct spec.image or spec.imagePullSecrets; member 3: the image node:1 cannot be pulled; correct spec.image or spec.imagePullSecrets
    "#]]);
    // The pods are of an older one ("old").
    let cluster = scene.cluster();
    let plan = next(&cluster, &desired(&cluster), &scene.look().unwrap());
    assert_eq!(plan.to_string(), "start members 1, 2 and 3");
    // They run and serve nobody: one by one.
    let mut scene = three();
    scene.told.clear();
    scene.tell(1, State::NotServing);
    let cluster = scene.cluster();
    let plan = next(&cluster, &desired(&cluster), &scene.look().unwrap());
    assert_eq!(plan.to_string(), "restart member 1");
    let looked = scene.look().unwrap();
    assert_eq!(looked.members[&ServerId(1)].instance, Instance::Running);
    // Silent ones that their kubelets call ready are left alone.
    scene.told.clear();
    let plan = next(&cluster, &desired(&cluster), &scene.look().unwrap());
    assert_eq!(plan.next, None);
}

#[test]
fn a_configuration_that_says_an_old_role_is_written_anew() {
    let mut scene = three();
    let config = |text: &str| {
        let config = json!({"metadata": {"name": "demo-2"}, "data": {"zoo.cfg": text}});
        Arc::new(serde_json::from_value(config).unwrap())
    };
    scene.seen.configs = vec![config("tickTime=2000\npeerType=observer\n")];
    scene.check_plan(expect!["write the configuration of member 2 anew\n"]);
    scene.seen.configs = vec![config("tickTime=2000\n")];
    scene.check_plan(expect!["At rest\n"]);
}

#[test]
fn a_pod_that_went_from_a_cordoned_node_was_drained() {
    let mut scene = three();
    let member = |id: u32| MemberStatus {
        id,
        pod_uid: Some(format!("pod-before-{id}")),
        node: Some(format!("n{id}")),
        ..MemberStatus::default()
    };
    let mut status = ZooKeeperEnsembleStatus {
        members: vec![member(2), member(3)],
        ..ZooKeeperEnsembleStatus::default()
    };
    scene.ensemble.status = Some(status.clone());
    let cordon = |scene: &mut Scene, id: u32| {
        let name = Some(format!("n{id}"));
        let mut nodes = scene.seen.nodes.iter_mut();
        let node = nodes.find(|node| node.metadata.name == name).unwrap();
        Arc::make_mut(node).spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    };
    let drained = |scene: &Scene| -> Vec<u32> {
        let observed = scene.look().unwrap();
        let evicted = observed.members.iter().filter(|(_, member)| member.evicted);
        evicted.map(|(id, _)| id.0).collect()
    };
    assert_eq!(
        drained(&scene),
        [0; 0],
        "a pod that is no more is not enough"
    );
    cordon(&mut scene, 1);
    cordon(&mut scene, 3);
    assert_eq!(drained(&scene), [3]);
    status.members[1].pod_uid = Some("pod-3".into());
    scene.ensemble.status = Some(status);
    assert_eq!(drained(&scene), [0; 0], "it is there still");
}
