//! The operator: it keeps ZooKeeper ensembles as manifests ask for them.
//!
//! `observe → validate → desired → plan → execute → status`. Only `observe` and `execute` touch the world (a
//! [`backend`] does both); everything between them is a pure function of what was read.

pub mod backend;
pub mod check;
pub mod client;
pub mod cluster;
pub mod crd;
pub mod desired;
pub mod ensemble;
pub mod kubernetes;
pub mod local;
pub mod membership;
pub mod observed;
pub mod permissions;
pub mod plan;
pub mod reconcile;
pub mod render;
pub mod safety;
pub mod status;
pub mod validate;

use std::path::Path;

/// The steps from one manifest's ensemble to another's, a line for each. Errors have a line for each problem.
pub fn plan_between(from: Option<&Path>, to: &Path) -> Result<String, Vec<String>> {
    let to = read_manifest(to)?;
    let mut world = observed::Observed::default();
    if let Some(from) = from {
        let from = read_manifest(from)?;
        plan::carry_out(&from, &desired::desired(&from), &mut world);
    }
    let steps = plan::carry_out(&to, &desired::desired(&to), &mut world);
    Ok(match steps.as_slice() {
        [] => "nothing to do\n".into(),
        steps => steps
            .iter()
            .enumerate()
            .map(|(at, step)| format!("{:>3}. {step}\n", at + 1))
            .collect(),
    })
}

fn read_manifest(file: &Path) -> Result<cluster::Cluster, Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| vec![format!("{}: {error}", file.display())])?;
    let ensemble = validate::parse(&text).and_then(|ensemble| validate::validate(&ensemble));
    ensemble.map_err(|problems| {
        problems
            .iter()
            .map(|problem| format!("{}: {problem}", file.display()))
            .collect()
    })
}
