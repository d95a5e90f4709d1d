//! Whole servers in this process, on loopback, each with a disk in memory; and a client that speaks to them.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use node::serve::{self, Call};
use node::storage::simulated::SimDisk;
use node_core::jute::Reader;
use node_core::proto::client::{ConnectRequest, CreateRequest, OpCode, Request, write_frame};
use node_core::proto::data::{Acl, Id, perms};
use node_core::zxid::{SessionId, Zxid};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long something may take that has no bound of its own. The machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Data of a node: more than a log file has reserved.
const BYTES: usize = 10_000;

/// `syncLimit` in time.
pub(crate) const SYNC_LIMIT: Duration = Duration::from_secs(3);

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) struct Server {
    pub(crate) disk: SimDisk,
    port: u16,
    running: Option<Running>,
}

/// The servers 1, 2 and so on.
pub(crate) struct Ensemble {
    runtime: Runtime,
    dir: TempDir,
    servers: Vec<Server>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Ensemble {
    /// Starts as many servers as asked for and waits until all of them serve.
    pub(crate) fn start(size: usize) -> Self {
        let mut ensemble = Self::prepared(size);
        (1..=size).for_each(|id| ensemble.run(id));
        (1..=size).for_each(|id| ensemble.wait_until_serving(id));
        ensemble
    }

    /// Servers that do not run yet.
    pub(crate) fn prepared(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> = (1..=size)
            .filter(|_| size > 1)
            .map(|id| {
                let (quorum, election) = (free_port(), free_port());
                format!("server.{id}=127.0.0.1:{quorum}:{election}")
            })
            .collect();
        let servers = (1..=size).map(|id| {
            let data = dir.path().join(id.to_string());
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("myid"), id.to_string()).unwrap();
            let port = free_port();
            let text = format!(
                "tickTime=500\ninitLimit=20\nsyncLimit=6\nmaxSessionTimeout=40000\npreAllocSize=1\n\
                 4lw.commands.whitelist=*\nclientPort={port}\nclientPortAddress=127.0.0.1\ndataDir={}\n{}\n",
                data.display(),
                lines.join("\n")
            );
            std::fs::write(data.join("zoo.cfg"), text).unwrap();
            Server {
                disk: SimDisk::new(),
                port,
                running: None,
            }
        });
        Self {
            servers: servers.collect(),
            // One that waits for a disk keeps nobody else waiting.
            runtime: Builder::new_multi_thread()
                .worker_threads(8)
                .enable_all()
                .build()
                .unwrap(),
            dir,
        }
    }

    pub(crate) fn disk(&self, id: usize) -> &SimDisk {
        &self.servers[id - 1].disk
    }

    /// Starts a server.
    pub(crate) fn run(&mut self, id: usize) {
        let call = Call {
            zoo_cfg: self.dir.path().join(format!("{id}/zoo.cfg")),
            home: None,
            id: None,
        };
        let (stop, stopped) = oneshot::channel();
        let files = Arc::new(self.disk(id).clone());
        let stopped = async {
            // That the sender is gone is a reason to stop, too.
            let _ = stopped.await;
        };
        let task = self.runtime.spawn(serve::serve_on(call, files, stopped));
        self.servers[id - 1].running = Some(Running { stop, task });
    }

    /// Stops a server as SIGTERM does; it must end well.
    pub(crate) fn stop(&mut self, id: usize) {
        let Running { stop, task } = self.servers[id - 1].running.take().unwrap();
        stop.send(()).unwrap();
        self.runtime.block_on(task).unwrap().unwrap();
    }

    /// The answer to a four-letter word; what there is of it.
    pub(crate) fn ask(&self, id: usize, word: &str) -> String {
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.servers[id - 1].port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(word.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }

    pub(crate) fn serves(&self, id: usize) -> bool {
        self.ask(id, "srvr").contains("Mode: ")
    }

    pub(crate) fn wait_until_serving(&self, id: usize) {
        wait(&format!("server {id} serves"), || self.serves(id));
    }

    /// Who leads, as the servers themselves say.
    pub(crate) fn leader(&self) -> Option<usize> {
        (1..=self.servers.len()).find(|id| self.ask(*id, "srvr").contains("Mode: leader"))
    }

    pub(crate) fn client(&self, id: usize) -> Client {
        Client::connect(self.servers[id - 1].port).unwrap()
    }

    /// No server has ended by itself.
    pub(crate) fn all_live(&self) -> bool {
        let running = self.servers.iter().filter_map(|s| s.running.as_ref());
        running
            .into_iter()
            .all(|running| !running.task.is_finished())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        // Nobody may be left who waits for a disk.
        for server in &self.servers {
            server
                .disk
                .set_faults(|faults| *faults = Default::default());
        }
    }
}

/// Waits until something is so; gives how long that took.
pub(crate) fn wait(what: &str, done: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begin.elapsed()
}

/// A connection with a session.
pub(crate) struct Client {
    stream: TcpStream,
    xid: i32,
}

impl Client {
    fn connect(port: u16) -> io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 40_000,
            session: SessionId(0),
            password: Some(Bytes::from_static(&[0; 16])),
            read_only: Some(false),
        };
        let mut out = BytesMut::new();
        write_frame(&mut out, |out| request.encode(out));
        stream.write_all(&out)?;
        let mut client = Self { stream, xid: 0 };
        client.frame()?;
        Ok(client)
    }

    fn frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.xid += 1;
        let mut out = BytesMut::new();
        write_frame(&mut out, |out| {
            out.put_i32(self.xid);
            out.put_i32(request.op() as i32);
            request.encode(out);
        });
        self.stream.write_all(&out)
    }

    /// The code of the next answer.
    pub(crate) fn answer(&mut self) -> io::Result<i32> {
        let mut reader = Reader::new(self.frame()?);
        let mut code = || {
            let _xid: i32 = reader.read()?;
            let _zxid: i64 = reader.read()?;
            reader.read::<i32>()
        };
        code().map_err(io::Error::other)
    }

    /// Asks for a node to be created, and does not wait.
    pub(crate) fn ask_for(&mut self, path: &str) -> io::Result<()> {
        self.send(&Request::Create(CreateRequest {
            op: OpCode::Create,
            path: path.to_owned(),
            data: Some(Bytes::from(vec![7; BYTES])),
            acl: vec![Acl {
                perms: perms::ALL,
                id: Id {
                    scheme: "world".into(),
                    id: "anyone".into(),
                },
            }],
            flags: 0,
            ttl: -1,
        }))
    }

    /// Creates a node.
    pub(crate) fn create(&mut self, path: &str) -> io::Result<i32> {
        self.ask_for(path)?;
        self.answer()
    }

    /// Whether there is a node.
    pub(crate) fn exists(&mut self, path: &str) -> io::Result<bool> {
        self.send(&Request::Exists {
            path: path.to_owned(),
            watch: false,
        })?;
        Ok(self.answer()? == 0)
    }

    /// Nothing has come for this long.
    pub(crate) fn hears_nothing_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let silent = self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}
