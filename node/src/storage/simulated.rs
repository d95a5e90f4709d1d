//! A disk in memory for tests: deterministic (in one thread), and with everything that a real one does at the worst moment.
//!
//! Each file has two contents: what the process sees, and what is on stable storage, with the writes between them in their
//! order. Each directory likewise has names that are only seen, and names that last. A crash keeps, of what was not
//! flushed, nothing, all, or any part that a disk may leave: each sector as it was after some of the writes to it, each
//! change of a name for itself. Cloning gives another handle to the same disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::StorageError;
use super::files::{Dir, DiskFile, FileSystem, Lock, Open, parent};

/// What a disk writes wholly or not at all.
pub const SECTOR: usize = 512;

/// What a crash keeps of that which was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// Some of it; the number decides.
    Some(u64),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// Names that are seen, and those that last.
    names: BTreeMap<PathBuf, u64>,
    lasting: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was flushed.
    renamed: Vec<Change>,
    dirs: BTreeSet<PathBuf>,
    /// Counts crashes: files that were opened before one are dead.
    life: u64,
    /// Operations that changed something.
    operations: u64,
    faults: Faults,
    works_again: Arc<Condvar>,
    spent_us: u64,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Bytes that fit on the disk.
    pub capacity: Option<u64>,
    /// Who changes something waits until this ends. Only for tests with threads.
    pub hangs: bool,
    /// The next flush of a file whose path has this in it fails, and the disk then believes that it is clean.
    pub sync_fails: Option<String>,
    /// After so many operations that change something every one fails: the power is gone.
    pub power_until: Option<u64>,
    /// How long each flush takes, in microseconds, added up in [`SimDisk::spent_us`].
    pub sync_us: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    lasting: Vec<u8>,
    waiting: Vec<Write>,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

/// A name that begins or ends to mean a file; a rename is both at once.
#[derive(Clone, Debug)]
struct Change {
    dir: PathBuf,
    gone: Option<PathBuf>,
    link: Option<(PathBuf, u64)>,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, file)) = &self.link {
            names.insert(path.clone(), *file);
        }
    }
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Len(len) => content.resize(*len, 0),
        }
    }

    /// The part that lies in a sector.
    fn in_sector(&self, sector: usize) -> Option<Self> {
        let Self::Bytes(at, bytes) = self else {
            return None;
        };
        let from = (sector * SECTOR).max(*at);
        let to = ((sector + 1) * SECTOR).min(at + bytes.len());
        (from < to).then(|| Self::Bytes(from, bytes[from - at..to - at].to_vec()))
    }

    fn end(&self) -> usize {
        match self {
            Self::Bytes(at, bytes) => at + bytes.len(),
            Self::Len(len) => *len,
        }
    }
}

impl Content {
    /// After a crash. Each sector is as it was after some of the writes to it, the length as after some of the changes.
    fn settle(&mut self, keep: Keep, dice: &mut Dice) {
        let waiting = std::mem::take(&mut self.waiting);
        let all = waiting.len() as u64;
        let mut reached = || match keep {
            Keep::Nothing => 0,
            Keep::All => all,
            // The ends of the range are what happens most.
            Keep::Some(_) => (dice.next() % (3 * all + 1)).min(all) * (dice.next() % 2),
        };
        let longest = waiting.iter().map(Write::end).max().unwrap_or(0);
        let of_length = reached();
        let of_sector: Vec<u64> = (0..=longest / SECTOR).map(|_| reached()).collect();
        for (nth, write) in (0_u64..).zip(&waiting) {
            if let Write::Len(_) = write {
                if nth < of_length {
                    write.apply(&mut self.lasting);
                }
                continue;
            }
            for (sector, reached) in of_sector.iter().enumerate() {
                if nth < *reached
                    && let Some(part) = write.in_sector(sector)
                {
                    part.apply(&mut self.lasting);
                }
            }
        }
        self.seen = self.lasting.clone();
    }
}

/// A small generator of numbers: a run repeats exactly.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

fn error(errno: rustix::io::Errno) -> io::Error {
    errno.into()
}

