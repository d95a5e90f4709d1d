//! Rules that compare a changed spec with the one before, as CEL: what a role ends up with counts, whether it comes
//! from `spec.storage` or from the role's own `storage`.

/// The role's volume may only grow.
pub(super) fn size_grows(role: &str) -> String {
    let size = |object: &str| of(object, role, |storage| format!("{storage}.size"));
    format!(
        "quantity({}).compareTo(quantity({})) >= 0",
        size("self"),
        size("oldSelf")
    )
}

/// The role's log volume may only grow, when there is one.
pub(super) fn log_size_grows(role: &str) -> String {
    let size = |object: &str| {
        of(object, role, |storage| {
            format!("(has({storage}.log) ? {storage}.log.size : '0')")
        })
    };
    let (new, old) = (size("self"), size("oldSelf"));
    format!("{new} == '0' || quantity({new}).compareTo(quantity({old})) >= 0")
}

/// The role's storage class stays.
pub(super) fn same_class(role: &str) -> String {
    same(role, |storage| {
        format!("(has({storage}.storageClass) ? {storage}.storageClass : '')")
    })
}

/// The role has a log volume, or has none, as before.
pub(super) fn same_log(role: &str) -> String {
    same(role, |storage| format!("has({storage}.log)"))
}

/// The storage class of the role's log volume stays, when there is one before and after.
pub(super) fn same_log_class(role: &str) -> String {
    same(role, |storage| {
        format!(
            "(has({storage}.log) && has({storage}.log.storageClass) ? {storage}.log.storageClass : '')"
        )
    })
}

fn same(role: &str, what: impl Fn(&str) -> String) -> String {
    format!(
        "{} == {}",
        of("self", role, &what),
        of("oldSelf", role, &what)
    )
}

/// Something about the storage that a role ends up with.
fn of(object: &str, role: &str, what: impl Fn(&str) -> String) -> String {
    let (own, common) = (
        format!("{object}.{role}.storage"),
        format!("{object}.storage"),
    );
    format!("(has({own}) ? {} : {})", what(&own), what(&common))
}
