//! The members' links: cut for each direction and each pair by itself, slowed down, unplugged.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::lab::address;
use crate::tools::run;

/// The clients, where a member's number is asked for.
pub const CLIENTS: u32 = 0;

/// The links of one lab.
#[derive(Debug)]
pub struct Network {
    lab: String,
    members: u32,
    /// Directions in which nothing passes: from, to.
    cut: BTreeSet<(u32, u32)>,
    slow: BTreeSet<u32>,
    unplugged: BTreeSet<u32>,
}

impl Network {
    pub(super) fn new(lab: &str, members: u32) -> Self {
        Self {
            lab: lab.to_owned(),
            members,
            cut: BTreeSet::new(),
            slow: BTreeSet::new(),
            unplugged: BTreeSet::new(),
        }
    }

    pub(super) fn hub(&self) -> String {
        format!("{}-hub", self.lab)
    }

    pub(super) fn namespace(&self, id: u32) -> String {
        format!("{}-m{id}", self.lab)
    }

    /// Makes the namespaces, the bridge and the links.
    pub(super) fn up(&self) -> Result<()> {
        let hub = self.hub();
        let mut script = format!(
            "set -e\nip netns add {hub}\nip -n {hub} link set lo up\nip -n {hub} link add hub type bridge\n\
             ip -n {hub} addr add {}/24 dev hub\nip -n {hub} link set hub up\n",
            address(CLIENTS)
        );
        for id in 1..=self.members {
            let member = self.namespace(id);
            // Writing to a string cannot fail.
            let _ = write!(
                script,
                "ip netns add {member}\nip -n {member} link set lo up\n\
                 ip -n {hub} link add m{id} type veth peer name eth0 netns {member}\n\
                 ip -n {hub} link set m{id} master hub up\n\
                 ip -n {member} addr add {}/24 dev eth0\nip -n {member} link set eth0 up\n",
                address(id)
            );
        }
        run(Command::new("sh").args(["-c", &script]))
    }

    /// Cuts one direction.
    pub fn cut_one_way(&mut self, from: u32, to: u32) -> Result<()> {
        self.cut.insert((from, to));
        self.apply(from)?;
        self.apply(to)
    }

    /// Cuts both directions.
    pub fn cut(&mut self, one: u32, other: u32) -> Result<()> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    /// A member's cable is pulled: nobody is told, not even by a RST.
    pub fn unplug(&mut self, id: u32) -> Result<()> {
        self.unplugged.insert(id);
        self.link(id, "down")
    }

    /// The cable is in again.
    pub fn plug(&mut self, id: u32) -> Result<()> {
        self.unplugged.remove(&id);
        self.link(id, "up")
    }

    fn link(&self, id: u32, state: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.namespace(id), "link", "set", "eth0", state]))
    }

    /// A member's link carries so many kbit a second in each direction.
    pub fn slow(&mut self, id: u32, kbit: u32) -> Result<()> {
        self.slow.insert(id);
        for (namespace, device) in self.ends(id) {
            run(Command::new("tc").args([
                "-n",
                &namespace,
                "qdisc",
                "replace",
                "dev",
                &device,
                "root",
                "tbf",
                "rate",
                &format!("{kbit}kbit"),
                "burst",
                "8kb",
                "latency",
                "2s",
            ]))?;
        }
        Ok(())
    }

    fn ends(&self, id: u32) -> [(String, String); 2] {
        [
            (self.namespace(id), "eth0".to_owned()),
            (self.hub(), format!("m{id}")),
        ]
    }

    /// All links are whole again.
    pub fn heal(&mut self) -> Result<()> {
        let touched: BTreeSet<u32> = self.cut.iter().flat_map(|(a, b)| [*a, *b]).collect();
        self.cut.clear();
        touched.into_iter().try_for_each(|id| self.apply(id))?;
        for id in std::mem::take(&mut self.slow) {
            for (namespace, device) in self.ends(id) {
                run(Command::new("tc")
                    .args(["-n", &namespace, "qdisc", "del", "dev", &device, "root"]))?;
            }
        }
        for id in std::mem::take(&mut self.unplugged) {
            self.plug(id)?;
        }
        Ok(())
    }

    /// Writes a member's filter: what it does not hear, and what the clients do not hear from it.
    fn apply(&self, id: u32) -> Result<()> {
        if id == CLIENTS {
            return Ok(());
        }
        let mut rules =
            String::from("table ip faults\ndelete table ip faults\ntable ip faults {\n");
        rules.push_str("chain input { type filter hook input priority 0;\n");
        for (from, _) in self.cut.iter().filter(|(_, to)| *to == id) {
            let _ = writeln!(rules, "ip saddr {} drop;", address(*from));
        }
        rules.push_str("}\nchain output { type filter hook output priority 0;\n");
        if self.cut.contains(&(id, CLIENTS)) {
            let _ = writeln!(rules, "ip daddr {} drop;", address(CLIENTS));
        }
        rules.push_str("}\n}\n");
        let mut nft = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace(id)))
            .args(["--", "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut input = nft.stdin.take().context("standard input is a pipe")?;
        input.write_all(rules.as_bytes())?;
        drop(input);
        ensure!(nft.wait()?.success(), "nft refuses {rules}");
        Ok(())
    }
}