fn no_power() -> io::Error {
    io::Error::other("the power is gone")
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory on it, as storage takes one.
    #[must_use]
    pub fn dir(&self, path: impl Into<PathBuf>) -> Dir {
        Dir::new(Arc::new(self.clone()), path)
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut state = self.0.lock();
        change(&mut state.faults);
        state.works_again.notify_all();
    }

    /// For who is about to change something.
    fn lock_for_change(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        let works_again = state.works_again.clone();
        works_again.wait_while(&mut state, |state| state.faults.hangs);
        state
    }

    /// From now on there is no room, but for so many bytes.
    pub fn fill(&self, left: u64) {
        let mut state = self.0.lock();
        state.faults.capacity = Some(state.used() + left);
    }

    /// Operations so far that changed something: each is a point at which a crash can come.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// How long all flushes took, in microseconds.
    #[must_use]
    pub fn spent_us(&self) -> u64 {
        self.0.lock().spent_us
    }

    /// The power fails and comes back. Open files are dead; the faults are over.
    pub fn crash(&self, keep: Keep) {
        let mut state = self.0.lock();
        state.life += 1;
        state.faults = Faults::default();
        state.works_again.notify_all();
        let mut dice = Dice(match keep {
            Keep::Some(seed) => seed,
            Keep::Nothing | Keep::All => 0,
        });
        let mut names = std::mem::take(&mut state.lasting);
        // A journal keeps changes in their order; nothing promises that there is one.
        let in_order = dice.one_in(2);
        let mut dropped = BTreeSet::new();
        for change in std::mem::take(&mut state.renamed) {
            let kept = match keep {
                Keep::Nothing => false,
                Keep::All => true,
                Keep::Some(_) => !(dice.one_in(2) || in_order && dropped.contains(&change.dir)),
            };
            if kept {
                change.apply(&mut names);
            } else {
                dropped.insert(change.dir);
            }
        }
        for content in state.files.values_mut() {
            content.settle(keep, &mut dice);
        }
        state.names = names.clone();
        state.lasting = names;
        let used: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| used.contains(file));
    }

    /// Changes bytes of a file behind everybody's back, on stable storage too; false if there is no such file.
    pub fn rot(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) -> bool {
        let mut state = self.0.lock();
        let Some(file) = state.names.get(path).copied() else {
            return false;
        };
        let content = state.files.entry(file).or_default();
        change(&mut content.seen);
        content.lasting = content.seen.clone();
        content.waiting.clear();
        true
    }

    /// A file is lost, on stable storage too.
    pub fn lose(&self, path: &Path) {
        let mut state = self.0.lock();
        state.names.remove(path);
        state.lasting.remove(path);
        let is_it = |change: &Change| change.link.as_ref().is_some_and(|(link, _)| link == path);
        state.renamed.retain(|change| !is_it(change));
    }

    /// Everything is lost: the disk was replaced by an empty one.
    pub fn wipe(&self) {
        let mut state = self.0.lock();
        let life = state.life + 1;
        *state = State {
            life,
            next_file: state.next_file,
            ..State::default()
        };
    }

    /// The paths of all files that are seen, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// What is seen of a file.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let file = state.names.get(path)?;
        state.files.get(file).map(|content| content.seen.clone())
    }

    /// A disk of its own that holds the same.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            files: state.files.clone(),
            next_file: state.next_file,
            names: state.names.clone(),
            lasting: state.lasting.clone(),
            renamed: state.renamed.clone(),
            dirs: state.dirs.clone(),
            life: state.life + 1,
            ..State::default()
        })))
    }
}

impl State {
    /// Counts an operation that changes something.
    fn change(&mut self) -> io::Result<()> {
        if self
            .faults
            .power_until
            .is_some_and(|until| self.operations >= until)
        {
            return Err(no_power());
        }
        self.operations += 1;
        Ok(())
    }

