//! The network between a server and its clients, so that it can fail: connections that are refused, reset, or silently swallowed.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;

/// Connections the kernel may hold for us before we accept them.
const BACKLOG: u32 = 1024;

/// What stands between server and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// Nothing.
    Healed,
    /// Open connections are reset and new ones refused, as when the server is down.
    Refused,
    /// Nothing goes through and nothing is said, as when packets are dropped. Open connections go on once healed.
    BlackHole,
}

/// One listening address and its open connections.
pub(crate) struct Link {
    address: SocketAddr,
    runtime: Handle,
    inner: Mutex<Inner>,
    accepting: AtomicWaker,
}

struct Inner {
    partition: Partition,
    listener: Option<TcpListener>,
    next: u64,
    lines: BTreeMap<u64, Weak<Line>>,
}

impl Link {
    /// Binds 127.0.0.1. Must be called in a tokio runtime.
    pub(crate) fn bind(port: u16) -> io::Result<Arc<Self>> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Ok(Arc::new(Self {
            address: listener.local_addr()?,
            runtime,
            inner: Mutex::new(Inner {
                partition: Partition::Healed,
                listener: Some(listener),
                next: 0,
                lines: BTreeMap::new(),
            }),
            accepting: AtomicWaker::new(),
        }))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In force when it returns.
    pub(crate) fn partition(&self, partition: Partition) -> io::Result<()> {
        let _in_runtime = self.runtime.enter();
        let mut inner = self.lock();
        inner.partition = partition;
        match partition {
            Partition::Refused => inner.listener = None,
            Partition::Healed | Partition::BlackHole if inner.listener.is_none() => {
                inner.listener = Some(listen(self.address)?);
            }
            Partition::Healed | Partition::BlackHole => {}
        }
        let fate = match partition {
            Partition::Healed => Fate::Open,
            Partition::Refused => Fate::Reset,
            Partition::BlackHole => Fate::Swallowed,
        };
        for line in inner.open_lines() {
            line.set(fate);
        }
        drop(inner);
        self.accepting.wake();
        Ok(())
    }

    /// Resets all open connections; new ones are accepted.
    pub(crate) fn reset(&self) {
        for line in self.lock().open_lines() {
            line.set(Fate::Reset);
        }
    }

    /// Refuses from now on. Unlike a partition it is not meant to heal.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.listener = None;
        inner.partition = Partition::Refused;
        for line in inner.open_lines() {
            line.set(Fate::Reset);
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Wire>> {
        self.accepting.register(context.waker());
        let mut inner = self.lock();
        let listener = match (inner.partition, &inner.listener) {
            (Partition::Healed, Some(listener)) => listener,
            _ => return Poll::Pending,
        };
        let (stream, _) = ready!(listener.poll_accept(context))?;
        // A watch event is one small write; without this it would wait for the client's delayed acknowledgement.
        stream.set_nodelay(true)?;
        let line = Arc::new(Line { fate: AtomicU8::new(Fate::Open as u8), reader: AtomicWaker::new() });
        let id = inner.next;
        inner.next += 1;
        inner.lines.retain(|_, line| line.strong_count() > 0);
        inner.lines.insert(id, Arc::downgrade(&line));
        Poll::Ready(Ok(Wire { stream, line }))
    }
}

impl Inner {
    fn open_lines(&self) -> impl Iterator<Item = Arc<Line>> {
        self.lines.values().filter_map(Weak::upgrade)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // After a partition the same port is bound again at once, with old connections still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The accepting end of a link, for `axum::serve`.
pub(crate) struct Gate(pub(crate) Arc<Link>);

impl Listener for Gate {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match std::future::poll_fn(|context| self.0.poll_accept(context)).await {
                Ok(wire) => return (wire, self.0.address),
                // The client was gone before we looked, or we are out of descriptors: neither ends the server.
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.address)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open = 0,
    Swallowed = 1,
    Reset = 2,
}

/// What is to become of one connection. A request's handler holds it too, to cut the connection it came by.
pub(crate) struct Line {
    fate: AtomicU8,
    reader: AtomicWaker,
}

impl Line {
    /// Cuts the connection: the client sees a reset, whatever was answered or not.
    pub(crate) fn reset(&self) {
        self.set(Fate::Reset);
    }

    fn set(&self, fate: Fate) {
        let order = Ordering::AcqRel;
        // A reset is final.
        let set = |old| (old != Fate::Reset as u8).then_some(fate as u8);
        if self.fate.fetch_update(order, Ordering::Acquire, set).is_ok() {
            self.reader.wake();
        }
    }

    fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            0 => Fate::Open,
            1 => Fate::Swallowed,
            _ => Fate::Reset,
        }
    }
}

/// Handed to handlers by axum.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Arc<Line>);

impl Connected<IncomingStream<'_, Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self(Arc::clone(&stream.io().line))
    }
}

/// One accepted connection.
pub(crate) struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Wire {
    /// Ready while bytes may pass. Reading and writing are polled by one task, so one waker serves both.
    fn poll_passable(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.line.reader.register(context.waker());
        match self.line.fate() {
            Fate::Open => Poll::Ready(Ok(())),
            Fate::Swallowed => Poll::Pending,
            Fate::Reset => {
                // Without lingering, the close that follows sends a reset and not an orderly end.
                if let Err(error) = self.stream.set_zero_linger() {
                    tracing::debug!(%error, "reset will look like an orderly end");
                }
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_passable(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_passable(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_passable(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_passable(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_passable(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
