//! Random faults in random order, for a time: the seed decides which ones. Whatever they are, nothing may be lost and no
//! promise be broken; and when all faults of a round are over, all members have to serve within a bound.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::damage::Damage;
use super::disk::Medium;
use super::lab::in_lab;
use super::network::CLIENTS;
use super::row::load_average;
use super::stage::{Setting, Stage};
use super::verdict::Verdict;
use crate::random::Random;
use crate::report::say;
use crate::servers::Kind;
use crate::tools;

/// How long an ensemble has to serve again after the faults of a round.
const RECOVERY: Duration = Duration::from_secs(90);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Whose servers.
    pub kind: Kind,
    /// 3 or 5; the seed chooses when nothing is said. There is an observer besides.
    pub voters: Option<usize>,
    /// How long.
    pub time: Duration,
    /// Decides everything that is not the machine's own affair.
    pub seed: u64,
    /// Where the log of the faults is kept, and all else.
    pub keep: Option<PathBuf>,
}

/// Something that goes wrong with one member, or between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    KillAll,
    Pause,
    PowerCut,
    CutOff,
    CutPair,
    Deaf,
    Unheard,
    CutFromClients,
    SlowLink,
    FullDisk,
    FrozenDisk,
    SlowDisk,
    BrokenDisk,
    Damage(Damage),
}

impl Fault {
    /// Those that leave all files whole.
    const HARMLESS: [Self; 13] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::PowerCut,
        Self::CutOff,
        Self::CutPair,
        Self::Deaf,
        Self::Unheard,
        Self::CutFromClients,
        Self::SlowLink,
        Self::FullDisk,
        Self::FrozenDisk,
        Self::SlowDisk,
    ];

    /// What the log and the counts call it.
    fn name(self) -> String {
        match self {
            Self::Damage(damage) => format!("damage {damage:?}"),
            other => format!("{other:?}"),
        }
    }
}

/// Runs it; whether every promise was kept.
pub fn run(campaign: &Campaign) -> Result<bool> {
    let mut random = Random::new(campaign.seed);
    let voters = campaign.voters.unwrap_or(3 + 2 * random.index(2));
    let dir = match &campaign.keep {
        Some(dir) => dir.clone(),
        None => tools::work_dir()?.join(format!("random-{:?}-{}", campaign.kind, campaign.seed)),
    };
    fs::create_dir_all(&dir)?;
    let path = dir.join("faults.log");
    let mut log = Log {
        file: File::create(&path)?,
        start: Instant::now(),
        counts: BTreeMap::new(),
    };
    log.line(&format!(
        "{:?}, {voters} voters and an observer, seed {}, {} s",
        campaign.kind,
        campaign.seed,
        campaign.time.as_secs()
    ))?;
    let (mib, memory_mib, purge) = match campaign.kind {
        Kind::Ours => (192, 256, "autopurge.purgeInterval=30s"),
        // Its smallest interval is an hour.
        Kind::Apache => (512, 640, "autopurge.purgeInterval=0"),
    };
    let settings = ["preAllocSize=256", "snapCount=3000", purge];
    let setting = Setting {
        kind: campaign.kind,
        voters,
        observers: 1,
        settings: settings.map(str::to_owned).to_vec(),
        first: Vec::new(),
        write_pace: Duration::from_millis(100),
        record_pace: Duration::from_millis(20),
        seed: campaign.seed,
    };
    let medium = Medium::Memory { mib, memory_mib };
    campaign.kind.provide()?;
    let verdict = in_lab(voters as u32 + 1, medium, |lab| {
        let mut stage = Stage::start(lab, &setting)?;
        let converged = rounds(&mut stage, &mut random, campaign.time, &mut log)?;
        let (mut verdict, files) = stage.end()?;
        if !converged {
            verdict
                .violations
                .push("the ensemble did not come back".to_owned());
        }
        conclude(&verdict, &files, &dir, &mut log)?;
        Ok(verdict)
    })?;
    say(format!("the faults' log is {}", path.display()));
    Ok(verdict.offence().is_none())
}

