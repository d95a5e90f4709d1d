//! A blocking client of our own, down to the bytes: for loads and walks for which kazoo is too slow, and for requests
//! that no client library sends.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use node_core::jute::{Jute, Reader};
use node_core::proto::client::{OpCode, Request as CoreRequest};
use node_core::proto::data::{Acl, Stat};

/// The xid of every `setWatches`.
const SET_WATCHES_XID: i32 = -8;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Numbers of requests.
pub mod op {
    /// delete
    pub const DELETE: i32 = 2;
    /// exists
    pub const EXISTS: i32 = 3;
    /// getData
    pub const GET_DATA: i32 = 4;
    /// setData
    pub const SET_DATA: i32 = 5;
    /// getACL
    pub const GET_ACL: i32 = 6;
    /// sync
    pub const SYNC: i32 = 9;
    /// ping
    pub const PING: i32 = 11;
    /// getChildren2
    pub const GET_CHILDREN2: i32 = 12;
    /// create2
    pub const CREATE2: i32 = 15;
    /// auth
    pub const AUTH: i32 = 100;
    /// closeSession
    pub const CLOSE: i32 = -11;
}

/// Flags of create.
pub mod flags {
    /// A plain node.
    pub const PERSISTENT: i32 = 0;
    /// Gone with its session.
    pub const EPHEMERAL: i32 = 1;
    /// With a number at the end of its name.
    pub const SEQUENTIAL: i32 = 2;
}

/// Error codes of replies.
pub mod code {
    /// The node is not there.
    pub const NO_NODE: i32 = -101;
    /// The node has another version.
    pub const BAD_VERSION: i32 = -103;
    /// The node is there already.
    pub const NODE_EXISTS: i32 = -110;
    /// The session is gone.
    pub const SESSION_EXPIRED: i32 = -112;
    /// The session is served by another member now.
    pub const SESSION_MOVED: i32 = -118;
}

/// A request that is yet to get its xid: the number of the request and its body.
#[derive(Clone, Debug)]
pub struct Request {
    op: i32,
    body: BytesMut,
}

impl Request {
    fn new(op: i32, path: &str) -> Self {
        let mut body = BytesMut::new();
        path.to_owned().write(&mut body);
        Self { op, body }
    }

    /// Any request, as the server's own code encodes it.
    #[must_use]
    pub fn of(request: &CoreRequest) -> Self {
        let mut body = BytesMut::new();
        request.encode(&mut body);
        Self {
            op: request.op() as i32,
            body,
        }
    }

    fn with<T: Jute>(mut self, value: &T) -> Self {
        value.write(&mut self.body);
        self
    }

    /// create2 with an ACL.
    #[must_use]
    pub fn create(path: &str, data: &[u8], acl: &[Acl], flags: i32) -> Self {
        Self::new(op::CREATE2, path)
            .with(&Bytes::copy_from_slice(data))
            .with(&acl.to_vec())
            .with(&flags)
    }

    /// setData.
    #[must_use]
    pub fn set(path: &str, data: &[u8], version: i32) -> Self {
        Self::new(op::SET_DATA, path)
            .with(&Bytes::copy_from_slice(data))
            .with(&version)
    }

    /// delete of any version.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new(op::DELETE, path).with(&-1)
    }

    /// getData, without a watch.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(op::GET_DATA, path).with(&false)
    }

    /// exists, without a watch.
    #[must_use]
    pub fn exists(path: &str) -> Self {
        Self::new(op::EXISTS, path).with(&false)
    }

    /// getChildren2, without a watch.
    #[must_use]
    pub fn children(path: &str) -> Self {
        Self::new(op::GET_CHILDREN2, path).with(&false)
    }

    /// getACL.
    #[must_use]
    pub fn acl(path: &str) -> Self {
        Self::new(op::GET_ACL, path)
    }

    /// sync.
    #[must_use]
    pub fn sync(path: &str) -> Self {
        Self::new(op::SYNC, path)
    }

    /// closeSession.
    #[must_use]
    pub fn close() -> Self {
        Self {
            op: op::CLOSE,
            body: BytesMut::new(),
        }
    }

    /// Appends the request as a frame.
    pub fn write_frame(&self, xid: i32, out: &mut BytesMut) {
        out.put_i32(self.body.len() as i32 + 8);
        out.put_i32(xid);
        out.put_i32(self.op);
        out.put_slice(&self.body);
    }
}

/// What came back for a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The last transaction that the server had applied.
    pub zxid: i64,
    /// 0, or an error code.
    pub err: i32,
    /// The rest, undecoded.
    pub body: Bytes,
}

impl Reply {
    /// Decodes the start of the body; an error code is an error.
    pub fn read<T: Jute>(&self) -> Result<T> {
        ensure!(self.err == 0, "error code {}", self.err);
        Ok(Reader::new(self.body.clone()).read()?)
    }

    /// Data and stat, from getData.
    pub fn data(&self) -> Result<(Option<Bytes>, Stat)> {
        self.pair()
    }

    /// Path and stat, from create2.
    pub fn created(&self) -> Result<(String, Stat)> {
        self.pair()
    }

    /// Names of children and stat, from getChildren2.
    pub fn children(&self) -> Result<(Vec<String>, Stat)> {
        self.pair()
    }

    fn pair<A: Jute, B: Jute>(&self) -> Result<(A, B)> {
        ensure!(self.err == 0, "error code {}", self.err);
        let mut reader = Reader::new(self.body.clone());
        Ok((reader.read()?, reader.read()?))
    }
}

