//! Members' disks: folders, or ext4 on a loop device whose image lies on a disk or in memory. A loop mount can be frozen
//! and filled; when the memory under its image is full, writing fails with EIO where the server believes that it has space.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::run;

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A folder on the disk of the target folder.
    Folder,
    /// ext4 on a loop device; the image lies on that disk.
    Loop {
        /// Size of the file system.
        mib: u32,
    },
    /// ext4 on a loop device; the image lies in memory, which can be taken away.
    Memory {
        /// Size of the file system.
        mib: u32,
        /// Size of the memory.
        memory_mib: u32,
    },
}

/// One member's disk.
#[derive(Debug)]
pub struct Disk {
    medium: Medium,
    dir: PathBuf,
    frozen: bool,
    pulse: Option<(Arc<AtomicBool>, JoinHandle<Result<()>>)>,
}

impl Disk {
    pub(super) fn new(dir: &Path, medium: Medium) -> Result<Self> {
        let disk = Self {
            medium,
            dir: dir.to_owned(),
            frozen: false,
            pulse: None,
        };
        fs::create_dir_all(disk.mount())?;
        let mib = match medium {
            Medium::Folder => return Ok(disk),
            Medium::Loop { mib } => mib,
            Medium::Memory { mib, memory_mib } => {
                fs::create_dir_all(disk.memory())?;
                let size = format!("size={memory_mib}m");
                run(Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &size, "faults"])
                    .arg(disk.memory()))?;
                mib
            }
        };
        let image = disk.image();
        File::create(&image)?.set_len(u64::from(mib) << 20)?;
        // Without a journal a failed write stays what it is, and does not make the whole file system read-only.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-O", "^has_journal"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop,discard,errors=continue"])
            .arg(&image)
            .arg(disk.mount()))?;
        Ok(disk)
    }

    fn mount(&self) -> PathBuf {
        self.dir.join("mount")
    }

    fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    fn image(&self) -> PathBuf {
        match self.medium {
            Medium::Memory { .. } => self.memory().join("image"),
            Medium::Loop { .. } | Medium::Folder => self.dir.join("image"),
        }
    }

    /// The folder for a server's data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.mount().join("data")
    }

    /// Whether something is wrong with it already.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        let full = [self.mount(), self.memory()]
            .iter()
            .any(|place| ballast(place).exists());
        self.frozen || self.pulse.is_some() || full
    }

    /// From now on whoever writes waits.
    pub fn freeze(&mut self) -> Result<()> {
        ensure!(self.medium != Medium::Folder, "a folder cannot be frozen");
        freeze(&self.mount())?;
        self.frozen = true;
        Ok(())
    }

    /// Those who wait go on.
    pub fn thaw(&mut self) -> Result<()> {
        if std::mem::take(&mut self.frozen) {
            thaw(&self.mount())?;
        }
        Ok(())
    }

    /// The disk stalls for `stall` again and again, and works for `work` in between.
    pub fn stutter(&mut self, stall: Duration, work: Duration) -> Result<()> {
        ensure!(self.pulse.is_none(), "the disk stutters already");
        let stop = Arc::new(AtomicBool::new(false));
        let (mount, stopped) = (self.mount(), Arc::clone(&stop));
        let pulse = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                freeze(&mount)?;
                std::thread::sleep(stall);
                thaw(&mount)?;
                std::thread::sleep(work);
            }
            Ok(())
        });
        self.pulse = Some((stop, pulse));
        Ok(())
    }

    /// Takes all space that is left. Who has reserved some can go on for a while.
    pub fn fill(&self) -> Result<()> {
        ensure!(self.medium != Medium::Folder, "a folder cannot be filled");
        fill(&self.mount())
    }

    /// From now on writes to places that were never written fail, although the file system has space.
    pub fn break_writes(&self) -> Result<()> {
        let Medium::Memory { .. } = self.medium else {
            bail!("only an image in memory can be broken")
        };
        fill(&self.memory())
    }

    /// The disk works again.
    pub fn mend(&mut self) -> Result<()> {
        if let Some((stop, pulse)) = self.pulse.take() {
            stop.store(true, Ordering::Relaxed);
            pulse.join().expect("the pulse does not panic")?;
        }
        self.thaw()?;
        for place in [self.mount(), self.memory()] {
            match fs::remove_file(ballast(&place)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn freeze(mount: &Path) -> Result<()> {
    run(Command::new("fsfreeze").arg("-f").arg(mount))
}

fn thaw(mount: &Path) -> Result<()> {
    run(Command::new("fsfreeze").arg("-u").arg(mount))
}

fn ballast(place: &Path) -> PathBuf {
    place.join("ballast")
}

/// Writes until there is no space, in ever smaller pieces.
fn fill(place: &Path) -> Result<()> {
    let path = ballast(place);
    let mut file = File::options().create(true).append(true).open(&path)?;
    for shift in [20, 16, 12] {
        let piece = vec![0x5a; 1 << shift];
        loop {
            match file.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot fill {}", path.display()));
                }
            }
        }
    }
    Ok(())
}
