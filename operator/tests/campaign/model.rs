//! The model itself: it answers as a real API server does, and its ensemble loses data when it should.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error};
use serde_json::{Value, json};

use super::api_model::{self, Crash, Key, Life, Random, Shared, Trouble, World};

/// Runs a test on one thread, which `kube` needs a runtime for.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn client(world: &Shared) -> Client {
    Client::new(api_model::Api(Life::new(world, 0)), "ns")
}

fn manager() -> PatchParams {
    PatchParams::apply("zookeeper-operator").force()
}

fn map(data: Value) -> Patch<Value> {
    Patch::Apply(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo"}, "data": data}),
    )
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String) {
    match result.unwrap_err() {
        Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("not an answer of the API server: {other}"),
    }
}

#[test]
fn what_is_applied_no_more_goes_and_what_others_set_stays() {
    run(async {
        let world = Shared::new(World::new(1));
        let maps: Api<ConfigMap> = Api::namespaced(client(&world), "ns");
        let first = maps
            .patch("demo", &manager(), &map(json!({"a": "1", "b": "2"})))
            .await
            .unwrap();
        let key = Key::new("configmaps", "ns", "demo");
        world.lock().store.edit(&key, |map| {
            map["metadata"]["annotations"]["by"] = json!("somebody")
        });
        let second = maps
            .patch("demo", &manager(), &map(json!({"a": "1"})))
            .await
            .unwrap();
        assert_eq!(
            second.data.clone().unwrap().into_keys().collect::<Vec<_>>(),
            ["a"]
        );
        assert_eq!(
            second.metadata.annotations.as_ref().unwrap()["by"],
            "somebody"
        );
        assert_eq!(first.metadata.uid, second.metadata.uid);
        let third = maps
            .patch("demo", &manager(), &map(json!({"a": "1"})))
            .await
            .unwrap();
        assert_eq!(
            second.metadata.resource_version,
            third.metadata.resource_version
        );
    });
}

#[test]
fn lists_of_an_applied_object_are_merged_by_their_keys() {
    run(async {
        let world = Shared::new(World::new(1));
        let services: Api<Service> = Api::namespaced(client(&world), "ns");
        let apply = |ports: Value| {
            Patch::Apply(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}, "spec": {"ports": ports}}),
            )
        };
        let both = apply(json!([{"name": "tcp-a", "port": 1}, {"name": "tcp-b", "port": 2}]));
        services.patch("demo", &manager(), &both).await.unwrap();
        let one = services
            .patch(
                "demo",
                &manager(),
                &apply(json!([{"name": "tcp-b", "port": 2}])),
            )
            .await
            .unwrap();
        let spec = one.spec.unwrap();
        assert!(spec.cluster_ip.is_some(), "the server gives an address");
        let ports = spec.ports.unwrap();
        assert_eq!(ports.len(), 1);
        assert_eq!(
            ports[0].protocol.as_deref(),
            Some("TCP"),
            "the server fills in what was left out"
        );
    });
}

#[test]
fn creations_and_replacements_conflict() {
    run(async {
        let world = Shared::new(World::new(1));
        let maps: Api<ConfigMap> = Api::namespaced(client(&world), "ns");
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "demo"}})).unwrap();
        let mut created = maps.create(&PostParams::default(), &map).await.unwrap();
        assert_eq!(
            code(maps.create(&PostParams::default(), &map).await),
            (409, "AlreadyExists".into())
        );
        let outdated = created.clone();
        created.data = Some([("a".into(), "1".into())].into());
        maps.replace("demo", &PostParams::default(), &created)
            .await
            .unwrap();
        assert_eq!(
            code(
                maps.replace("demo", &PostParams::default(), &outdated)
                    .await
            ),
            (409, "Conflict".into())
        );
        assert!(maps.get_opt("other").await.unwrap().is_none());
        let none = maps
            .list(&ListParams::default().labels("a=b"))
            .await
            .unwrap();
        assert_eq!(none.items.len(), 0);
    });
}

#[test]
fn a_deletion_holds_only_for_what_it_names() {
    run(async {
        let world = Shared::new(World::new(1));
        let maps: Api<ConfigMap> = Api::namespaced(client(&world), "ns");
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "demo"}})).unwrap();
        let created = maps.create(&PostParams::default(), &map).await.unwrap();
        let with = |uid: &str, resource_version: Option<String>| DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.into()),
                resource_version,
            }),
            ..DeleteParams::default()
        };
        assert_eq!(
            code(maps.delete("demo", &with("other", None)).await),
            (409, "Conflict".into())
        );
        let uid = created.metadata.uid.unwrap();
        assert_eq!(
            code(maps.delete("demo", &with(&uid, Some("0".into()))).await),
            (409, "Conflict".into())
        );
        maps.delete("demo", &with(&uid, created.metadata.resource_version))
            .await
            .unwrap();
        assert_eq!(
            code(maps.delete("demo", &with(&uid, None)).await),
            (404, "NotFound".into())
        );
    });
}

