//! `Cluster` → what every member of a role should run with. Pure.
//!
//! A template holds what is the same for all members of a role; its hash tells whether a running member is up to
//! date. What differs by member (ports, folders) and the membership are added by [`crate::render`], and are not part
//! of the hash: neither a promotion nor a newcomer restarts anyone.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use crate::cluster::{Cluster, Role};

/// What the members should run with.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// For voters.
    pub voter: Template,
    /// For observers.
    pub observer: Template,
}

/// What all members of one role share.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Keys of `zoo.cfg`.
    pub keys: BTreeMap<String, String>,
    /// Changes when a member has to restart to follow the template.
    pub hash: String,
}

impl Desired {
    /// The template of one role.
    pub fn template(&self, role: Role) -> &Template {
        match role {
            Role::Voter => &self.voter,
            Role::Observer => &self.observer,
        }
    }
}

/// Computes the templates.
pub fn desired(cluster: &Cluster) -> Desired {
    Desired {
        voter: template(cluster, Role::Voter),
        observer: template(cluster, Role::Observer),
    }
}

fn template(cluster: &Cluster, role: Role) -> Template {
    let spec = cluster.role(role);
    let mut keys: BTreeMap<String, String> = DEFAULTS
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    keys.extend(spec.config.clone());
    add_own_words(&mut keys);
    let restart = (
        TEMPLATE_VERSION,
        &keys,
        &cluster.image,
        &cluster.restarted_at,
        &spec.resources,
        &spec.pod,
        &spec.overrides,
    );
    let text = serde_json::to_string(&restart).expect("a template is plain data");
    let digest = Sha1::digest(text.as_bytes());
    let hash = digest
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Template { keys, hash }
}

/// The operator asks the members by four-letter words; a whitelist of the user's must not lock it out.
fn add_own_words(keys: &mut BTreeMap<String, String>) {
    let list = keys.entry("4lw.commands.whitelist".into()).or_default();
    if list.trim() == "*" {
        return;
    }
    for word in OWN_WORDS {
        if !list.split(',').any(|other| other.trim() == word) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(word);
        }
    }
}

/// Raised when pods are made in another way and those that run must be made anew; a newer operator alone restarts
/// nobody.
const TEMPLATE_VERSION: u32 = 1;

/// Four-letter words that the operator needs.
const OWN_WORDS: [&str; 6] = ["conf", "isro", "mntr", "ruok", "srvr", "stat"];

/// What a member runs with unless the manifest says otherwise, and what an ensemble of ours cannot do without.
const DEFAULTS: [(&str, &str); 8] = [
    ("admin.enableServer", "false"),
    ("autopurge.purgeInterval", "1"),
    ("autopurge.snapRetainCount", "3"),
    ("initLimit", "10"),
    ("reconfigEnabled", "true"),
    ("standaloneEnabled", "false"),
    ("syncLimit", "5"),
    ("tickTime", "2000"),
];
