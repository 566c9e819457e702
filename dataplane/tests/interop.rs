//! Another QUIC implementation with the TLS configuration of this crate talks to STOQ: what
//! `docs/stoq.md` says is enough.

use std::sync::Arc;

use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{Channel, Event, Remote, Stoq, StoqConfig, TrustedKeys, frame, tls};
use quinn::{ClientConfig, Endpoint};

const CHAIN: Digest = Digest([0xc4; 32]);

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = frame::header(kind, payload.len() as u32).to_vec();
    wire.extend_from_slice(payload);
    wire
}

/// HELLO as the document lays it out, written by hand.
fn hello(role: u8) -> Vec<u8> {
    let mut payload = vec![1, 0, role, 0, 0, 0, 0, 0];
    payload.extend_from_slice(&CHAIN.0);
    frame(0, &payload)
}

fn talk(own: Option<Arc<KeyPair>>, role: u8, channel: Channel) {
    let server_key = Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[1; 32]));
    let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), CHAIN);
    config.identity = Some(server_key.clone());
    config.trusted = TrustedKeys::new(own.iter().map(|pair| pair.public()));
    let (stoq, events) = Stoq::bind(config).unwrap();
    let handle = stoq.handle();
    let server = std::thread::spawn(move || {
        let conn = match events.recv().unwrap() {
            Event::Connected { conn, remote, .. } => {
                assert_eq!(remote == Remote::Anonymous, role == 2);
                conn
            }
            other => panic!("{other:?}"),
        };
        match events.recv().unwrap() {
            Event::Frame { kind, payload, .. } => {
                assert_eq!((kind, &payload[..]), (33, &b"ping"[..]));
            }
            other => panic!("{other:?}"),
        }
        handle.send(conn, channel, 34, &b"pong"[..]).unwrap();
        // Until the client is done.
        assert!(matches!(events.recv().unwrap(), Event::Closed { .. }));
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let crypto = tls::client_config(own.as_ref(), server_key.public()).unwrap();
        let endpoint = Endpoint::client("[::1]:0".parse().unwrap()).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        let addr = stoq.local_addr().into();
        let conn = endpoint
            .connect_with(config, addr, "any")
            .unwrap()
            .await
            .unwrap();
        let mut send = conn.open_uni().await.unwrap();
        send.write_all(&[channel.to_wire()]).await.unwrap();
        send.write_all(&hello(role)).await.unwrap();
        send.write_all(&frame(33, b"ping")).await.unwrap();

        let mut expected = vec![channel.to_wire()];
        expected.extend_from_slice(&hello(1));
        expected.extend_from_slice(&frame(34, b"pong"));
        let mut recv = conn.accept_uni().await.unwrap();
        let mut got = vec![0; expected.len()];
        recv.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
        conn.close(0u32.into(), b"done");
        endpoint.wait_idle().await;
    });
    server.join().unwrap();
}

#[test]
fn quinn_as_an_anonymous_client() {
    talk(None, 2, Channel::Client);
}

#[test]
fn quinn_as_a_validator() {
    let key = Arc::new(KeyPair::from_seed(Scheme::Falcon512, &[2; 32]));
    talk(Some(key), 1, Channel::Control);
}