fn pod_with_claim() -> (Value, Value) {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1024Mi"}}}});
    let pod = json!({"metadata": {"name": "demo-1"}, "spec": {
        "hostname": "demo-1", "subdomain": "demo-headless",
        "containers": [{"name": "zookeeper", "image": "node", "args": ["serve", "--id", "1"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "conf", "mountPath": "/etc/zookeeper"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "conf", "configMap": {"name": "demo"}}]}});
    (pod, claim)
}

#[test]
fn a_claim_in_use_outlives_its_deletion_and_a_pod_stops_gracefully() {
    run(async {
        let world = Shared::new(World::new(1));
        let pods: Api<Pod> = Api::namespaced(client(&world), "ns");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(&world), "ns");
        let maps: Api<ConfigMap> = Api::namespaced(client(&world), "ns");
        let (pod, claim) = pod_with_claim();
        let lines = "server.1:demo-1.demo-headless.ns.svc.cluster.local:2888:3888";
        maps.patch("demo", &manager(), &map(json!({"zoo.cfg": lines})))
            .await
            .unwrap();
        claims
            .create(
                &PostParams::default(),
                &serde_json::from_value(claim).unwrap(),
            )
            .await
            .unwrap();
        pods.create(
            &PostParams::default(),
            &serde_json::from_value(pod).unwrap(),
        )
        .await
        .unwrap();
        (0..12).for_each(|_| world.lock().tick());
        let told = world
            .lock()
            .ask("demo-1.demo-headless.ns.svc.cluster.local:2181");
        assert!(told.is_some_and(|told| told.answer.state == operator::observed::State::Leader));
        let spec = claims.get("data").await.unwrap().spec.unwrap();
        let size = spec.resources.unwrap().requests.unwrap();
        assert_eq!(
            size["storage"].0, "1Gi",
            "quantities come back in their canonical form"
        );
        claims
            .delete("data", &DeleteParams::default())
            .await
            .unwrap();
        world.lock().tick();
        assert!(
            claims
                .get("data")
                .await
                .unwrap()
                .metadata
                .deletion_timestamp
                .is_some()
        );
        pods.delete("demo-1", &DeleteParams::default())
            .await
            .unwrap();
        assert!(
            pods.get("demo-1")
                .await
                .unwrap()
                .metadata
                .deletion_timestamp
                .is_some()
        );
        (0..5).for_each(|_| world.lock().tick());
        assert_eq!(code(pods.get("demo-1").await), (404, "NotFound".into()));
        assert_eq!(code(claims.get("data").await), (404, "NotFound".into()));
        assert!(world.lock().volumes.is_empty());
    });
}

#[test]
fn an_operator_that_dies_sees_no_answer_and_its_last_request_may_count() {
    for carried_out in [true, false] {
        run(async {
            let world = Shared::new(World::new(1));
            let life = Life::new(&world, 0);
            let maps: Api<ConfigMap> =
                Api::namespaced(Client::new(api_model::Api(life.clone()), "ns"), "ns");
            world.lock().crash = Some(Crash {
                after: 1,
                carried_out,
            });
            maps.patch("demo", &manager(), &map(json!({"a": "1"})))
                .await
                .unwrap();
            let (params, patch) = (manager(), map(json!({"a": "2"})));
            tokio::select! {
                answer = maps.patch("demo", &params, &patch) => panic!("{answer:?}"),
                () = life.died.notified() => {}
            }
            let key = Key::new("configmaps", "ns", "demo");
            let value = world.lock().store.get(&key).unwrap()["data"]["a"].clone();
            assert_eq!(value, if carried_out { "2" } else { "1" });
        });
    }
}

#[test]
fn requests_fail_in_every_way_there_is() {
    run(async {
        let world = Shared::new(World::new(1));
        let maps: Api<ConfigMap> = Api::namespaced(client(&world), "ns");
        world.lock().trouble = Some(Trouble {
            random: Random::new(1),
            percent: 100,
        });
        let (mut codes, mut lost) = (std::collections::BTreeSet::new(), 0);
        for _ in 0..60 {
            match maps.patch("demo", &manager(), &map(json!({}))).await {
                Err(Error::Api(status)) => drop(codes.insert(status.code)),
                Err(_) => lost += 1,
                Ok(answer) => panic!("{answer:?}"),
            }
        }
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), [409, 429, 500]);
        assert!(lost > 0);
        assert_eq!(
            world.lock().store.all("configmaps").count(),
            1,
            "some were carried out all the same"
        );
    });
}
