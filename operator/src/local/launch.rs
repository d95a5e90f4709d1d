//! The last thing before a member's program: tie its life to the operator's, then become it.
//!
//! The operator starts itself with a hidden subcommand that comes here, because what has to be said about the
//! parent's death is said by the child.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Becomes `NODE serve ZOO_CFG`, which dies with the process `parent`. Returns only when that failed.
pub fn launch(parent: i32, node: &Path, zoo_cfg: &Path) -> std::io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before it was asked for.
    if getppid() != Pid::from_raw(parent) {
        return std::io::Error::other("the operator has ended");
    }
    Command::new(node).arg("serve").arg(zoo_cfg).exec()
}
