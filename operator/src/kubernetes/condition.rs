//! Plain questions to pods and nodes.

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};
use kube::ResourceExt;

/// Whether a pod has run to its end: it never runs again, whatever its restart policy says. A node that shuts down in
/// good order leaves such pods.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod was told to go.
pub(super) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// One condition of a pod.
pub(super) fn of_pod<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether a pod is being evicted.
pub(super) fn is_evicted(pod: &Pod) -> bool {
    of_pod(pod, "DisruptionTarget").is_some_and(|condition| condition.status == "True")
}

/// Whether a node takes no further pods, as while it is drained.
pub(super) fn is_cordoned(node: &Node) -> bool {
    node.spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
}

/// The node's `Ready` condition, when it does not hold.
pub(super) fn not_ready(node: &Node) -> Option<&NodeCondition> {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    ready.filter(|condition| condition.status != "True")
}

/// The zone that a node is in.
pub(super) fn zone(node: &Node) -> Option<String> {
    node.labels().get(super::pod::ZONE).cloned()
}
