//! What keeps a pod from running, in words that say what to do.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::names;
use crate::observed::{Trouble, TroubleKind};

/// What keeps a pod from running; none when nothing does, or it is only on its way.
pub(super) fn of(pod: &Pod) -> Option<Trouble> {
    unschedulable(pod)
        .or_else(|| container(pod).and_then(waiting))
        .or_else(|| container(pod).and_then(dying))
}

/// The server's container.
pub(super) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut containers = status.container_statuses.iter().flatten();
    containers.find(|container| container.name == names::CONTAINER)
}

/// How the server's last run ended, when it runs no more or was started again.
pub(super) fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = container
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    now.or_else(|| {
        container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
    })
}

/// Whether the kubelet has given up for now: the pod stays as it is until something else changes.
pub(super) fn is_stuck(pod: &Pod) -> bool {
    unschedulable(pod).is_some() || container(pod).and_then(waiting).is_some()
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let condition = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find(|condition| condition.reason.as_deref() == Some("Unschedulable"))?;
    let why = condition.message.as_deref().unwrap_or("no node takes it");
    Some(trouble(
        TroubleKind::Scheduling,
        format!(
            "no node takes it: {}; make room, or change resources, pod.affinity, pod.nodeSelector, pod.tolerations or storage",
            brief(why)
        ),
    ))
}

/// A container that waits for anything but its turn.
fn waiting(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why = because(waiting.message.as_deref().unwrap_or_default());
    let image = &container.image;
    Some(match waiting.reason.as_deref()? {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => trouble(
            TroubleKind::Template,
            format!(
                "the image {image} cannot be pulled{why}; correct spec.image or spec.imagePullSecrets"
            ),
        ),
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "StartError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError" => trouble(
            TroubleKind::Template,
            format!(
                "its container cannot be made{why}; correct spec.pod, spec.image or what they refer to"
            ),
        ),
        "CrashLoopBackOff" => crash(container),
        _ => return None,
    })
}

/// A container that is between two runs, or was just started again after it was killed.
fn dying(container: &ContainerStatus) -> Option<Trouble> {
    if container.ready {
        return None;
    }
    last_end(container).filter(|end| end.exit_code != 0)?;
    Some(crash(container))
}

fn crash(container: &ContainerStatus) -> Trouble {
    let Some(end) = last_end(container) else {
        return trouble(
            TroubleKind::Crash,
            "it dies as soon as it is started; see its log".into(),
        );
    };
    if end.reason.as_deref() == Some("OOMKilled") {
        return trouble(
            TroubleKind::Template,
            "it was killed for using more memory than its limit; raise resources.limits.memory"
                .into(),
        );
    }
    let words = end.message.as_deref().map(last_words).unwrap_or_default();
    let said = if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    };
    match end.exit_code {
        EXIT_CONFIGURATION => trouble(
            TroubleKind::Template,
            format!("it refuses its configuration{said}; correct spec.config"),
        ),
        EXIT_DAMAGED => trouble(TroubleKind::Volume, format!("its data is damaged{said}")),
        code => trouble(
            TroubleKind::Crash,
            format!("it died with exit code {code}{said}"),
        ),
    }
}

/// The end of a longer text: the last lines of a log say why.
fn last_words(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    brief(line.unwrap_or_default())
}

/// What was said, after a colon.
fn because(text: &str) -> String {
    let words = brief(text);
    if words.is_empty() {
        words
    } else {
        format!(": {words}")
    }
}

/// A text on one line, of a length that fits into a status.
fn brief(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.trim_end_matches('.').to_owned(),
    }
}

pub(super) fn trouble(kind: TroubleKind, words: String) -> Trouble {
    Trouble { kind, words }
}

/// Exit code of a server whose configuration or call is wrong.
const EXIT_CONFIGURATION: i32 = 2;
/// Exit code of a server that found its storage damaged.
pub(super) const EXIT_DAMAGED: i32 = 3;
const MESSAGE_MAX: usize = 300;
