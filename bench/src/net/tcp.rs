//! TCP with rustls, blocking sockets, no delay; for the spinning round trip both sides poll.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use falconet_dataplane::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::meter::RoundTrips;
use super::peer::failed;
use super::{ANYWHERE, Extra, NetError, Running, Setup, Work, place};

const WHO: &str = "TCP with rustls";
/// Bytes handed to TLS at a time, and read at a time.
const CHUNK: usize = 256 << 10;
/// IPv6 and TCP headers less those of IPv6 and UDP: what a segment carries less than a datagram
/// at the same MTU. Time stamps included.
const SEGMENT_LESS: u16 = 40 + 20 + 12 - 48;

struct Tcp {
    server: JoinHandle<Result<(), NetError>>,
    client: JoinHandle<Result<(), NetError>>,
    /// Ends both sides, wherever they wait.
    sockets: [TcpStream; 2],
}

impl Running for Tcp {
    fn finish(self: Box<Self>) -> Result<Extra, NetError> {
        for socket in &self.sockets {
            // A side that ended by itself has shut it down already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        place::join(self.client)?;
        place::join(self.server)?;
        Ok(Extra::default())
    }
}

pub(super) fn start(setup: &Setup) -> Result<Box<dyn Running>, NetError> {
    let tls = |error: rustls::Error| NetError::Tls(error.to_string());
    let config = Arc::new(tls::rustls_server_config(&setup.keys[0], &setup.trusted).map_err(tls)?);
    let mut accepting = ServerConnection::new(config).map_err(tls)?;
    let config = tls::rustls_client_config(Some(&setup.keys[1]), setup.keys[0].public());
    let name = ServerName::try_from("stoq").expect("a valid name");
    let mut dialling = ClientConnection::new(Arc::new(config.map_err(tls)?), name).map_err(tls)?;
    accepting.set_buffer_limit(None);
    dialling.set_buffer_limit(None);

    let listener = TcpListener::bind(ANYWHERE).map_err(error)?;
    limit_segment(&listener, setup.work)?;
    let client = TcpStream::connect(listener.local_addr().map_err(error)?).map_err(error)?;
    let (server, _) = listener.accept().map_err(error)?;
    for socket in [&client, &server] {
        limit_segment(socket, setup.work)?;
        socket.set_nodelay(true).map_err(error)?;
    }
    let sockets = [
        client.try_clone().map_err(error)?,
        server.try_clone().map_err(error)?,
    ];
    let own = setup.clone();
    let server = place::spawn(setup.cores.receiver, "tcp-server", move || {
        let mut server = server;
        accepting.complete_io(&mut server).map_err(error)?;
        server
            .set_nonblocking(is_spinning(own.work))
            .map_err(error)?;
        let served = serve(&own, &mut StreamOwned::new(accepting, server));
        end(&own, served)
    })?;
    let own = setup.clone();
    let (ready_in, ready) = crossbeam_channel::bounded(1);
    let client = place::spawn(setup.cores.sender, "tcp-client", move || {
        let mut client = client;
        dialling.complete_io(&mut client).map_err(error)?;
        client
            .set_nonblocking(is_spinning(own.work))
            .map_err(error)?;
        let _ = ready_in.send(());
        let requested = request(&own, &mut StreamOwned::new(dialling, client));
        end(&own, requested)
    })?;
    let connected = ready.recv().is_ok();
    let running = Box::new(Tcp {
        server,
        client,
        sockets,
    });
    if !connected {
        running.finish()?;
        return Err(failed(WHO, &"no connection"));
    }
    Ok(running)
}

fn is_spinning(work: Work) -> bool {
    work == Work::RoundTrip { spin: true }
}

/// Loopback carries 64 KB in a segment; the comparison at an MTU says less.
fn limit_segment(socket: &impl std::os::fd::AsFd, work: Work) -> Result<(), NetError> {
    if work.udp_payload() == u16::MAX {
        return Ok(());
    }
    let bytes = u32::from(work.udp_payload() - SEGMENT_LESS);
    socket2::SockRef::from(socket)
        .set_tcp_mss(bytes)
        .map_err(error)
}

/// What fails because the run is over does not count.
fn end(setup: &Setup, result: std::io::Result<()>) -> Result<(), NetError> {
    if setup.meter.is_stopped() {
        return Ok(());
    }
    result.map_err(error)
}

fn serve(setup: &Setup, tls: &mut StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    match setup.work {
        Work::RoundTrip { .. } => {
            let size = setup.work.message_bytes();
            while !setup.meter.is_stopped() {
                poll(setup, || tls.read_exact(&mut buffer[..size]))?;
                tls.write_all(&buffer[..size])?;
                tls.flush()?;
            }
        }
        _ => loop {
            let read = tls.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            setup.meter.arrived(1, read as u64);
        },
    }
    Ok(())
}

fn request(
    setup: &Setup,
    tls: &mut StreamOwned<ClientConnection, TcpStream>,
) -> std::io::Result<()> {
    if let Work::RoundTrip { .. } = setup.work {
        let size = setup.work.message_bytes();
        let payload = vec![7; size];
        let mut answer = vec![0; size];
        let mut trips = RoundTrips::new(setup.meter.clone());
        while !setup.meter.is_stopped() {
            let sent = Instant::now();
            tls.write_all(&payload)?;
            tls.flush()?;
            poll(setup, || tls.read_exact(&mut answer))?;
            trips.record(sent, size);
        }
        return Ok(());
    }
    let payload = vec![7; CHUNK];
    while !setup.meter.is_stopped() {
        tls.write_all(&payload)?;
    }
    Ok(())
}

/// Tries until something is there. A message here fits one TLS record, and rustls gives nothing
/// of a record before it is complete, so nothing is lost between two tries.
fn poll(setup: &Setup, mut read: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && !setup.meter.is_stopped() => {
                std::hint::spin_loop();
            }
            done => return done,
        }
    }
}

fn error(error: std::io::Error) -> NetError {
    failed(WHO, &error)
}
