//! quinn, as its users write it: one single-threaded runtime a side, GSO and GRO on, large
//! windows and buffers.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use falconet_dataplane::tls;
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};

use super::meter::RoundTrips;
use super::peer::{self, block_on, failed};
use super::{Extra, NetError, Running, Setup, UDP_PAYLOAD_1500, Work, place};

const WHO: &str = "quinn";
/// ACK-eliciting packets that a receiver may leave unanswered, when the extension is used; what
/// STOQ asks for.
const ACK_THRESHOLD: u32 = 10;

struct Quinn {
    server: JoinHandle<Result<(), NetError>>,
    client: JoinHandle<Result<(), NetError>>,
}

impl Running for Quinn {
    fn finish(self: Box<Self>) -> Result<Extra, NetError> {
        place::join(self.client)?;
        place::join(self.server)?;
        Ok(Extra::default())
    }
}

pub(super) fn start(setup: &Setup, ack_frequency: bool) -> Result<Box<dyn Running>, NetError> {
    let (addr_in, addr) = crossbeam_channel::bounded(1);
    let (ready_in, ready) = crossbeam_channel::bounded(1);
    let own = setup.clone();
    let server = place::spawn(setup.cores.receiver, "quinn-server", move || {
        let crypto = tls::server_config(&own.keys[0], &own.trusted)
            .map_err(|error| NetError::Tls(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(own.work, ack_frequency));
        block_on(&own.meter, async {
            let endpoint = endpoint(Some(config))?;
            let _ = addr_in.send(endpoint.local_addr().map_err(error)?);
            let incoming = endpoint.accept().await;
            let conn = incoming.ok_or_else(|| failed(WHO, &"nobody came"))?;
            serve(&own, &conn.await.map_err(error)?).await
        })
    })?;
    let Ok(addr) = addr.recv() else {
        place::join(server)?;
        return Err(failed(WHO, &"the server ended"));
    };
    let own = setup.clone();
    let client = place::spawn(setup.cores.sender, "quinn-client", move || {
        let crypto = tls::client_config(Some(&own.keys[1]), own.keys[0].public())
            .map_err(|error| NetError::Tls(error.to_string()))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(own.work, ack_frequency));
        block_on(&own.meter, async {
            let mut endpoint = endpoint(None)?;
            endpoint.set_default_client_config(config);
            let connecting = endpoint.connect(addr, "stoq").map_err(error)?;
            let conn = connecting.await.map_err(error)?;
            let _ = ready_in.send(());
            request(&own, &conn).await
        })
    })?;
    if ready.recv().is_err() {
        setup.meter.stop();
        place::join(client)?;
        place::join(server)?;
        return Err(failed(WHO, &"no connection"));
    }
    Ok(Box::new(Quinn { server, client }))
}

fn transport(work: Work, ack_frequency: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(work.udp_payload());
    config
        .initial_mtu(work.udp_payload().min(UDP_PAYLOAD_1500))
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(VarInt::from_u32(peer::STREAM_WINDOW))
        .receive_window(VarInt::from_u32(peer::CONNECTION_WINDOW))
        .send_window(peer::SEND_WINDOW.into())
        .max_concurrent_uni_streams(VarInt::from_u32(peer::STREAMS_MAX))
        .datagram_receive_buffer_size(Some(peer::DATAGRAM_BUFFER))
        .datagram_send_buffer_size(peer::DATAGRAM_BUFFER);
    if ack_frequency {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
        config.ack_frequency_config(Some(acks));
    }
    Arc::new(config)
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint, NetError> {
    let runtime = Arc::new(TokioRuntime);
    let config = EndpointConfig::default();
    Endpoint::new(config, server, peer::udp(WHO)?, runtime).map_err(error)
}

async fn serve(setup: &Setup, conn: &Connection) -> Result<(), NetError> {
    let meter = &setup.meter;
    match setup.work {
        Work::Bulk { .. } => {
            let mut stream = conn.accept_uni().await.map_err(error)?;
            while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.map_err(error)? {
                meter.arrived(1, chunk.bytes.len() as u64);
            }
        }
        Work::Datagrams { .. } => loop {
            let datagram = conn.read_datagram().await.map_err(error)?;
            meter.arrived(1, datagram.len() as u64);
        },
        Work::Messages { bytes } => loop {
            let mut stream = conn.accept_uni().await.map_err(error)?;
            let message = stream.read_to_end(bytes).await.map_err(error)?;
            meter.arrived(1, message.len() as u64);
        },
        Work::RoundTrip { .. } => {
            let (mut send, mut recv) = conn.accept_bi().await.map_err(error)?;
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.map_err(error)? {
                send.write_chunk(chunk.bytes).await.map_err(error)?;
            }
        }
    }
    Ok(())
}

async fn request(setup: &Setup, conn: &Connection) -> Result<(), NetError> {
    let meter = &setup.meter;
    let payload = Bytes::from(vec![7; setup.work.message_bytes()]);
    match setup.work {
        Work::Bulk { .. } => {
            let mut stream = conn.open_uni().await.map_err(error)?;
            while !meter.is_stopped() {
                stream.write_chunk(payload.clone()).await.map_err(error)?;
            }
        }
        Work::Datagrams { .. } => {
            while !meter.is_stopped() {
                let sent = conn.send_datagram_wait(payload.clone());
                sent.await.map_err(error)?;
            }
        }
        Work::Messages { .. } => {
            while !meter.is_stopped() {
                let mut stream = conn.open_uni().await.map_err(error)?;
                stream.write_chunk(payload.clone()).await.map_err(error)?;
                stream.finish().map_err(error)?;
            }
        }
        Work::RoundTrip { .. } => {
            let (mut send, mut recv) = conn.open_bi().await.map_err(error)?;
            let mut trips = RoundTrips::new(setup.meter.clone());
            while !meter.is_stopped() {
                let sent = Instant::now();
                send.write_chunk(payload.clone()).await.map_err(error)?;
                let mut got = 0;
                while got < payload.len() {
                    let chunk = recv.read_chunk(usize::MAX, true).await.map_err(error)?;
                    let chunk = chunk.ok_or_else(|| failed(WHO, &"the stream ended"))?;
                    got += chunk.bytes.len();
                }
                trips.record(sent, got);
            }
        }
    }
    Ok(())
}

fn error(error: impl std::fmt::Display) -> NetError {
    failed(WHO, &error)
}
