//! A backend that records the octets that it receives, and sends scripted octets, valid or not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A TCP server that follows a script. It closes its port and its connections on drop.
#[derive(Debug)]
pub struct Recording {
    address: SocketAddr,
    received: Arc<watch::Sender<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

/// A step of a script. The connection is closed after the last one.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads until these octets, from where earlier steps stopped.
    Until(&'static [u8]),
    /// Reads this number of octets, from where earlier steps stopped.
    Octets(usize),
    /// Reads until the peer closes.
    End,
    /// Writes these octets.
    Write(Bytes),
    /// Waits.
    Pause(Duration),
    /// Closes the sending direction.
    Shutdown,
    /// Closes with a reset (RST).
    Reset,
    /// Restarts with the first step.
    Restart,
}

/// A connection, and the received octets that no step has consumed.
struct Conversation {
    stream: TcpStream,
    pending: BytesMut,
    number: usize,
    received: Arc<watch::Sender<Vec<Vec<u8>>>>,
}

// === impl Step ===

impl Step {
    /// Reads a request's head.
    #[must_use]
    pub fn head() -> Self {
        Self::Until(b"\r\n\r\n")
    }

    /// Writes `octets`.
    #[must_use]
    pub fn write(octets: impl Into<Bytes>) -> Self {
        Self::Write(octets.into())
    }
}

// === impl Recording ===

impl Recording {
    /// Starts a server that responds to each request without a body with an empty 200.
    ///
    /// # Errors
    /// Returns an error if no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::script(vec![
            Step::head(),
            Step::write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Step::Restart,
        ])
        .await
    }

    /// Starts a server that follows `steps` on each connection.
    ///
    /// # Errors
    /// Returns an error if no port can be bound.
    pub async fn script(steps: Vec<Step>) -> io::Result<Self> {
        Self::scripts(vec![steps]).await
    }

    /// Starts a server that follows one script per connection, and the last one on all further
    /// connections.
    ///
    /// # Errors
    /// Returns an error if no port can be bound.
    pub async fn scripts(scripts: Vec<Vec<Step>>) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(watch::Sender::new(Vec::new()));
        let task = tokio::spawn(accept(listener, scripts, Arc::clone(&received)));
        Ok(Self { address, received, task })
    }

    /// Returns the address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the octets that each connection has received, in the order of acceptance.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.borrow().clone()
    }

    /// Watches the received octets, for example with
    /// `recording.watch().wait_for(|connections| connections.len() == 2)`.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Vec<Vec<u8>>> {
        self.received.subscribe()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    scripts: Vec<Vec<Step>>,
    received: Arc<watch::Sender<Vec<Vec<u8>>>>,
) {
    let mut conversations = tokio::task::JoinSet::new();
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept().await {
        let Some(script) = scripts.get(number).or(scripts.last()).cloned() else { return };
        received.send_modify(|connections| connections.push(Vec::new()));
        let mut conversation = Conversation {
            stream,
            pending: BytesMut::new(),
            number,
            received: Arc::clone(&received),
        };
        // The script ends if the peer disconnects; tests inspect what it sent.
        conversations.spawn(async move { conversation.follow(&script).await });
        number += 1;
    }
}

// === impl Conversation ===

impl Conversation {
    async fn follow(&mut self, script: &[Step]) -> io::Result<()> {
        let mut steps = script.iter();
        while let Some(step) = steps.next() {
            match step {
                Step::Until(mark) => self.until(mark).await?,
                Step::Octets(count) => self.octets(*count).await?,
                Step::End => while self.read().await? > 0 {},
                Step::Write(octets) => self.stream.write_all(octets).await?,
                Step::Pause(time) => tokio::time::sleep(*time).await,
                Step::Shutdown => self.stream.shutdown().await?,
                Step::Reset => {
                    self.stream.set_zero_linger()?;
                    return Ok(());
                }
                Step::Restart => steps = script.iter(),
            }
        }
        Ok(())
    }

    async fn until(&mut self, mark: &[u8]) -> io::Result<()> {
        loop {
            if let Some(start) = self.pending.windows(mark.len()).position(|window| window == mark)
            {
                self.pending.advance(start + mark.len());
                return Ok(());
            }
            self.read_some().await?;
        }
    }

    async fn octets(&mut self, count: usize) -> io::Result<()> {
        while self.pending.len() < count {
            self.read_some().await?;
        }
        self.pending.advance(count);
        Ok(())
    }

    async fn read_some(&mut self) -> io::Result<()> {
        if self.read().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let before = self.pending.len();
        let count = self.stream.read_buf(&mut self.pending).await?;
        let fresh = self.pending.get(before..).unwrap_or_default();
        self.received.send_modify(|connections| {
            if let Some(connection) = connections.get_mut(self.number) {
                connection.extend_from_slice(fresh);
            }
        });
        Ok(count)
    }
}
