//! An ensemble's Kubernetes objects as YAML.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use expect_test::{Expect, expect, expect_file};
use operator::cluster::{Cluster, Role, ServerId};
use operator::crd::ZooKeeperEnsemble;
use operator::desired::{Desired, desired};
use operator::kubernetes::claim::claims;
use operator::kubernetes::objects::{Kind, Object, absent, member_config, shared};
use operator::kubernetes::pod::pod;
use operator::kubernetes::{Settings, names};
use operator::membership::{Membership, Server};
use operator::observed::{Member, Observed};
use operator::validate::{parse, validate};

struct Scene {
    ensemble: ZooKeeperEnsemble,
    cluster: Cluster,
    desired: Desired,
    settings: Settings,
}

fn scene(spec: &str) -> Scene {
    let text = format!(
        "{{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, \
         metadata: {{name: demo, namespace: prod, uid: u-1}}, spec: {{{spec}}}}}"
    );
    let ensemble = parse(&text).unwrap();
    let settings = Settings {
        node_image: "registry.example/zookeeper-node:1".into(),
        cluster_domain: "cluster.local".into(),
    };
    let cluster = settings.complete(validate(&ensemble).unwrap());
    let desired = desired(&cluster);
    Scene {
        ensemble,
        cluster,
        desired,
        settings,
    }
}

impl Scene {
    /// An ensemble whose committed members are these.
    fn with(&self, members: &[(u32, Role)]) -> Observed {
        let mut observed = Observed::default();
        let mut initial = Membership::default();
        for (id, role) in members {
            let (id, address) = (
                ServerId(*id),
                self.settings.address(&self.cluster, ServerId(*id)),
            );
            let member = Member::new(*role, true, address.clone());
            observed.members.insert(id, member);
            initial.servers.insert(
                id,
                Server {
                    role: *role,
                    address,
                },
            );
        }
        observed.initial = Some(initial);
        observed
    }

    fn pod(&self, id: u32, role: Role) -> String {
        let Self {
            ensemble,
            cluster,
            desired,
            settings,
        } = self;
        let pod = pod(ensemble, cluster, desired, settings, ServerId(id), role);
        serde_yaml::to_string(&pod).unwrap()
    }

    fn names(&self, observed: &Observed) -> String {
        let Self {
            ensemble,
            cluster,
            settings,
            ..
        } = self;
        let there = shared(ensemble, cluster, settings, observed);
        let mut text: String = there
            .iter()
            .map(|it| format!("{:?} {}\n", it.kind(), it.name()))
            .collect();
        for (kind, name) in absent(ensemble, cluster, settings, observed) {
            text.push_str(&format!("no {kind:?} {name}\n"));
        }
        text
    }

    fn object(&self, observed: &Observed, kind: Kind, name: &str) -> String {
        let objects = shared(&self.ensemble, &self.cluster, &self.settings, observed);
        let object = objects
            .iter()
            .find(|it| it.kind() == kind && it.name() == name)
            .unwrap();
        let value = match object {
            Object::Service(it) => serde_yaml::to_string(it),
            Object::ConfigMap(it) => serde_yaml::to_string(it),
            Object::PodDisruptionBudget(it) => serde_yaml::to_string(it),
            Object::NetworkPolicy(it) => serde_yaml::to_string(it),
        };
        value.unwrap()
    }
}

