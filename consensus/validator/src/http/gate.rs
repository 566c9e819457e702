//! How many may be connected with the HTTP server, and for how long without saying anything.
//!
//! Every connection holds memory and a file descriptor that the validator needs for its peers, and
//! the server has no authentication. So there is a limit, part of which belongs to the machine
//! itself: whoever is on it can look and change the log level while strangers hold all the rest.
//! Who comes too many is told so, with a status that clients know how to wait on; who is silent
//! loses the connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Of these, the ones that only the machine itself may have.
const LOCAL_CONNECTIONS: usize = 16;
/// Refusals that are written at a time; who comes beyond them is disconnected without a word.
const REFUSALS_MAX: usize = 16;
/// How long a refused client may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Bytes of a refused request that are read, so that closing does not reset the connection before
/// the refusal was read (RFC 9112, section 9.6).
const REFUSED_BYTES_MAX: u64 = 4096;
/// How long nothing may pass on a connection. Scrapers that keep theirs ask more often.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// Wait after the system had no descriptor for a connection.
const EXHAUSTED_WAIT: Duration = Duration::from_secs(1);

/// A listener that lets in as many as there is room for.
pub(super) struct Gate {
    listener: TcpListener,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    silence_max: Duration,
}

impl Gate {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::with_silence(listener, SILENCE_MAX)
    }

    fn with_silence(listener: TcpListener, silence_max: Duration) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            silence_max,
        }
    }

    fn place(&self, from: IpAddr) -> Option<OwnedSemaphorePermit> {
        let is_local = from.to_canonical().is_loopback();
        if !is_local && self.places.available_permits() <= LOCAL_CONNECTIONS {
            return None;
        }
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn refuse(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            // An error or the end of the time means that nobody is there to be told.
            let _ = tokio::time::timeout(REFUSAL_TIME, tell(stream)).await;
            drop(permit);
        });
    }
}

/// Says why, and waits until it was read.
async fn tell(mut stream: TcpStream) -> io::Result<()> {
    let body = format!(
        "{{\"error\":{{\"code\":\"too_many_connections\",\"message\":\"all {CONNECTIONS_MAX} \
         connections of this server are taken: close some, or ask again later\"}}}}"
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(REFUSED_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

impl Listener for Gate {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => match self.place(from.ip()) {
                    Some(place) => return (Guest::new(stream, place, self.silence_max), from),
                    None => self.refuse(stream),
                },
                // Out of descriptors: those that are open must end first.
                Err(error) if is_exhausted(&error) => {
                    tracing::error!(%error, "cannot accept HTTP connections");
                    tokio::time::sleep(EXHAUSTED_WAIT).await;
                }
                // A client that left meanwhile.
                Err(_) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// A connection that has a place, and loses it when nothing passes.
pub(super) struct Guest {
    stream: TcpStream,
    silence_max: Duration,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, silence_max: Duration) -> Self {
        Self {
            stream,
            silence_max,
            silence: Box::pin(tokio::time::sleep(silence_max)),
            _place: place,
        }
    }

    /// Begins the time anew when something passed; an error once it is over.
    fn watch<T>(
        &mut self,
        passed: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if passed.is_ready() {
            let deadline = Instant::now() + self.silence_max;
            self.silence.as_mut().reset(deadline);
            return passed;
        }
        match self.silence.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(read, cx)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use axum::Router;
    use axum::routing::get;

    use super::*;

    fn run<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test)
    }

    async fn serving(silence_max: Duration) -> SocketAddr {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::with_silence(listener, silence_max);
        let router = Router::new().route("/", get(|| async { "here\n" }));
        tokio::spawn(axum::serve(gate, router).into_future());
        address
    }

    async fn ask(stream: &mut TcpStream) -> String {
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    #[test]
    fn one_too_many_is_told_so_and_let_in_when_there_is_room() {
        run(async {
            let address = serving(SILENCE_MAX).await;
            let mut guests = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                let mut stream = TcpStream::connect(address).await.unwrap();
                assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
                guests.push(stream);
            }
            let refused = ask(&mut TcpStream::connect(address).await.unwrap()).await;
            assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
            for part in ["Retry-After: 1", "too_many_connections", "256", "later"] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
            // Those inside go on; the place of one who leaves is free again.
            assert!(ask(&mut guests[0]).await.starts_with("HTTP/1.1 200"));
            drop(guests.pop());
            loop {
                let mut stream = TcpStream::connect(address).await.unwrap();
                if ask(&mut stream).await.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        });
    }

    #[test]
    fn some_places_are_for_the_machine_itself() {
        run(async {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
            let gate = Gate::new(listener);
            let stranger: IpAddr = "2001:db8::1".parse().unwrap();
            let mut held = Vec::new();
            while let Some(place) = gate.place(stranger) {
                held.push(place);
            }
            assert_eq!(held.len(), CONNECTIONS_MAX - LOCAL_CONNECTIONS);
            for local in ["::1", "127.0.0.1", "::ffff:127.0.0.1"] {
                held.push(gate.place(local.parse().unwrap()).expect(local));
            }
            assert!(gate.place(stranger).is_none());
        });
    }

    #[test]
    fn who_is_silent_is_disconnected() {
        run(async {
            let address = serving(Duration::from_millis(50)).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
            // The server ends it: this read returns.
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
        });
    }
}