    fn used(&self) -> u64 {
        let used: BTreeSet<u64> = self.names.values().copied().collect();
        let files = used.iter().filter_map(|file| self.files.get(file));
        files.map(|content| content.seen.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        let capacity = self.faults.capacity.unwrap_or(1 << 40);
        capacity.saturating_sub(self.used())
    }

    fn rename_names(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.renamed.push(change);
    }

    fn grow(&mut self, file: u64, write: Write) -> io::Result<()> {
        self.change()?;
        let now = self.files.get(&file).map_or(0, |c| c.seen.len());
        let end = match &write {
            Write::Bytes(at, bytes) => at + bytes.len(),
            Write::Len(len) => *len,
        };
        if end.saturating_sub(now) as u64 > self.free() {
            return Err(error(rustix::io::Errno::NOSPC));
        }
        let content = self.files.entry(file).or_default();
        write.apply(&mut content.seen);
        content.waiting.push(write);
        Ok(())
    }

    fn sync(&mut self, file: u64, path: &Path) -> io::Result<()> {
        self.change()?;
        self.spent_us += self.faults.sync_us;
        let content = self.files.entry(file).or_default();
        let fails = |part: &String| path.to_string_lossy().contains(part.as_str());
        if self.faults.sync_fails.take_if(|part| fails(part)).is_some() {
            content.waiting.clear();
            return Err(error(rustix::io::Errno::IO));
        }
        content.waiting.clear();
        content.lasting = content.seen.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    file: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.act(self.disk.0.lock(), act)
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.act(self.disk.lock_for_change(), act)
    }

    fn act<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        if state.life != self.life {
            return Err(no_power());
        }
        act(&mut state)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let seen = state.files.get(&self.file).map_or(&[][..], |c| &c.seen);
            let from = usize::try_from(offset).map_or(seen.len(), |at| at.min(seen.len()));
            let n = out.len().min(seen.len() - from);
            out[..n].copy_from_slice(&seen[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        self.change(|state| state.grow(self.file, Write::Bytes(at, bytes.to_vec())))
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|state| {
            Ok(state
                .files
                .get(&self.file)
                .map_or(0, |c| c.seen.len() as u64))
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| ErrorKind::InvalidInput)?;
        self.change(|state| state.grow(self.file, Write::Len(len)))
    }

    fn reserve(&self, _from: u64, to: u64) -> io::Result<()> {
        self.set_len(to.max(self.length()?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|state| state.sync(self.file, &self.path))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl FileSystem for SimDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        let file = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        let (disk, life) = (self.clone(), state.life);
        let path = path.to_owned();
        Ok(Box::new(SimFile {
            disk,
            path,
            file,
            life,
        }))
    }

    fn open_write(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock_for_change();
        let there = state.names.get(path).copied();
        match (how, there) {
            (Open::New, Some(_)) => return Err(ErrorKind::AlreadyExists.into()),
            (Open::Existing, None) => return Err(ErrorKind::NotFound.into()),
            (Open::Existing, Some(_)) => {}
            (Open::Empty, Some(file)) => state.grow(file, Write::Len(0))?,
            (Open::New | Open::Empty, None) => {
                if !state.dirs.contains(parent(path)) {
                    return Err(ErrorKind::NotFound.into());
                }
                state.change()?;
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, Content::default());
                state.rename_names(Change {
                    dir: parent(path).to_owned(),
                    gone: None,
                    link: Some((path.to_owned(), file)),
                });
            }
        }
        drop(state);
        self.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_for_change();
        let file = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        state.change()?;
        state.rename_names(Change {
            dir: parent(to).to_owned(),
            gone: Some(from.to_owned()),
            link: Some((to.to_owned(), file)),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_for_change();
        if !state.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        state.change()?;
        state.rename_names(Change {
            dir: parent(path).to_owned(),
            gone: Some(path.to_owned()),
            link: None,
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let names = state.names.keys().filter(|path| parent(path) == dir);
        Ok(names
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_for_change();
        state.change()?;
        let (here, rest) = std::mem::take(&mut state.renamed)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.dir == dir);
        state.renamed = rest;
        for change in here {
            change.apply(&mut state.lasting);
        }
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0.lock().dirs.contains(path)
    }

    /// Directories last at once.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_for_change();
        state.change()?;
        state.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.0.lock().free())
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    fn lock(&self, _path: &Path) -> Result<Lock, StorageError> {
        Ok(Lock::private())
    }
}
