//! What a person sees: a live table below the lines on a terminal, only lines elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};

use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::crd::status::MemberStatus;
use crate::plan::{Plan, Step};

/// Writes to standard output.
#[derive(Debug)]
pub(super) struct Console {
    name: String,
    terminal: bool,
    /// The table as it stands on the terminal.
    table: String,
    /// What was last said of the plan and of each member, so that nothing is said twice.
    said: String,
    members: BTreeMap<u32, String>,
}

impl Console {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            terminal: stdout().is_terminal(),
            table: String::new(),
            said: String::new(),
            members: BTreeMap::new(),
        }
    }

    /// Prints a line above the table.
    pub(super) fn line(&mut self, line: &str) {
        let time = k8s_openapi::jiff::Zoned::now().strftime("%H:%M:%S");
        let text = format!("{time} {line}\n");
        self.redraw(&text, self.table.clone());
    }

    /// Says what is done or waited for, once.
    pub(super) fn plan(&mut self, plan: &Plan) {
        let words = plan.to_string();
        let quiet = matches!(plan.next, Some(Step::Render { .. }));
        if quiet || plan.next.is_none() && plan.waiting.is_none() || words == self.said {
            return;
        }
        self.said.clone_from(&words);
        self.line(&words);
    }

    /// Brings the table up to date; without a terminal, says what has changed.
    pub(super) fn show(&mut self, cluster: &Cluster, status: &ZooKeeperEnsembleStatus) {
        if self.terminal {
            let table = self.draw(cluster, status);
            if table != self.table {
                self.redraw("", table);
            }
        } else {
            self.say_changes(status);
        }
        let at_rest = status.plan.next.is_none() && status.plan.waiting.is_none();
        let ready = format!("ready {:?} {:?}", status.observed_generation, status.leader);
        if at_rest && self.said != ready {
            self.said = ready;
            self.line(&ready_line(status));
        }
    }

    /// Leaves the table as it stands.
    pub(super) fn close(&mut self) {
        self.table.clear();
    }

    fn say_changes(&mut self, status: &ZooKeeperEnsembleStatus) {
        let now: BTreeMap<u32, String> = status
            .members
            .iter()
            .map(|member| (member.id, format!("{} ({})", member.state, member.role)))
            .collect();
        let before = std::mem::replace(&mut self.members, now.clone());
        for member in &status.members {
            let words = now.get(&member.id);
            if words != before.get(&member.id) && words.is_some() {
                let MemberStatus {
                    id,
                    role,
                    state,
                    client_address,
                    ..
                } = member;
                self.line(&format!("member {id} ({role}, {client_address}): {state}"));
            }
        }
        for id in before.keys().filter(|id| !now.contains_key(id)) {
            self.line(&format!("member {id} is gone"));
        }
    }

    fn draw(&self, cluster: &Cluster, status: &ZooKeeperEnsembleStatus) -> String {
        let mut table = String::new();
        let leader = status
            .leader
            .map_or("no leader".into(), |leader| format!("leader {leader}"));
        let epoch = status
            .epoch
            .map_or(String::new(), |epoch| format!(", epoch {epoch}"));
        let counts = format!(
            "{}/{} voters, {}/{} observers",
            status.ready_voters,
            cluster.voters.replicas,
            status.ready_observers,
            cluster.observers.replicas
        );
        let mut row = |text: String| writeln!(table, "{text}").expect("a String takes all");
        row(format!(
            "\n{}: {counts}, {leader}{epoch}. {}",
            self.name, status.plan.summary
        ));
        row(format!(
            "{:>4}  {:<9} {:<10} {:<14} CLIENTS",
            "ID", "ROLE", "STATE", "ZXID"
        ));
        for member in &status.members {
            let MemberStatus {
                id,
                role,
                state,
                zxid,
                client_address,
                ..
            } = member;
            let zxid = zxid.as_deref().unwrap_or("-");
            row(format!(
                "{id:>4}  {role:<9} {state:<10} {zxid:<14} {client_address}"
            ));
        }
        if let Some(connect) = &status.connect_string {
            row(format!("connect: {connect}"));
        }
        table
    }

    /// Takes the old table away, prints `text`, puts the new table below it.
    fn redraw(&mut self, text: &str, table: String) {
        let mut all = String::new();
        let lines = self.table.lines().count();
        if self.terminal && lines > 0 {
            write!(all, "\x1b[{lines}A\x1b[J").expect("a String takes all");
        }
        all.push_str(text);
        if self.terminal {
            // Long lines would wrap and be counted wrongly; the terminal cuts them off instead.
            write!(all, "\x1b[?7l{table}\x1b[?7h").expect("a String takes all");
        }
        let mut out = stdout().lock();
        // Whoever closed our output does not want to be told.
        let _ = out.write_all(all.as_bytes()).and_then(|()| out.flush());
        self.table = table;
    }
}

/// One line with all that a user needs next.
fn ready_line(status: &ZooKeeperEnsembleStatus) -> String {
    let with = |state: &str| -> Vec<String> {
        let members = status.members.iter().filter(|member| member.state == state);
        members.map(|member| member.id.to_string()).collect()
    };
    let part = |name: &str, ids: Vec<String>| match ids.as_slice() {
        [] => String::new(),
        ids => format!(", {name} {}", ids.join(" ")),
    };
    let leader = with("leader").join(" ");
    let (followers, observers) = (
        part("followers", with("follower")),
        part("observers", with("observer")),
    );
    let connect = status.connect_string.as_deref().unwrap_or_default();
    format!("ready: leader {leader}{followers}{observers}; connect to {connect}")
}
