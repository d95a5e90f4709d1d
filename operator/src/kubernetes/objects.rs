//! What an ensemble has beside its members: Services, budgets, a network policy, and configuration. Apply these on
//! every pass; nothing here is worth a restart.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use super::pod::{DATA, LOG};
use super::{Settings, names};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::ZooKeeperEnsemble;
use crate::crd::access::{ServiceKind, ServiceSettings};
use crate::desired::Desired;
use crate::membership::Server;
use crate::observed::Observed;
use crate::render::{MembershipSource, Place, zoo_cfg};

/// One object beside the members.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// A ConfigMap.
    ConfigMap(Box<ConfigMap>),
    /// A PodDisruptionBudget.
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    /// A NetworkPolicy.
    NetworkPolicy(Box<NetworkPolicy>),
}

/// Kinds of [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Service.
    Service,
    /// A ConfigMap.
    ConfigMap,
    /// A PodDisruptionBudget.
    PodDisruptionBudget,
    /// A NetworkPolicy.
    NetworkPolicy,
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        let metadata = match self {
            Self::Service(it) => &it.metadata,
            Self::ConfigMap(it) => &it.metadata,
            Self::PodDisruptionBudget(it) => &it.metadata,
            Self::NetworkPolicy(it) => &it.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }
}

/// The objects that should exist, the headless Service first: members find each other by it.
pub fn shared(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    settings: &Settings,
    observed: &Observed,
) -> Vec<Object> {
    let scope = Scope { ensemble, cluster };
    let services = &ensemble.spec.services;
    let mut objects = vec![
        Object::Service(Box::new(scope.headless())),
        Object::Service(Box::new(scope.service(
            names::client_service(&cluster.name),
            None,
            &services.client,
        ))),
        Object::ConfigMap(Box::new(scope.for_clients(settings, observed))),
    ];
    if wants_observers(cluster, observed) {
        objects.push(Object::Service(Box::new(scope.service(
            names::observers(&cluster.name),
            Some(Role::Observer),
            &services.observers,
        ))));
    }
    objects.extend(
        scope
            .budgets(observed)
            .map(|it| Object::PodDisruptionBudget(Box::new(it))),
    );
    if ensemble.spec.network_policy.enabled {
        objects.push(Object::NetworkPolicy(Box::new(scope.network_policy())));
    }
    objects
}

/// The objects that should not exist; all others of these names are in [`shared`].
pub fn absent(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    settings: &Settings,
    observed: &Observed,
) -> Vec<(Kind, String)> {
    let all = [
        (Kind::Service, names::observers(&cluster.name)),
        (Kind::PodDisruptionBudget, names::voters(&cluster.name)),
        (Kind::PodDisruptionBudget, names::observers(&cluster.name)),
        (Kind::NetworkPolicy, cluster.name.clone()),
    ];
    let there = shared(ensemble, cluster, settings, observed);
    let is_there = |(kind, name): &(Kind, String)| {
        there
            .iter()
            .any(|it| it.kind() == *kind && it.name() == name)
    };
    all.into_iter().filter(|it| !is_there(it)).collect()
}

/// A member's configuration: the `zoo.cfg` that its pod mounts. Apply it before its pod is made, and whenever it
/// differs: a member keeps what it wrote of the membership itself, and takes the rest from here.
pub fn member_config(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    desired: &Desired,
    settings: &Settings,
    observed: &Observed,
    id: ServerId,
    super_digest: &str,
) -> ConfigMap {
    let mut membership = observed.known().cloned().unwrap_or_default();
    // A newcomer that the membership does not know yet begins as an observer of it.
    membership.servers.entry(id).or_insert_with(|| Server {
        role: Role::Observer,
        address: settings.address(cluster, id),
    });
    let role = membership.role(id).unwrap_or(Role::Observer);
    let meant = observed.members.get(&id).map_or(role, |member| member.role);
    let log = cluster.role(meant).storage.log.as_ref();
    let place = Place {
        data_dir: DATA,
        log_dir: log.map(|_| LOG),
        client_host: "0.0.0.0",
        client_port: names::CLIENT_PORT,
        metrics_port: names::METRICS_PORT,
        super_digest,
    };
    let source = MembershipSource::Servers(membership);
    let text = zoo_cfg(desired.template(meant), &place, role, &source);
    let scope = Scope { ensemble, cluster };
    let mut metadata = scope.metadata(names::member(&cluster.name, id));
    metadata.labels = Some(names::member_labels(&cluster.name, id, meant));
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(names::CONFIG_KEY.into(), text)])),
        ..ConfigMap::default()
    }
}

struct Scope<'a> {
    ensemble: &'a ZooKeeperEnsemble,
    cluster: &'a Cluster,
}

