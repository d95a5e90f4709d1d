//! `zookeeper-node ready` and `alive`: one question to a server's client port, for probes and scripts.
//!
//! Nothing else of the server is used: a probe runs every few seconds and must start and end at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a probe may take altogether. Below what orchestrators grant one, so that its words are seen.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// The most bytes of an answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// What a probe wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it serves clients: it leads, follows or observes, or is alone.
    Ready,
    /// Whether it answers at all; it need not have a leader.
    Alive,
}

/// Asks the server at `address`, a `HOST:PORT`. Gives its mode, or `alive`; or one line that says what is wrong.
pub fn ask(question: Question, address: &str, timeout: Duration) -> Result<String, String> {
    let word = match question {
        Question::Ready => "srvr",
        Question::Alive => "ruok",
    };
    let text = exchange(address, word, timeout)
        .map_err(|error| format!("no answer from {address}: {}", in_words(&error, timeout)))?;
    match question {
        Question::Ready => mode(&text).map_or_else(
            || Err(format!("{address} does not serve: {}", in_one_line(&text))),
            |mode| Ok(mode.to_owned()),
        ),
        // A server that will not execute the word has answered all the same.
        Question::Alive if text == "imok" || text.starts_with("ruok is not executed") => {
            Ok("alive".to_owned())
        }
        Question::Alive => Err(format!(
            "{address} answers {:?}, which is no ZooKeeper server's answer to ruok",
            first_line(&text)
        )),
    }
}

/// The mode in which a server serves.
fn mode(srvr: &str) -> Option<&str> {
    let mode = srvr.lines().find_map(|line| line.strip_prefix("Mode: "))?;
    ["leader", "follower", "observer", "standalone"]
        .contains(&mode)
        .then_some(mode)
}

fn exchange(address: &str, word: &str, timeout: Duration) -> io::Result<String> {
    let until = Instant::now() + timeout;
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for socket in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&socket, left(until)?) {
            Ok(stream) => stream,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        stream.set_write_timeout(Some(left(until)?))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            stream.set_read_timeout(Some(left(until)?))?;
            match stream.read(&mut piece)? {
                0 => break,
                n if answer.len() + n > ANSWER_BYTES => {
                    return Err(io::Error::other("the answer has no end"));
                }
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    Err(failure)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn in_words(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        // A read that times out says "would block".
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("nothing within {timeout:?}"),
        _ => error.to_string(),
    }
}

/// What a server says that does not serve, and what of its disk.
fn in_one_line(text: &str) -> String {
    match text.trim() {
        "" => first_line(text).to_owned(),
        text => text.lines().take(2).collect::<Vec<_>>().join("; "),
    }
}

fn first_line(text: &str) -> &str {
    match text.lines().next() {
        Some(line) if !line.trim().is_empty() => line,
        _ => "the answer is empty",
    }
}
