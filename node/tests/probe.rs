//! `zookeeper-node ready` and `alive`, against a real server and against what else can be at an address.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use node::probe::{Question, ask};
use rustix::process::{Pid, Signal, kill_process};

const LONG: Duration = Duration::from_secs(60);

/// Asks whoever takes one connection and answers this.
fn asked(question: Question, answer: &'static str) -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        word
    });
    let result = ask(question, &address, LONG).map_err(|why| why.replace(&address, "ADDRESS"));
    let word = match question {
        Question::Ready => b"srvr",
        Question::Alive => b"ruok",
    };
    assert_eq!(&server.join().unwrap(), word);
    result
}

#[test]
fn ready_is_who_serves_in_one_of_four_modes() {
    let yes = |mode: &str| Ok(mode.to_owned());
    let no = |why: &str| Err(why.to_owned());
    for (answer, expected) in [
        (
            "Zookeeper version: 3\nMode: leader\nNode count: 5\n",
            yes("leader"),
        ),
        ("Mode: follower\n", yes("follower")),
        ("Mode: observer\n", yes("observer")),
        ("Mode: standalone\n", yes("standalone")),
        (
            "This ZooKeeper instance is not currently serving requests\n",
            no("ADDRESS does not serve: This ZooKeeper instance is not currently serving requests"),
        ),
        (
            "Mode: read-only\n",
            no("ADDRESS does not serve: Mode: read-only"),
        ),
        ("", no("ADDRESS does not serve: the answer is empty")),
    ] {
        assert_eq!(asked(Question::Ready, answer), expected);
    }
}

#[test]
fn alive_is_who_answers_whatever_its_whitelist_says() {
    let alive = Ok("alive".to_owned());
    assert_eq!(asked(Question::Alive, "imok"), alive);
    let forbidden = "ruok is not executed because it is not in the whitelist.\n";
    assert_eq!(asked(Question::Alive, forbidden), alive);
    let other = "ADDRESS answers \"HTTP/1.1 400\", which is no ZooKeeper server's answer to ruok";
    assert_eq!(
        asked(Question::Alive, "HTTP/1.1 400\n"),
        Err(other.to_owned())
    );
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let short = Duration::from_millis(50);
    let silent = ask(Question::Ready, &address, short).unwrap_err();
    assert_eq!(
        silent,
        format!("no answer from {address}: nothing within 50ms")
    );
    drop(listener);
    let refused = ask(Question::Alive, &address, LONG).unwrap_err();
    let words = format!("no answer from {address}: Connection refused (os error 111)");
    assert_eq!(refused, words);
}

fn node(arguments: &[&str]) -> Command {
    let mut call = Command::new(env!("CARGO_BIN_EXE_zookeeper-node"));
    call.args(arguments).env_remove("RUST_LOG");
    call
}

fn printed(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A server on a port of its own; killed when dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(zoo_cfg: &str, home: &std::path::Path) -> Self {
        let file = home.join("mounted.cfg");
        fs::write(&file, zoo_cfg.replace("DIR", home.to_str().unwrap())).unwrap();
        let (file, home) = (file.to_str().unwrap(), home.to_str().unwrap());
        let mut process = node(&["serve", file, "--home", home, "--id", "1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut lines = log.lines().map(Result::unwrap);
        let port = lines
            .find_map(|line| line.split_once("address=").map(|(_, a)| a.to_owned()))
            .unwrap();
        // The rest of the log is read, so that the server is never held up by it.
        std::thread::spawn(move || lines.count());
        let port = port.rsplit_once(':').unwrap().1.to_owned();
        Self {
            process,
            address: format!("127.0.0.1:{port}"),
        }
    }

    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }

    /// Asks until the answer is yes.
    fn wait_ready(&self) -> Output {
        loop {
            let output = node(&["ready", &self.address]).output().unwrap();
            if output.status.success() {
                return output;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where a test stopped it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_alone_is_ready_and_alive_and_ends_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start("dataDir=DIR\nclientPort=0\n", dir.path());
    assert_eq!(printed(&server.wait_ready()), (Some(0), "standalone\n", ""));
    let alive = node(&["alive", &server.address]).output().unwrap();
    assert_eq!(printed(&alive), (Some(0), "alive\n", ""));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_serves_whose_own_name_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (quorum, election) = (free(), free());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let server_1 = format!(
        "server.1=demo-1.invalid:{}:{}",
        port(&quorum),
        port(&election)
    );
    let zoo_cfg = format!(
        "dataDir=DIR\nclientPort=0\ninitLimit=10\nsyncLimit=5\nstandaloneEnabled=false\n{server_1}\n"
    );
    drop((quorum, election));
    let server = Server::start(&zoo_cfg, dir.path());
    assert_eq!(printed(&server.wait_ready()), (Some(0), "leader\n", ""));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_without_a_quorum_is_alive_but_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (quorum, election) = (free(), free());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let zoo_cfg = format!(
        "dataDir=DIR\nclientPort=0\ninitLimit=10\nsyncLimit=5\nserver.1=demo-1.invalid:{}:{}\nserver.2=demo-2.invalid:1:2\nserver.3=demo-3.invalid:1:2\n",
        port(&quorum),
        port(&election)
    );
    drop((quorum, election));
    let server = Server::start(&zoo_cfg, dir.path());
    let alive = node(&["alive", &server.address]).output().unwrap();
    assert_eq!(printed(&alive), (Some(0), "alive\n", ""));
    let ready = node(&["ready", &server.address]).output().unwrap();
    let words = format!(
        "zookeeper-node: {} does not serve: This ZooKeeper instance is not currently serving requests\n",
        server.address
    );
    assert_eq!(printed(&ready), (Some(1), "", words.as_str()));
    assert_eq!(server.stop(), Some(0));
}