impl Scope<'_> {
    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.cluster.namespace.clone()),
            labels: Some(names::labels(&self.cluster.name)),
            owner_references: self
                .ensemble
                .controller_owner_ref(&())
                .map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// Gives every member its host name, long before it serves: peers must find each other to elect.
    fn headless(&self) -> Service {
        let ports = [
            ("tcp-client", names::CLIENT_PORT),
            ("tcp-quorum", names::QUORUM_PORT),
            ("tcp-election", names::ELECTION_PORT),
            ("http-metrics", names::METRICS_PORT),
        ];
        Service {
            metadata: self.metadata(names::headless_service(&self.cluster.name)),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".into()),
                ports: Some(ports.map(|(name, port)| service_port(name, port)).into()),
                publish_not_ready_addresses: Some(true),
                selector: Some(names::selector(&self.cluster.name, None)),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    fn service(&self, name: String, role: Option<Role>, own: &ServiceSettings) -> Service {
        let mut metadata = self.metadata(name);
        let mut labels = own.labels.clone();
        labels.extend(names::labels(&self.cluster.name));
        metadata.labels = Some(labels);
        metadata.annotations = Some(own.annotations.clone()).filter(|it| !it.is_empty());
        let ranges = own.load_balancer_source_ranges.clone();
        let policy = own
            .external_traffic_policy
            .filter(|_| own.type_ != ServiceKind::ClusterIP);
        let mut port = service_port("tcp-client", names::CLIENT_PORT);
        port.app_protocol = Some("zookeeper.ensemble.dev/client".into());
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some(own.type_.name().into()),
                external_traffic_policy: policy.map(|policy| policy.name().into()),
                load_balancer_class: own.load_balancer_class.clone(),
                load_balancer_source_ranges: Some(ranges).filter(|it| !it.is_empty()),
                ports: Some(vec![port]),
                selector: Some(names::selector(&self.cluster.name, role)),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// What applications need to connect.
    fn for_clients(&self, settings: &Settings, observed: &Observed) -> ConfigMap {
        let known = observed.known();
        let list = |role: Role| -> String {
            let ids = known.iter().flat_map(|known| known.with_role(role));
            let hosts = ids.map(|id| settings.address(self.cluster, id).client());
            hosts.collect::<Vec<_>>().join(",")
        };
        let Cluster {
            name, namespace, ..
        } = self.cluster;
        let service = names::client_service(name);
        let domain = &settings.cluster_domain;
        let service = format!("{service}.{namespace}.svc.{domain}:{}", names::CLIENT_PORT);
        let data = [
            ("connect", list(Role::Voter)),
            ("observers", list(Role::Observer)),
            ("service", service),
        ];
        ConfigMap {
            metadata: self.metadata(name.clone()),
            data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ConfigMap::default()
        }
    }

    /// The voters' budget is a number of voters that must stay: for anything else Kubernetes would count by the
    /// `scale` of the ensemble, which is the number of observers.
    fn budgets(&self, observed: &Observed) -> impl Iterator<Item = PodDisruptionBudget> {
        let enabled = self.ensemble.spec.pod_disruption_budget.enabled;
        let committed = observed.known().map_or(0, |known| known.voters().count());
        let voters = committed.max(observed.with_role(Role::Voter).count());
        let name = &self.cluster.name;
        let of_voters = (enabled && voters > 1).then(|| {
            let least = i32::try_from(voters - 1).unwrap_or(i32::MAX);
            self.budget(names::voters(name), Role::Voter, Some(least))
        });
        let of_observers = (enabled && wants_observers(self.cluster, observed))
            .then(|| self.budget(names::observers(name), Role::Observer, None));
        of_voters.into_iter().chain(of_observers)
    }

    fn budget(&self, name: String, role: Role, least: Option<i32>) -> PodDisruptionBudget {
        let most = if least.is_none() {
            Some(IntOrString::Int(1))
        } else {
            None
        };
        PodDisruptionBudget {
            metadata: self.metadata(name),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: most,
                min_available: least.map(IntOrString::Int),
                selector: Some(names::label_selector(&self.cluster.name, Some(role))),
                // A pod that does not serve protects nothing; it must not hold a drain up.
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            }),
            status: None,
        }
    }

    fn network_policy(&self) -> NetworkPolicy {
        let members = NetworkPolicyPeer {
            pod_selector: Some(names::label_selector(&self.cluster.name, None)),
            ..NetworkPolicyPeer::default()
        };
        let clients = &self.ensemble.spec.network_policy.clients;
        let mut may_ask = vec![members.clone(), operator_pods()];
        may_ask.extend(clients.iter().cloned());
        let rule = |ports: &[u16], from: Vec<NetworkPolicyPeer>| NetworkPolicyIngressRule {
            from: Some(from).filter(|from| !from.is_empty()),
            ports: Some(ports.iter().map(|port| policy_port(*port)).collect()),
        };
        let may_ask = if clients.is_empty() {
            Vec::new()
        } else {
            may_ask
        };
        NetworkPolicy {
            metadata: self.metadata(self.cluster.name.clone()),
            spec: Some(NetworkPolicySpec {
                ingress: Some(vec![
                    rule(&[names::QUORUM_PORT, names::ELECTION_PORT], vec![members]),
                    rule(&[names::CLIENT_PORT], may_ask),
                    rule(&[names::METRICS_PORT], Vec::new()),
                ]),
                pod_selector: Some(names::label_selector(&self.cluster.name, None)),
                policy_types: Some(vec!["Ingress".into()]),
                egress: None,
            }),
        }
    }
}

/// The operator, wherever it was installed: it asks the members how they are.
fn operator_pods() -> NetworkPolicyPeer {
    let labels = BTreeMap::from([("app.kubernetes.io/name".into(), names::FIELD_MANAGER.into())]);
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some(labels),
            ..LabelSelector::default()
        }),
        ip_block: None,
    }
}

/// Observers are wanted, or some are still there.
fn wants_observers(cluster: &Cluster, observed: &Observed) -> bool {
    cluster.observers.replicas > 0 || observed.with_role(Role::Observer).next().is_some()
}

fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: port.into(),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(port.into())),
        ..ServicePort::default()
    }
}

fn policy_port(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    }
}
