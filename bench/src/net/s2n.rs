//! s2n-quic, as its users write it: one single-threaded runtime a side, GSO and GRO as it finds
//! them, large windows.
//!
//! Datagrams are missing: s2n-quic has them only behind an unstable feature.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use falconet_dataplane::tls;
use s2n_quic::client::Connect;
use s2n_quic::provider::io::tokio::Provider as Io;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::{Provider, rustls};
use s2n_quic::{Client, Connection, Server};

use super::meter::RoundTrips;
use super::peer::{self, block_on, failed};
use super::{Extra, NetError, Running, Setup, Work, place};

const WHO: &str = "s2n-quic";
/// UDP and IPv6 headers, which s2n-quic counts to the MTU.
const HEADERS: u16 = 48;

struct S2n {
    server: JoinHandle<Result<(), NetError>>,
    client: JoinHandle<Result<(), NetError>>,
}

impl Running for S2n {
    fn finish(self: Box<Self>) -> Result<Extra, NetError> {
        place::join(self.client)?;
        place::join(self.server)?;
        Ok(Extra::default())
    }
}

/// Hands s2n-quic a TLS configuration that its builders cannot make: raw public keys.
struct Tls {
    server: Option<::rustls::ServerConfig>,
    client: Option<::rustls::ClientConfig>,
}

impl Provider for Tls {
    type Server = rustls::Server;
    type Client = rustls::Client;
    type Error = &'static str;

    fn start_server(self) -> Result<rustls::Server, &'static str> {
        Ok(self.server.ok_or("no server configuration")?.into())
    }

    fn start_client(self) -> Result<rustls::Client, &'static str> {
        Ok(self.client.ok_or("no client configuration")?.into())
    }
}

pub(super) fn start(setup: &Setup) -> Result<Box<dyn Running>, NetError> {
    let (addr_in, addr) = crossbeam_channel::bounded::<SocketAddr>(1);
    let (ready_in, ready) = crossbeam_channel::bounded(1);
    let own = setup.clone();
    let server = place::spawn(setup.cores.receiver, "s2n-server", move || {
        let tls = Tls {
            server: Some(
                tls::rustls_server_config(&own.keys[0], &own.trusted)
                    .map_err(|error| NetError::Tls(error.to_string()))?,
            ),
            client: None,
        };
        block_on(&own.meter, async {
            let mut server = Server::builder()
                .with_tls(tls)
                .map_err(error)?
                .with_io(io(own.work)?)
                .map_err(error)?
                .with_limits(limits().map_err(error)?)
                .map_err(error)?
                .start()
                .map_err(error)?;
            let _ = addr_in.send(server.local_addr().map_err(error)?);
            let conn = server.accept().await;
            serve(&own, conn.ok_or_else(|| failed(WHO, &"nobody came"))?).await
        })
    })?;
    let Ok(addr) = addr.recv() else {
        place::join(server)?;
        return Err(failed(WHO, &"the server ended"));
    };
    let own = setup.clone();
    let client = place::spawn(setup.cores.sender, "s2n-client", move || {
        let tls = Tls {
            server: None,
            client: Some(
                tls::rustls_client_config(Some(&own.keys[1]), own.keys[0].public())
                    .map_err(|error| NetError::Tls(error.to_string()))?,
            ),
        };
        block_on(&own.meter, async {
            let client = Client::builder()
                .with_tls(tls)
                .map_err(error)?
                .with_io(io(own.work)?)
                .map_err(error)?
                .with_limits(limits().map_err(error)?)
                .map_err(error)?
                .start()
                .map_err(error)?;
            let connect = Connect::new(addr).with_server_name("stoq");
            let conn = client.connect(connect).await.map_err(error)?;
            let _ = ready_in.send(());
            request(&own, conn).await
        })
    })?;
    if ready.recv().is_err() {
        setup.meter.stop();
        place::join(client)?;
        place::join(server)?;
        return Err(failed(WHO, &"no connection"));
    }
    Ok(Box::new(S2n { server, client }))
}

