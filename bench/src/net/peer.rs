//! What the asynchronous peers share: a runtime on one core, and the end of a run.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use super::meter::Meter;
use super::{ANYWHERE, NetError};

/// Kernel buffers of every UDP socket, bytes; what STOQ asks for too.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// How often the end of a run is looked for.
const STOP_INTERVAL: Duration = Duration::from_millis(10);
/// Flow-control window of one stream, bytes.
pub(super) const STREAM_WINDOW: u32 = 16 << 20;
/// Flow-control window of a connection, bytes.
pub(super) const CONNECTION_WINDOW: u32 = 64 << 20;
/// Bytes that may be sent and not yet acknowledged.
pub(super) const SEND_WINDOW: u32 = 24 << 20;
/// Streams in each direction.
pub(super) const STREAMS_MAX: u32 = 4096;
/// Datagrams queued on either side, bytes.
pub(super) const DATAGRAM_BUFFER: usize = 8 << 20;

/// Runs one side on a runtime of this thread until it ends or the run is over.
pub(super) fn block_on<T: Default>(
    meter: &Arc<Meter>,
    side: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NetError::Thread)?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = side => result,
            () = stopped(meter) => Ok(T::default()),
        }
    });
    // Tasks of the peer's own may be waiting for packets that no longer come.
    runtime.shutdown_background();
    // What fails because the other side left first is the end of the run, too.
    if meter.is_stopped() {
        return Ok(result.unwrap_or_default());
    }
    result
}

async fn stopped(meter: &Meter) {
    while !meter.is_stopped() {
        tokio::time::sleep(STOP_INTERVAL).await;
    }
}

/// A UDP socket on loopback with large buffers.
pub(super) fn udp(who: &'static str) -> Result<UdpSocket, NetError> {
    let failed = |error: std::io::Error| failed(who, &error);
    let socket = UdpSocket::bind(ANYWHERE).map_err(failed)?;
    // The kernel may grant less; all contenders then get as little.
    for set in [
        rustix::net::sockopt::set_socket_recv_buffer_size,
        rustix::net::sockopt::set_socket_send_buffer_size,
    ] {
        set(&socket, SOCKET_BUFFER_BYTES).map_err(|errno| failed(errno.into()))?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

/// A contender's error in words.
pub(super) fn failed(who: &'static str, what: &dyn std::fmt::Display) -> NetError {
    NetError::Contender {
        who,
        what: what.to_string(),
    }
}