/// The log of the faults, with the time of each.
struct Log {
    file: File,
    start: Instant,
    counts: BTreeMap<String, usize>,
}

impl Log {
    fn line(&mut self, text: &str) -> Result<()> {
        let line = format!("{:9.3} s  {text}", self.start.elapsed().as_secs_f64());
        say(&line);
        writeln!(self.file, "{line}")?;
        Ok(())
    }
}

/// Plays faults until the time is over; whether the ensemble came back every time.
fn rounds(
    stage: &mut Stage<'_>,
    random: &mut Random,
    time: Duration,
    log: &mut Log,
) -> Result<bool> {
    let start = Instant::now();
    let mut told = start;
    while start.elapsed() < time {
        // Files are only hurt where all others are whole and up to date, and alone.
        let hurts = random.below(6) == 0;
        if hurts && !recover(stage, log)? {
            return Ok(false);
        }
        let count = if hurts { 1 } else { 1 + random.index(2) };
        for _ in 0..count {
            let fault = choose(random, hurts);
            begin(stage, random, fault, log)?;
        }
        let lasts = Duration::from_millis(500 + random.below(8000));
        stage.watch(lasts)?;
        log.line(&format!("healed after {:.1} s", lasts.as_secs_f64()))?;
        heal(stage)?;
        let calm = hurts || random.below(2) == 0;
        if calm && !recover(stage, log)? {
            return Ok(false);
        }
        stage.watch(Duration::from_millis(random.below(2000)))?;
        for (id, (times, how)) in stage.take_ends() {
            log.line(&format!(
                "server {id} ended by itself, {times} times: {how}"
            ))?;
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            let (events, batches) = stage.progress();
            let faults: usize = log.counts.values().sum();
            let load = load_average();
            log.line(&format!(
                "so far {faults} faults, {batches} batches of writes, {events} events of the history; load {load}"
            ))?;
        }
    }
    heal(stage)?;
    recover(stage, log)
}

fn choose(random: &mut Random, hurts: bool) -> Fault {
    if !hurts {
        return Fault::HARMLESS[random.index(Fault::HARMLESS.len())];
    }
    match random.index(Damage::ALL.len() + 2) {
        place if place < Damage::ALL.len() => Fault::Damage(Damage::ALL[place]),
        _ => Fault::BrokenDisk,
    }
}

/// Everything is whole and runs.
fn heal(stage: &mut Stage<'_>) -> Result<()> {
    stage.heal()?;
    for server in &mut stage.servers().servers {
        if server.pid().is_none() {
            server.start()?;
        } else {
            server.resume()?;
        }
    }
    Ok(())
}

fn recover(stage: &mut Stage<'_>, log: &mut Log) -> Result<bool> {
    stage.heal()?;
    match stage.recover(RECOVERY)? {
        Some(took) => {
            log.line(&format!("all serve after {:.1} s", took.as_secs_f64()))?;
            let all_vote = stage.wait_votes(RECOVERY)?;
            if !all_vote {
                log.line(&format!("not all vote after {} s", RECOVERY.as_secs()))?;
            }
            Ok(all_vote)
        }
        None => {
            log.line(&format!("not all serve after {} s", RECOVERY.as_secs()))?;
            Ok(false)
        }
    }
}

