//! Wrong manifests, each with everything that a person gets to read about it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use expect_test::{Expect, expect};
use operator::validate::{parse, validate};

fn check(manifest: &str, expected: Expect) {
    let problems = match parse(manifest).and_then(|ensemble| validate(&ensemble)) {
        Ok(cluster) => format!(
            "valid: {} voters, {} observers\n",
            cluster.voters.replicas, cluster.observers.replicas
        ),
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect(),
    };
    expected.assert_eq(&problems);
}

/// A manifest with this spec.
fn spec(spec: &str) -> String {
    format!(
        "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\nmetadata: {{name: demo}}\nspec: {spec}\n"
    )
}

#[test]
fn the_shortest_manifest_has_three_voters() {
    check(
        &spec("{}"),
        expect![[r#"
        valid: 3 voters, 0 observers
    "#]],
    );
}

#[test]
fn one_voter_is_allowed_and_two_only_on_request() {
    check(
        &spec("{voters: {replicas: 1}}"),
        expect![[r#"
        valid: 1 voters, 0 observers
    "#]],
    );
    check(
        &spec("{voters: {replicas: 2}}"),
        expect![[r#"
        spec.voters.replicas: 2 voters survive no more failures than 1; use 1 or 3, or set spec.allowEvenVoters: true
    "#]],
    );
    check(
        &spec("{voters: {replicas: 2}, allowEvenVoters: true}"),
        expect![[r#"
        valid: 2 voters, 0 observers
    "#]],
    );
}

#[test]
fn no_voters_and_too_many() {
    check(
        &spec("{voters: {replicas: 0}}"),
        expect![[r#"
        spec.voters.replicas: 0 is too small; at least 1
    "#]],
    );
    check(
        &spec("{voters: {replicas: 11}, observers: {replicas: 201}}"),
        expect![[r#"
        spec.observers.replicas: 201 is too large; at most 200
        spec.voters.replicas: 11 is too large; at most 9
    "#]],
    );
}

#[test]
fn an_even_number_of_voters() {
    check(
        &spec("{voters: {replicas: 4}}"),
        expect![[r#"
        spec.voters.replicas: 4 voters survive no more failures than 3; use 3 or 5, or set spec.allowEvenVoters: true
    "#]],
    );
}

#[test]
fn fields_that_do_not_exist() {
    check(
        &spec("{voters: {replica: 3}, observer: {replicas: 2}, colour: blue}"),
        expect![[r#"
            spec.colour: there is no such field; there are: allowEvenVoters, config, image, imagePullPolicy, imagePullSecrets, networkPolicy, observers, pod, podDisruptionBudget, repair, resources, restartedAt, services, storage, updatePolicy, voters
            spec.observer: there is no such field; did you mean "observers"?
            spec.voters.replica: there is no such field; did you mean "replicas"?
        "#]],
    );
}

#[test]
fn values_of_the_wrong_type() {
    check(
        &spec("{voters: {replicas: three}, observers: 2, allowEvenVoters: 'yes', image: 7}"),
        expect![[r#"
        spec.allowEvenVoters: is "yes"; true or false is wanted
        spec.image: is 7; a string is wanted
        spec.observers: is 2; a map of fields is wanted
        spec.voters.replicas: is "three"; a whole number is wanted
    "#]],
    );
}

#[test]
fn keys_that_the_operator_owns() {
    check(
        &spec(
            "{config: {clientPort: 2181, dataDir: /data, server.1: 'a:2888:3888', zookeeper.peerType: observer}}",
        ),
        expect![[r#"
            spec.config.clientPort: the operator sets it: clients find every member on the ensemble's client port; leave it out
            spec.config.dataDir: the operator sets it: each member's data lives on its own volume; leave it out
            spec.config.server.1: the operator sets it: members join and leave with spec.voters.replicas and spec.observers.replicas; leave it out
            spec.config.zookeeper.peerType: the operator sets it: voters come from spec.voters, observers from spec.observers; leave it out
        "#]],
    );
}

#[test]
fn keys_that_do_not_exist_or_have_wrong_values() {
    check(
        &spec(
            "{config: {ticktime: 2000, snapCount: many, forceSync: 'maybe', quux: 1}, voters: {config: {syncLimit: 0}}}",
        ),
        expect![[r#"
            spec.config.forceSync: is "maybe"; "yes" or "no" is wanted
            spec.config.quux: there is no such key of zoo.cfg
            spec.config.snapCount: is "many"; a whole number is wanted
            spec.config.ticktime: there is no such key of zoo.cfg; did you mean "tickTime"?
            spec.voters.config.syncLimit: 0 is out of range; from 1 to 2147483647
        "#]],
    );
}

#[test]
fn values_need_no_quotes() {
    let config = "localSessionsEnabled: true, leaderServes: \"yes\", forceSync: no, tickTime: 2000, \"4lw.commands.whitelist\": \"*\"";
    check(
        &spec(&format!("{{config: {{{config}}}}}")),
        expect![[r#"
        valid: 3 voters, 0 observers
    "#]],
    );
    check(
        &spec("{config: {tickTime: [2000], initLimit: {a: 1}, snapCount: true}}"),
        expect![[r#"
            spec.config.initLimit: is a map of fields; a text, a number, true or false is wanted
            spec.config.tickTime: is a list; a text, a number, true or false is wanted
        "#]],
    );
}

#[test]
fn session_timeouts_that_contradict_each_other() {
    check(
        &spec("{config: {tickTime: 2000, maxSessionTimeout: 3000}}"),
        expect![[r#"
        spec.config: minSessionTimeout (4000 ms) is above maxSessionTimeout (3000 ms); left out, they are 2 and 20 times tickTime
    "#]],
    );
}

#[test]
fn storage_that_makes_no_sense() {
    check(
        &spec("{storage: {size: huge, whenScaledDown: Burn}, voters: {storage: {size: 0Gi}}}"),
        expect![[r#"
        spec.storage.whenScaledDown: "Burn" is not allowed; one of Delete, Retain
    "#]],
    );
    check(
        &spec("{storage: {size: huge}, voters: {storage: {size: 0Gi}}}"),
        expect![[r#"
        spec.storage.size: "huge" is not a size; write a number with a unit, for example "10Gi"
        spec.voters.storage.size: "0Gi" is not a size; write a number with a unit, for example "10Gi"
    "#]],
    );
}

#[test]
fn another_kind_of_object() {
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: Demo_1}\nspec: {replicas: 3}\n",
        expect![[r#"
            apiVersion: is "apps/v1"; write "zookeeper.ensemble.dev/v1alpha1"
            kind: is "Deployment"; write "ZooKeeperEnsemble"
            metadata.name: "Demo_1" cannot be part of a host name; use lower-case letters, digits and "-", with a letter first
            spec.replicas: there is no such field; there are: allowEvenVoters, config, image, imagePullPolicy, imagePullSecrets, networkPolicy, observers, pod, podDisruptionBudget, repair, resources, restartedAt, services, storage, updatePolicy, voters
        "#]],
    );
}

#[test]
fn not_a_manifest_at_all() {
    check(
        "just words",
        expect![[r#"
        not a ZooKeeperEnsemble: a manifest has apiVersion, kind, metadata and spec
    "#]],
    );
    check(
        "a: [1, 2",
        expect![[r#"
        not readable as YAML: did not find expected ',' or ']' at line 2 column 1, while parsing a flow sequence at line 1 column 4
    "#]],
    );
    check(
        "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\n",
        expect![[r#"
        metadata.name: is missing; every ensemble has a name
        spec: is missing; write "spec: {}" for three voters with default settings
    "#]],
    );
}

#[test]
fn one_ensemble_a_file() {
    let two = format!("{}---\n{}", spec("{}"), spec("{}"));
    check(
        &two,
        expect![[r#"
        more than one document (---); write one ensemble a file
    "#]],
    );
}

#[test]
fn pod_settings_may_not_take_a_members_identity() {
    check(
        &spec(
            "{pod: {labels: {app.kubernetes.io/name: x, team: a}, overrides: {metadata: {annotations: {zookeeper.ensemble.dev/x: y}}, \
             spec: {hostname: h, restartPolicy: Never, volumes: [{name: data, emptyDir: {}}], \
             containers: [{name: zookeeper, image: other, args: [x], volumeMounts: [{name: x, mountPath: /data}]}]}}}}",
        ),
        expect![[r#"
            spec.pod.labels.app.kubernetes.io/name: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.metadata.annotations.zookeeper.ensemble.dev/x: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.hostname: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.restartPolicy: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.volumes[data]: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.containers[zookeeper].args: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.containers[zookeeper].volumeMounts[/data]: the operator sets it: a member is found by it; leave it out
            spec.pod.overrides.spec.containers[zookeeper].image: set it with spec.image
        "#]],
    );
}

#[test]
fn overrides_that_are_no_pod_template() {
    check(
        &spec(
            "{voters: {pod: {overrides: {spec: {hostAlias: [], terminationGracePeriodSeconds: long}}}}}",
        ),
        expect![[r#"
            spec.voters.pod.overrides: is not a pod template: invalid type: string "long", expected i64
        "#]],
    );
    check(
        &spec(
            "{voters: {pod: {overrides: {spec: {hostAlias: [], containers: [{name: a, imge: b}]}}}}}",
        ),
        expect![[r#"
            spec.voters.pod.overrides.spec.containers[0].imge: there is no such field in a pod template, or it is empty
            spec.voters.pod.overrides.spec.hostAlias: there is no such field in a pod template, or it is empty
        "#]],
    );
    check(
        &spec("{pod: {overrides: 7, affinty: {}}}"),
        expect![[r#"
        spec.pod.affinty: there is no such field; did you mean "affinity"?
        spec.pod.overrides: is 7; a map of fields is wanted
    "#]],
    );
}

#[test]
fn settings_of_kubernetes() {
    check(
        &spec(
            "{repair: {afterNodeLost: soon}, storage: {log: {size: 0}}, updatePolicy: {maxObserversAtOnce: 0}, \
             services: {client: {type: Magic}}, pod: {tolerations: [{key: a, operater: b}]}}",
        ),
        expect![[r#"
            spec.pod.tolerations[0].operater: there is no such field; did you mean "operator"?
            spec.services.client.type: "Magic" is not allowed; one of ClusterIP, NodePort, LoadBalancer
            spec.storage.log.size: is 0; a string is wanted
            spec.updatePolicy.maxObserversAtOnce: 0 is too small; at least 1
        "#]],
    );
    check(
        &spec("{repair: {afterNodeLost: 0s}, storage: {log: {size: 0Gi}}}"),
        expect![[r#"
            spec.storage.log.size: "0Gi" is not a size; write a number with a unit, for example "10Gi"
            spec.repair.afterNodeLost: "0s" is not a time span; write for example "90s", "10m" or "2h"
        "#]],
    );
}
