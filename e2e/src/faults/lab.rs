//! Where faults happen: a network namespace for the clients with a bridge in it, and one more for each member, all linked to
//! that bridge. Nothing of the machine's own network is touched.
//!
//! Whatever way the run ends, a janitor removes what it made: a process that only waits until the run's end of a pipe is
//! closed, by the run itself or by the kernel. What a janitor left that was killed too, the next run removes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::disk::{Disk, Medium};
use super::network::Network;
use crate::config::Place;
use crate::report::say;
use crate::tools;

const PREFIX: &str = "zkf";
/// Locks of runs, by which a later run tells who is still there.
const STATE: &str = "/run/zookeeper-faults";
const CLEAN: &str = include_str!("../../faults/clean");
/// The janitor: not ended by the signals that end the run.
const JANITOR: &str =
    "trap '' INT TERM HUP; cat > /dev/null; exec sh -c \"$0\" clean \"$1\" \"$2\"";

/// The place of one ensemble with faults.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    janitor: Option<Child>,
    /// Held as long as the run lives.
    _lock: File,
    /// The members' links.
    pub network: Network,
    /// The members' disks: member N's is at N − 1.
    pub disks: Vec<Disk>,
}

impl Lab {
    /// Makes namespaces and disks for `members`. The calling thread, and all that it starts from here on, is among the
    /// clients: [`in_lab`] gives it a thread of its own.
    fn new(members: u32, medium: Medium) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        tools::fault_tools()?;
        let base = tools::work_dir()?.join("faults");
        fs::create_dir_all(&base)?;
        fs::create_dir_all(STATE)?;
        remove_stale()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}x{number}", std::process::id());
        let dir = base.join(&name);
        let mut lock = File::create(Path::new(STATE).join(&name))?;
        lock.lock()?;
        lock.write_all(dir.as_os_str().as_encoded_bytes())?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, CLEAN, &name])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the janitor")?;
        let mut lab = Self {
            network: Network::new(&name, members),
            name,
            dir,
            janitor: Some(janitor),
            _lock: lock,
            disks: Vec::new(),
        };
        fs::create_dir_all(&lab.dir)?;
        lab.network.up()?;
        for id in 1..=members {
            let disk = Disk::new(&lab.dir.join(format!("disk-{id}")), medium)?;
            lab.disks.push(disk);
        }
        lab.enter()?;
        Ok(lab)
    }

    fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.network.hub());
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Where each member lives.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let place = |(disk, id): (&Disk, u32)| Place {
            address: address(id),
            namespace: Some(self.network.namespace(id)),
            data: Some(disk.data()),
        };
        self.disks.iter().zip(1..).map(place).collect()
    }

    /// Member `id`'s disk.
    pub fn disk(&mut self, id: u32) -> &mut Disk {
        &mut self.disks[id as usize - 1]
    }

    /// Mends every disk and every link, as far as that can be done.
    pub fn heal(&mut self) -> Result<()> {
        let disks: Vec<Result<()>> = self.disks.iter_mut().map(Disk::mend).collect();
        self.network.heal()?;
        disks.into_iter().collect()
    }

    /// Lets the janitor remove everything.
    fn remove(&mut self) -> Result<()> {
        let Some(mut janitor) = self.janitor.take() else {
            return Ok(());
        };
        drop(janitor.stdin.take());
        let status = janitor.wait()?;
        ensure!(status.success(), "{} left something behind", self.name);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failure; the janitor itself has said what it could not remove.
        if let Err(error) = self.remove() {
            say(format!("{}: {error:#}", self.name));
        }
    }
}

/// Runs `work` in a new lab, in a thread of its own that is among the lab's clients.
pub fn in_lab<T: Send>(
    members: u32,
    medium: Medium,
    work: impl FnOnce(&mut Lab) -> Result<T> + Send,
) -> Result<T> {
    let inside = move || {
        let mut lab = Lab::new(members, medium)?;
        let result = work(&mut lab);
        let removed = lab.remove();
        let result = result?;
        removed.map(|()| result)
    };
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A member's address; 0 stands for the clients.
#[must_use]
pub fn address(id: u32) -> Ipv4Addr {
    let last = if id == 0 { 254 } else { id as u8 };
    Ipv4Addr::new(10, 77, 0, last)
}

/// Removes what runs left that are no more.
fn remove_stale() -> Result<()> {
    for entry in fs::read_dir(STATE)? {
        let path = entry?.path();
        let Ok(lock) = File::open(&path) else {
            continue; // its run has just ended
        };
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => continue,
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
            Ok(()) => {}
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let dir = fs::read_to_string(&path)?;
        if name.starts_with(PREFIX) && !dir.is_empty() {
            say(format!("removing what {name} left behind"));
            let status = Command::new("sh")
                .args(["-c", CLEAN, "clean", &name, &dir])
                .status()?;
            if !status.success() {
                bail!("cannot remove what {name} left behind");
            }
        }
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error.into());
        }
    }
    Ok(())
}
