//! Settings of pods: those of a role over those of the ensemble, and overrides that may not take a member's identity.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::{Map, Value};

use super::Problem;
use crate::crd::pod::{CONTAINER, PodSettings, is_own};

/// The settings of a role over those of the ensemble. Maps are merged; a list or an object replaces the other.
pub(super) fn merged(common: &PodSettings, own: &PodSettings) -> PodSettings {
    let (common, own) = (common.clone(), own.clone());
    let mut merged = PodSettings {
        affinity: own.affinity.or(common.affinity),
        tolerations: own.tolerations.or(common.tolerations),
        node_selector: common.node_selector,
        topology_spread: own.topology_spread.or(common.topology_spread),
        priority_class_name: own.priority_class_name.or(common.priority_class_name),
        labels: common.labels,
        annotations: common.annotations,
        security_context: common.security_context,
        overrides: None,
    };
    merged.node_selector.extend(own.node_selector);
    merged.labels.extend(own.labels);
    merged.annotations.extend(own.annotations);
    merged.security_context.merge_from(own.security_context);
    merged
}

/// Reads `overrides` and refuses what would take a member's identity.
pub(super) fn overrides(
    path: &str,
    pod: &PodSettings,
    problems: &mut Vec<Problem>,
) -> Option<PodTemplateSpec> {
    for (field, map) in [("labels", &pod.labels), ("annotations", &pod.annotations)] {
        for key in map.keys().filter(|key| is_own(key)) {
            problems.push(Problem::new(&format!("{path}.{field}.{key}"), OWN.into()));
        }
    }
    let given = pod.overrides.as_ref()?;
    let path = format!("{path}.overrides");
    let template: PodTemplateSpec = match serde_json::from_value(Value::Object(given.clone())) {
        Ok(template) => template,
        Err(error) => {
            problems.push(Problem::new(
                &path,
                format!("is not a pod template: {error}"),
            ));
            return None;
        }
    };
    let understood = serde_json::to_value(&template).expect("a pod template is plain data");
    for field in lost(given, &understood, "") {
        let message = "there is no such field in a pod template, or it is empty".into();
        problems.push(Problem::new(&format!("{path}{field}"), message));
    }
    check_metadata(&path, &template, problems);
    if let Some(spec) = &template.spec {
        check_spec(&format!("{path}.spec"), spec, problems);
    }
    Some(template)
}

fn check_metadata(path: &str, template: &PodTemplateSpec, problems: &mut Vec<Problem>) {
    let metadata = template.metadata.iter();
    let maps = metadata.flat_map(|metadata| {
        [
            ("labels", &metadata.labels),
            ("annotations", &metadata.annotations),
        ]
    });
    for (field, map) in maps {
        for key in map
            .iter()
            .flat_map(|map| map.keys())
            .filter(|key| is_own(key))
        {
            problems.push(Problem::new(
                &format!("{path}.metadata.{field}.{key}"),
                OWN.into(),
            ));
        }
    }
}

fn check_spec(path: &str, spec: &PodSpec, problems: &mut Vec<Problem>) {
    let mut refuse = |field: &str, given: bool| {
        if given {
            problems.push(Problem::new(&format!("{path}.{field}"), OWN.into()));
        }
    };
    refuse("hostname", spec.hostname.is_some());
    refuse("subdomain", spec.subdomain.is_some());
    refuse("restartPolicy", spec.restart_policy.is_some());
    refuse("hostNetwork", spec.host_network.is_some());
    for volume in spec.volumes.iter().flatten() {
        let ours = OWN_VOLUMES.contains(&volume.name.as_str());
        refuse(&format!("volumes[{}]", volume.name), ours);
    }
    for container in spec.containers.iter().filter(|it| it.name == CONTAINER) {
        let field = |name: &str| format!("containers[{}].{name}", CONTAINER);
        refuse(&field("args"), container.args.is_some());
        refuse(&field("command"), container.command.is_some());
        let mounts = container.volume_mounts.iter().flatten();
        for mount in mounts.filter(|mount| OWN_PATHS.contains(&mount.mount_path.as_str())) {
            refuse(&field(&format!("volumeMounts[{}]", mount.mount_path)), true);
        }
        if container.image.is_some() {
            let message = "set it with spec.image".into();
            problems.push(Problem::new(&format!("{path}.{}", field("image")), message));
            return;
        }
    }
}

/// Fields that were given and are no part of what was understood.
fn lost(given: &Map<String, Value>, understood: &Value, path: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for (field, value) in given {
        let path = format!("{path}.{field}");
        match (value, understood.get(field)) {
            (Value::Null, _) => {}
            (_, None) if path == ".spec.containers" => {}
            (_, None) => fields.push(path),
            (Value::Object(given), Some(understood)) => {
                fields.extend(lost(given, understood, &path))
            }
            (Value::Array(given), Some(Value::Array(understood))) => {
                for (at, (given, understood)) in given.iter().zip(understood).enumerate() {
                    if let Value::Object(given) = given {
                        fields.extend(lost(given, understood, &format!("{path}[{at}]")));
                    }
                }
            }
            _ => {}
        }
    }
    fields
}

const OWN: &str = "the operator sets it: a member is found by it; leave it out";
const OWN_VOLUMES: [&str; 3] = ["data", "log", "config"];
const OWN_PATHS: [&str; 3] = ["/data", "/log", "/etc/zookeeper"];
