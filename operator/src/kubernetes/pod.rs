//! A member's pod: what the manifest asks for, over safe defaults, under what a member is found by.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, ExecAction,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, Pod, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::{Settings, names};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::ZooKeeperEnsemble;
use crate::desired::Desired;

/// The pod of a member. Make it by create: its fixed name keeps a second one from running.
pub fn pod(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    desired: &Desired,
    settings: &Settings,
    id: ServerId,
    role: Role,
) -> Pod {
    let spec = cluster.role(role);
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(spec.pod.labels.clone()),
            annotations: Some(spec.pod.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(ensemble, cluster, settings, id, role)),
    };
    for overrides in &spec.overrides {
        template.merge_from(overrides.clone());
    }
    let mut metadata = template.metadata.unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.extend(names::member_labels(&cluster.name, id, role));
    let hash = desired.template(role).hash.clone();
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(names::TEMPLATE_HASH.into(), hash);
    metadata.name = Some(names::member(&cluster.name, id));
    metadata.namespace = Some(cluster.namespace.clone());
    metadata.owner_references = ensemble.controller_owner_ref(&()).map(|owner| vec![owner]);
    Pod {
        metadata,
        spec: template.spec,
        status: None,
    }
}

fn pod_spec(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    settings: &Settings,
    id: ServerId,
    role: Role,
) -> PodSpec {
    let own = &cluster.role(role).pod;
    let secrets = ensemble.spec.image_pull_secrets.iter();
    let secrets: Vec<LocalObjectReference> = secrets.cloned().collect();
    let selector = &own.node_selector;
    PodSpec {
        affinity: own.affinity.clone().or_else(|| Some(apart(&cluster.name))),
        automount_service_account_token: Some(false),
        containers: vec![server(ensemble, cluster, settings, id, role)],
        enable_service_links: Some(false),
        hostname: Some(names::member(&cluster.name, id)),
        image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
        node_selector: Some(selector.clone()).filter(|selector| !selector.is_empty()),
        priority_class_name: own.priority_class_name.clone(),
        restart_policy: Some("Always".into()),
        security_context: Some(pod_security(own.security_context.as_ref())),
        subdomain: Some(names::headless_service(&cluster.name)),
        termination_grace_period_seconds: Some(GRACE_PERIOD_S),
        tolerations: own.tolerations.clone(),
        topology_spread_constraints: Some(spread(cluster, role)),
        volumes: Some(volumes(cluster, id, role)),
        ..PodSpec::default()
    }
}

fn server(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    settings: &Settings,
    id: ServerId,
    role: Role,
) -> Container {
    let id = id.to_string();
    let args = ["serve", CONFIG_FILE, "--home", DATA, "--id", &id];
    let image = cluster.image.as_ref().unwrap_or(&settings.node_image);
    let mut mounts = vec![mount("config", CONFIG), mount("data", DATA)];
    if cluster.role(role).storage.log.is_some() {
        mounts.push(mount("log", LOG));
    }
    if let Some(config) = mounts.first_mut() {
        config.read_only = Some(true);
    }
    let pull = ensemble.spec.image_pull_policy;
    Container {
        name: names::CONTAINER.into(),
        image: Some(image.clone()),
        image_pull_policy: pull.map(|policy| policy.name().into()),
        args: Some(args.map(str::to_owned).into()),
        liveness_probe: Some(probe("alive", 10, 6)),
        ports: Some(PORTS.map(|(name, port)| container_port(name, port)).into()),
        readiness_probe: Some(probe("ready", 5, 2)),
        resources: cluster.role(role).resources.clone(),
        security_context: Some(container_security()),
        // A server that reads a long history first may take its time.
        startup_probe: Some(probe("alive", 2, 300)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        ..VolumeMount::default()
    }
}

fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: port.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

/// Asks the server's own program; whether there is a quorum never decides over life and death.
fn probe(question: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        exec: Some(ExecAction {
            command: Some(vec![PROGRAM.into(), question.into()]),
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn volumes(cluster: &Cluster, id: ServerId, role: Role) -> Vec<Volume> {
    let claim = |name: &str, claim_name: String| Volume {
        name: name.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name,
            read_only: None,
        }),
        ..Volume::default()
    };
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::member(&cluster.name, id),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![config, claim("data", names::data_claim(&cluster.name, id))];
    if cluster.role(role).storage.log.is_some() {
        volumes.push(claim("log", names::log_claim(&cluster.name, id)));
    }
    volumes
}

/// What a restricted namespace asks of a container.
fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".into()]),
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn pod_security(own: Option<&PodSecurityContext>) -> PodSecurityContext {
    let mut context = PodSecurityContext {
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    };
    if let Some(own) = own {
        context.merge_from(own.clone());
    }
    context
}

/// Members prefer nodes of their own; one node is enough for all of them.
fn apart(ensemble: &str) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(names::label_selector(ensemble, None)),
        topology_key: HOST_NAME.into(),
        ..PodAffinityTerm::default()
    };
    let weighted = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: term,
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![weighted]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// The role's members over the zones, as evenly as may be.
fn spread(cluster: &Cluster, role: Role) -> Vec<TopologySpreadConstraint> {
    let over_zones = || {
        vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: ZONE.into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        }]
    };
    let own = cluster.role(role).pod.topology_spread.clone();
    let mut constraints = own.unwrap_or_else(over_zones);
    for constraint in &mut constraints {
        let selector = || names::label_selector(&cluster.name, Some(role));
        constraint.label_selector.get_or_insert_with(selector);
    }
    constraints
}

/// Label of a node: its zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
const HOST_NAME: &str = "kubernetes.io/hostname";
const USER: i64 = 1000;
const GRACE_PERIOD_S: i64 = 30;
const PROGRAM: &str = "/zookeeper-node";
const CONFIG: &str = "/etc/zookeeper";
const CONFIG_FILE: &str = "/etc/zookeeper/zoo.cfg";
/// Where a member's data is.
pub(super) const DATA: &str = "/data";
/// Where a member's log is, when it has a volume of its own.
pub(super) const LOG: &str = "/log";
const PORTS: [(&str, u16); 4] = [
    ("tcp-client", names::CLIENT_PORT),
    ("tcp-quorum", names::QUORUM_PORT),
    ("tcp-election", names::ELECTION_PORT),
    ("http-metrics", names::METRICS_PORT),
];