fn io(work: Work) -> Result<Io, NetError> {
    let mtu = work.udp_payload().saturating_add(HEADERS);
    Io::builder()
        .with_rx_socket(peer::udp(WHO)?)
        .and_then(|io| io.with_max_mtu(mtu))
        .and_then(|io| io.with_initial_mtu(mtu.min(1500)))
        .and_then(s2n_quic::provider::io::tokio::Builder::build)
        .map_err(error)
}

fn limits() -> Result<Limits, impl std::fmt::Display> {
    let stream = u64::from(peer::STREAM_WINDOW);
    Limits::new()
        .with_data_window(peer::CONNECTION_WINDOW.into())
        .and_then(|l| l.with_bidirectional_local_data_window(stream))
        .and_then(|l| l.with_bidirectional_remote_data_window(stream))
        .and_then(|l| l.with_unidirectional_data_window(stream))
        .and_then(|l| l.with_max_send_buffer_size(peer::SEND_WINDOW))
        .and_then(|l| l.with_max_open_remote_unidirectional_streams(peer::STREAMS_MAX.into()))
        .and_then(|l| l.with_max_open_local_unidirectional_streams(peer::STREAMS_MAX.into()))
}

async fn serve(setup: &Setup, mut conn: Connection) -> Result<(), NetError> {
    let meter = &setup.meter;
    match setup.work {
        Work::Bulk { .. } => {
            let stream = conn.accept_receive_stream().await.map_err(error)?;
            let mut stream = stream.ok_or_else(|| failed(WHO, &"no stream"))?;
            while let Some(chunk) = stream.receive().await.map_err(error)? {
                meter.arrived(1, chunk.len() as u64);
            }
        }
        Work::Messages { .. } => {
            while let Some(mut stream) = conn.accept_receive_stream().await.map_err(error)? {
                let mut bytes = 0;
                while let Some(chunk) = stream.receive().await.map_err(error)? {
                    bytes += chunk.len();
                }
                meter.arrived(1, bytes as u64);
            }
        }
        Work::RoundTrip { .. } => {
            let stream = conn.accept_bidirectional_stream().await.map_err(error)?;
            let mut stream = stream.ok_or_else(|| failed(WHO, &"no stream"))?;
            while let Some(chunk) = stream.receive().await.map_err(error)? {
                stream.send(chunk).await.map_err(error)?;
            }
        }
        Work::Datagrams { .. } => return Err(failed(WHO, &"datagrams are not measured")),
    }
    Ok(())
}

async fn request(setup: &Setup, mut conn: Connection) -> Result<(), NetError> {
    let meter = &setup.meter;
    let payload = Bytes::from(vec![7; setup.work.message_bytes()]);
    match setup.work {
        Work::Bulk { .. } => {
            let mut stream = conn.open_send_stream().await.map_err(error)?;
            while !meter.is_stopped() {
                stream.send(payload.clone()).await.map_err(error)?;
            }
        }
        Work::Messages { .. } => {
            while !meter.is_stopped() {
                let mut stream = conn.open_send_stream().await.map_err(error)?;
                stream.send(payload.clone()).await.map_err(error)?;
                stream.finish().map_err(error)?;
            }
        }
        Work::RoundTrip { .. } => {
            let stream = conn.open_bidirectional_stream().await.map_err(error)?;
            let (mut recv, mut send) = stream.split();
            let mut trips = RoundTrips::new(setup.meter.clone());
            while !meter.is_stopped() {
                let sent = Instant::now();
                send.send(payload.clone()).await.map_err(error)?;
                let mut got = 0;
                while got < payload.len() {
                    let chunk = recv.receive().await.map_err(error)?;
                    got += chunk.ok_or_else(|| failed(WHO, &"the stream ended"))?.len();
                }
                trips.record(sent, got);
            }
        }
        Work::Datagrams { .. } => return Err(failed(WHO, &"datagrams are not measured")),
    }
    Ok(())
}

fn error(error: impl std::fmt::Display) -> NetError {
    failed(WHO, &error)
}
