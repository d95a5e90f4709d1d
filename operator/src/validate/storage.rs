//! Volumes: sizes that are sizes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Problem;
use crate::crd::spec::StorageSpec;

/// Checks the volumes of a role, or of all.
pub(super) fn check(path: &str, storage: Option<&StorageSpec>, problems: &mut Vec<Problem>) {
    let Some(storage) = storage else { return };
    check_size(&format!("{path}.size"), &storage.size, problems);
    if let Some(log) = &storage.log {
        check_size(&format!("{path}.log.size"), &log.size, problems);
    }
}

fn check_size(path: &str, size: &Quantity, problems: &mut Vec<Problem>) {
    if bytes(size).is_none_or(|bytes| bytes < 1.0) {
        let message = format!(
            "{:?} is not a size; write a number with a unit, for example \"10Gi\"",
            size.0
        );
        problems.push(Problem::new(path, message));
    }
}

/// A size in bytes; none when it is not a number with a unit.
pub(crate) fn bytes(size: &Quantity) -> Option<f64> {
    let text = size.0.as_str();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = UNITS.iter().find(|(name, _)| *name == unit);
    let scale = scale.map(|(_, scale)| *scale)?;
    number.parse::<f64>().ok().map(|number| number * scale)
}

const UNITS: [(&str, f64); 12] = [
    ("", 1.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("m", 1e-3),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes() {
        let size = |text: &str| bytes(&Quantity(text.into()));
        assert_eq!(size("1Ki"), Some(1024.0));
        assert_eq!(size("1.5k"), Some(1500.0));
        assert_eq!(size("7"), Some(7.0));
        assert_eq!(size("huge"), None);
        assert_eq!(size("1 Gi"), None);
    }
}