/// What names a session, so that another connection can take it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub id: i64,
    /// Its password.
    pub password: Bytes,
    /// The last zxid that its client saw.
    pub last_zxid: i64,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server did not take the connection, or said nothing.
    Io(io::Error),
    /// The server says that the session is gone.
    Expired,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot connect: {error}"),
            Self::Expired => f.write_str("the session has expired"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One connection with a session.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    session: Session,
    timeout: Duration,
    xid: i32,
    /// Watch events that came in between, undecoded.
    pub events: Vec<Bytes>,
}

/// The frame with which a client opens or takes up a session.
#[must_use]
pub fn connect_frame(session: Option<&Session>, timeout: Duration) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i32(45);
    out.put_i32(0);
    out.put_i64(session.map_or(0, |session| session.last_zxid));
    out.put_i32(timeout.as_millis() as i32);
    out.put_i64(session.map_or(0, |session| session.id));
    session
        .map_or_else(
            || Bytes::from_static(&[0; 16]),
            |session| session.password.clone(),
        )
        .write(&mut out);
    out.put_u8(0);
    out
}

impl Client {
    /// Opens a new session.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        Self::open(address, timeout, None).with_context(|| format!("no session on {address}"))
    }

    /// Opens a session, or takes up the one given.
    pub fn open(
        address: SocketAddr,
        timeout: Duration,
        session: Option<&Session>,
    ) -> Result<Self, ConnectError> {
        Self::open_within(timeout, address, timeout, session)
    }

    /// The same, for a server that may be silent: it has `patience` for the answer.
    pub fn open_within(
        patience: Duration,
        address: SocketAddr,
        timeout: Duration,
        session: Option<&Session>,
    ) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect_timeout(&address, patience.min(CONNECT))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        stream
            .get_mut()
            .write_all(&connect_frame(session, timeout))?;
        let mut reader = Reader::new(read_frame(&mut stream)?);
        let mut read = || -> Result<_, node_core::jute::DecodeError> {
            let _protocol: i32 = reader.read()?;
            Ok((
                reader.read::<i32>()?,
                reader.read::<i64>()?,
                reader.read::<Bytes>()?,
            ))
        };
        let (granted, id, password) = read().map_err(io::Error::other)?;
        if granted <= 0 {
            return Err(ConnectError::Expired);
        }
        let last_zxid = session.map_or(0, |session| session.last_zxid);
        let timeout = Duration::from_millis(granted as u64);
        Ok(Self {
            stream,
            session: Session {
                id,
                password,
                last_zxid,
            },
            timeout,
            xid: 0,
            events: Vec::new(),
        })
    }

    /// How long a reply may take.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// What is needed to take up this session elsewhere.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The time-out that the server granted.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The bare connection, for a caller that does its own reading and writing from here on.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// One request, one reply.
    pub fn call(&mut self, request: &Request) -> io::Result<Reply> {
        self.send(std::slice::from_ref(request))?;
        self.receive()
    }

    /// Many requests at once; their replies in order.
    pub fn pipeline(&mut self, requests: &[Request]) -> io::Result<Vec<Reply>> {
        self.send(requests)?;
        requests.iter().map(|_| self.receive()).collect()
    }

    /// Sends requests, whose replies are then to be received in order.
    pub fn send(&mut self, requests: &[Request]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for request in requests {
            let xid = if request.op == OpCode::SetWatches as i32 {
                SET_WATCHES_XID
            } else {
                self.xid += 1;
                self.xid
            };
            request.write_frame(xid, &mut out);
        }
        self.stream.get_mut().write_all(&out)
    }

    /// The next reply. Its zxid may not be behind that of an earlier one: that is an error.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let frame = read_frame(&mut self.stream)?;
            let mut reader = Reader::new(frame);
            let mut head = || -> Result<_, node_core::jute::DecodeError> {
                Ok((
                    reader.read::<i32>()?,
                    reader.read::<i64>()?,
                    reader.read::<i32>()?,
                ))
            };
            let (xid, zxid, err) = head().map_err(io::Error::other)?;
            let body = reader.rest();
            if xid == -1 {
                self.events.push(body);
                continue;
            }
            self.session.last_zxid = self.session.last_zxid.max(zxid);
            return Ok(Reply { zxid, err, body });
        }
    }

    /// Adds a name and password of the digest scheme to the session's identities.
    pub fn authenticate(&mut self, credentials: &str) -> Result<()> {
        let mut body = BytesMut::new();
        0i32.write(&mut body);
        "digest".to_owned().write(&mut body);
        Bytes::copy_from_slice(credentials.as_bytes()).write(&mut body);
        let mut out = BytesMut::new();
        Request { op: op::AUTH, body }.write_frame(-4, &mut out);
        self.stream.get_mut().write_all(&out)?;
        let reply = self.receive()?;
        ensure!(reply.err == 0, "error code {} for {credentials}", reply.err);
        Ok(())
    }

    /// Closes the session.
    pub fn close(mut self) -> io::Result<()> {
        self.call(&Request::close()).map(|_| ())
    }
}

fn read_frame(stream: &mut BufReader<TcpStream>) -> io::Result<Bytes> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = usize::try_from(i32::from_be_bytes(len)).map_err(io::Error::other)?;
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame)?;
    Ok(frame.into())
}
