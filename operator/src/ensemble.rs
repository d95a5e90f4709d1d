//! Asks the members, by four-letter words: what are you, how far are you, who belongs to you?

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::membership::Membership;
use crate::observed::{Answer, State};

/// What a member said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it is.
    pub answer: Answer,
    /// The membership that it holds.
    pub membership: Option<Membership>,
}

/// Asks one member; none when it does not answer in time.
pub async fn ask(address: &str) -> Option<Told> {
    let (srvr, conf) = tokio::join!(
        four_letter_word(address, "srvr"),
        four_letter_word(address, "conf")
    );
    let membership = conf.as_deref().and_then(membership_in);
    let (state, zxid) = parse_srvr(&srvr?);
    let config_version = membership.as_ref().map(|membership| membership.version);
    Some(Told {
        answer: Answer {
            state,
            zxid,
            config_version,
        },
        membership,
    })
}

/// Sends one four-letter word and reads the answer to its end.
async fn four_letter_word(address: &str, word: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(ANSWER_TIMEOUT, exchange).await.ok()?.ok()?;
    String::from_utf8(answer)
        .ok()
        .filter(|answer| !answer.is_empty())
}

/// Mode and zxid of an answer to `srvr`.
fn parse_srvr(answer: &str) -> (State, u64) {
    let field = |name: &str| {
        answer
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let state = match field("Mode:") {
        Some("leader") => State::Leader,
        Some("follower") => State::Follower,
        Some("observer") => State::Observer,
        _ => State::NotServing,
    };
    let zxid = field("Zxid:").and_then(|zxid| zxid.strip_prefix("0x"));
    (
        state,
        zxid.and_then(|zxid| u64::from_str_radix(zxid, 16).ok())
            .unwrap_or_default(),
    )
}

/// The membership at the end of an answer to `conf`.
fn membership_in(answer: &str) -> Option<Membership> {
    let (_, text) = answer.split_once("membership:")?;
    Membership::parse(text).ok()
}

const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
const ANSWER_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_answers_of_apache() {
        let srvr = "Zookeeper version: 3.9.5\nLatency min/avg/max: 0/0.0/0\nZxid: 0x100000002\nMode: leader\n";
        assert_eq!(parse_srvr(srvr), (State::Leader, 0x1_0000_0002));
        let idle = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!(parse_srvr(idle), (State::NotServing, 0));
        let conf =
            "clientPort=2181\nserverId=1\nmembership: \nserver.1=h:1:2:participant\nversion=1a";
        assert_eq!(membership_in(conf).unwrap().version, 0x1a);
    }
}