/// Only the lines of a YAML text that hold one of the words.
fn lines_with(text: &str, words: &[&str]) -> String {
    let wanted = |line: &&str| words.iter().any(|word| line.contains(word));
    text.lines()
        .filter(wanted)
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

const THREE: [(u32, Role); 3] = [(1, Role::Voter), (2, Role::Voter), (3, Role::Voter)];

#[test]
fn a_pod_with_every_default() {
    expect_file!["golden/pod.yaml"].assert_eq(&scene("").pod(1, Role::Voter));
}

#[test]
fn a_pod_with_everything_set() {
    let spec = "image: 'other:2', imagePullPolicy: Always, imagePullSecrets: [{name: login}], \
        storage: {log: {size: 1Gi, storageClass: fast}}, resources: {requests: {cpu: 1}}, \
        pod: {labels: {team: a}, annotations: {note: b}, nodeSelector: {disk: ssd}, priorityClassName: high, \
              tolerations: [{key: only, operator: Exists}], securityContext: {fsGroup: 2000}, \
              topologySpread: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}], \
              overrides: {spec: {terminationGracePeriodSeconds: 60, \
                containers: [{name: zookeeper, env: [{name: A, value: b}]}, {name: helper, image: 'helper:1'}]}}}, \
        observers: {replicas: 1, pod: {labels: {team: c}, affinity: {nodeAffinity: {}}}}";
    expect_file!["golden/pod-everything.yaml"].assert_eq(&scene(spec).pod(4, Role::Observer));
}

#[test]
fn claims_outlive_the_ensemble_unless_they_are_to_go_with_it() {
    let all = |spec: &str, founder| {
        let scene = scene(spec);
        let claims = claims(
            &scene.ensemble,
            &scene.cluster,
            ServerId(2),
            Role::Voter,
            founder,
        );
        serde_yaml::to_string(&claims).unwrap()
    };
    expect_file!["golden/claims.yaml"].assert_eq(&all(
        "storage: {size: 20Gi, storageClass: slow, log: {size: 5Gi}}",
        true,
    ));
    let owned = all("storage: {whenDeleted: Delete}", false);
    expect![[r#"
        zookeeper.ensemble.dev/ensemble-uid: u-1
        uid: u-1
    "#]]
    .assert_eq(&lines_with(&owned, &["uid: u", "founder"]));
}

#[test]
fn there_is_no_budget_for_one_voter_and_nothing_for_no_observers() {
    let one = scene("voters: {replicas: 1}");
    let observed = one.with(&[(1, Role::Voter)]);
    expect![[r#"
        Service demo-headless
        Service demo-client
        ConfigMap demo
        NetworkPolicy demo
        no Service demo-observers
        no PodDisruptionBudget demo-voters
        no PodDisruptionBudget demo-observers
    "#]]
    .assert_eq(&one.names(&observed));
    let more = scene("observers: {replicas: 1}, networkPolicy: {enabled: false}");
    expect![[r#"
        Service demo-headless
        Service demo-client
        ConfigMap demo
        Service demo-observers
        PodDisruptionBudget demo-voters
        PodDisruptionBudget demo-observers
        no NetworkPolicy demo
    "#]]
    .assert_eq(&more.names(&more.with(&THREE)));
    let off = scene("podDisruptionBudget: {enabled: false}");
    assert!(
        off.names(&off.with(&THREE))
            .contains("no PodDisruptionBudget demo-voters")
    );
}

#[test]
fn the_voters_budget_is_a_number_that_follows_their_count() {
    let budget = |voters: u32| {
        let scene = scene("");
        let voters: Vec<(u32, Role)> = (1..=voters).map(|id| (id, Role::Voter)).collect();
        let text = scene.object(
            &scene.with(&voters),
            Kind::PodDisruptionBudget,
            "demo-voters",
        );
        lines_with(&text, &["minAvailable", "maxUnavailable"])
    };
    assert_eq!(budget(3), "minAvailable: 2\n");
    assert_eq!(budget(5), "minAvailable: 4\n");
    let scene = scene("observers: {replicas: 3}");
    let text = scene.object(
        &scene.with(&THREE),
        Kind::PodDisruptionBudget,
        "demo-observers",
    );
    assert_eq!(
        lines_with(&text, &["minAvailable", "maxUnavailable"]),
        "maxUnavailable: 1\n"
    );
}

#[test]
fn services_and_policy() {
    let spec = "observers: {replicas: 1}, networkPolicy: {clients: [{podSelector: {matchLabels: {app: shop}}}]}, \
        services: {client: {type: LoadBalancer, loadBalancerClass: inner, externalTrafficPolicy: Local, \
        annotations: {a: b}, labels: {c: d}, loadBalancerSourceRanges: [10.0.0.0/8]}}";
    let scene = scene(spec);
    let observed = scene.with(&THREE);
    let mut text = String::new();
    for (kind, name) in [
        (Kind::Service, "demo-headless"),
        (Kind::Service, "demo-client"),
        (Kind::Service, "demo-observers"),
        (Kind::ConfigMap, "demo"),
        (Kind::PodDisruptionBudget, "demo-voters"),
        (Kind::NetworkPolicy, "demo"),
    ] {
        text.push_str(&format!("---\n{}", scene.object(&observed, kind, name)));
    }
    expect_file!["golden/shared.yaml"].assert_eq(&text);
}

#[test]
fn anyone_may_be_a_client_unless_the_manifest_names_them() {
    let scene = scene("");
    let policy = scene.object(&scene.with(&THREE), Kind::NetworkPolicy, "demo");
    // Only the ports between members are closed.
    assert_eq!(policy.matches("from:").count(), 1, "{policy}");
}

fn config(scene: &Scene, observed: &Observed, id: u32) -> String {
    let map = member_config(
        &scene.ensemble,
        &scene.cluster,
        &scene.desired,
        &scene.settings,
        observed,
        ServerId(id),
        "super:digest",
    );
    assert_eq!(
        map.metadata.name.as_deref(),
        Some(&*names::member("demo", ServerId(id)))
    );
    map.data.unwrap().remove(names::CONFIG_KEY).unwrap()
}

fn check_config(scene: &Scene, id: u32, words: &[&str], expected: Expect) {
    let text = config(scene, &scene.with(&THREE), id);
    expected.assert_eq(&lines_with(&text, words));
}

#[test]
fn a_members_configuration() {
    let scene = scene("storage: {log: {}}, config: {tickTime: 1000}");
    let text = config(&scene, &scene.with(&THREE), 1);
    expect_file!["golden/zoo.cfg"].assert_eq(&text);
}

#[test]
fn a_newcomer_observes_whatever_it_is_to_become() {
    check_config(
        &scene(""),
        4,
        &["server.", "peerType"],
        expect![[r#"
            peerType=observer
            server.1:demo-1.demo-headless.prod.svc.cluster.local:2888:3888
            server.2:demo-2.demo-headless.prod.svc.cluster.local:2888:3888
            server.3:demo-3.demo-headless.prod.svc.cluster.local:2888:3888
            server.4:demo-4.demo-headless.prod.svc.cluster.local:2888:3888:observer
        "#]],
    );
}

#[test]
fn without_a_leader_the_last_known_membership_counts() {
    let scene = scene("");
    let mut observed = scene.with(&THREE);
    let mut remembered = observed.initial.clone().unwrap();
    remembered.servers.remove(&ServerId(2));
    observed.remembered = Some(remembered);
    let text = config(&scene, &observed, 1);
    assert!(!text.contains("server.2"), "{text}");
}

#[test]
fn a_change_of_the_pod_changes_the_hash_and_a_change_of_a_service_does_not() {
    let hash = |spec: &str| scene(spec).desired.voter.hash;
    let before = hash("");
    for spec in [
        "image: other",
        "pod: {nodeSelector: {a: b}}",
        "voters: {pod: {priorityClassName: high}}",
        "pod: {overrides: {spec: {dnsPolicy: Default}}}",
        "restartedAt: now",
    ] {
        assert_ne!(hash(spec), before, "{spec}");
    }
    for spec in [
        "observers: {replicas: 3, pod: {labels: {a: b}}}",
        "services: {client: {type: NodePort}}",
        "storage: {size: 50Gi}",
        "repair: {afterNodeLost: 10m}",
        "updatePolicy: {pause: true}",
    ] {
        assert_eq!(hash(spec), before, "{spec}");
    }
}