fn begin(stage: &mut Stage<'_>, random: &mut Random, fault: Fault, log: &mut Log) -> Result<()> {
    let members = stage.servers().servers.len();
    // The leader suffers as often as all others together.
    let leader = stage.servers().leader();
    let any = random.index(members) as u32 + 1;
    let id = match leader {
        Some(leader) if random.below(2) == 0 => leader,
        _ => any,
    };
    let others = stage.others(id);
    let other = others[random.index(others.len())];
    let of_disk = matches!(
        fault,
        Fault::FullDisk | Fault::FrozenDisk | Fault::SlowDisk | Fault::BrokenDisk
    );
    if of_disk && stage.lab.disk(id).is_troubled() {
        return Ok(());
    }
    let led = if leader == Some(id) {
        ", the leader"
    } else {
        ""
    };
    let mut detail = String::new();
    if fault == Fault::CutPair {
        detail = format!(" from server {other}");
    }
    match fault {
        Fault::Damage(damage) => {
            kill(stage, id)?;
            let data = stage.servers().server(id).data_dir();
            match damage.strike(&data) {
                Ok(done) => detail = format!(": {done}"),
                // There may be no snapshot yet.
                Err(error) => detail = format!(", which found nothing to damage: {error:#}"),
            }
            stage.servers().server(id).start()?;
        }
        other_fault => strike(stage, other_fault, id, other, &others)?,
    }
    *log.counts.entry(fault.name()).or_default() += 1;
    log.line(&format!("{} of server {id}{led}{detail}", fault.name()))
}

fn kill(stage: &mut Stage<'_>, id: u32) -> Result<()> {
    if stage.servers().server(id).pid().is_some() {
        stage.servers().server(id).kill()?;
    }
    stage.leave_down(id);
    Ok(())
}

fn strike(stage: &mut Stage<'_>, fault: Fault, id: u32, other: u32, others: &[u32]) -> Result<()> {
    let (stall, work) = (Duration::from_millis(300), Duration::from_millis(150));
    match fault {
        Fault::Kill => return kill_thawed(stage, id),
        Fault::KillAll => {
            for member in others.iter().chain([&id]) {
                kill_thawed(stage, *member)?;
            }
        }
        Fault::Pause => {
            if stage.servers().server(id).pid().is_some() {
                stage.servers().server(id).pause()?;
            }
        }
        Fault::PowerCut => {
            stage.lab.network.unplug(id)?;
            kill_thawed(stage, id)?;
        }
        Fault::CutPair => stage.lab.network.cut(id, other)?,
        Fault::CutFromClients => stage.lab.network.cut(id, CLIENTS)?,
        Fault::CutOff => {
            for other in others {
                stage.lab.network.cut(id, *other)?;
            }
        }
        Fault::Deaf => {
            for other in others {
                stage.lab.network.cut_one_way(*other, id)?;
            }
        }
        Fault::Unheard => {
            for other in others {
                stage.lab.network.cut_one_way(id, *other)?;
            }
        }
        Fault::SlowLink => stage.lab.network.slow(id, 256)?,
        Fault::FullDisk => stage.lab.disk(id).fill()?,
        Fault::FrozenDisk => stage.lab.disk(id).freeze()?,
        Fault::SlowDisk => stage.lab.disk(id).stutter(stall, work)?,
        Fault::BrokenDisk => stage.lab.disk(id).break_writes()?,
        Fault::Damage(_) => {}
    }
    Ok(())
}

/// A process that waits for a frozen disk cannot be killed.
fn kill_thawed(stage: &mut Stage<'_>, id: u32) -> Result<()> {
    stage.lab.disk(id).mend()?;
    kill(stage, id)
}

fn conclude(verdict: &Verdict, files: &Path, dir: &Path, log: &mut Log) -> Result<()> {
    for note in &verdict.notes {
        log.line(note)?;
    }
    let counts: Vec<String> = log
        .counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let faults: usize = log.counts.values().sum();
    log.line(&format!("{faults} faults: {}", counts.join(", ")))?;
    log.line(&format!(
        "{} writes acknowledged, {} with unknown outcome, {} lost; history: {:?}",
        verdict.acknowledged,
        verdict.unknown,
        verdict.lost.len(),
        verdict.history
    ))?;
    match verdict.offence() {
        None => {
            log.line("every promise was kept")?;
            fs::remove_dir_all(files)?;
        }
        Some(offence) => {
            log.line(&format!("BROKEN: {offence}"))?;
            let to = dir.join("servers");
            let moved = to.exists() || fs::rename(files, &to).is_err();
            let at = if moved { files } else { &to };
            log.line(&format!("servers' logs and the history: {}", at.display()))?;
        }
    }
    log.file
        .sync_all()
        .context("the log of the faults cannot be kept")
}
