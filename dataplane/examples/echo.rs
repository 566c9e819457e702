//! A server that echoes frames and a client that measures the round trip, in one process over
//! loopback: the shortest complete use of STOQ.
//!
//! `cargo run --release -p falconet-dataplane --example echo`

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::hash,
};
use falconet_dataplane::{
    Channel, CloseCode, Event, KIND_APPLICATION_MIN, PeerTarget, Stoq, StoqConfig,
};

const ROUNDS: usize = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chain_id = hash("example chain", &[]);

    // The server proves a key; anyone may connect anonymously.
    let key = Arc::new(KeyPair::generate(Scheme::Falcon1024));
    let mut config = StoqConfig::new("[::1]:0".parse()?, chain_id);
    config.identity = Some(key.clone());
    let (server, server_events) = Stoq::bind(config)?;
    let addr = server.local_addr();
    let handle = server.handle();
    let echo = std::thread::spawn(move || {
        for event in server_events {
            match event {
                Event::Connected { conn, remote, .. } => println!("server: {conn} is {remote:?}"),
                Event::Frame {
                    conn,
                    channel,
                    kind,
                    payload,
                    ..
                } => {
                    if let Err(error) = handle.send(conn, channel, kind, payload) {
                        println!("server: {error}");
                    }
                }
                Event::Closed { conn, reason, .. } => println!("server: {conn} {reason}"),
                other => println!("server: {other:?}"),
            }
        }
    });

    // The client pins the server's key and proves none itself.
    let (client, events) = Stoq::bind(StoqConfig::new("[::]:0".parse()?, chain_id))?;
    let handle = client.handle();
    handle.connect(PeerTarget {
        addr,
        key: key.public().clone(),
        persistent: false,
    })?;
    let conn = match events.recv()? {
        Event::Connected { conn, .. } => conn,
        other => return Err(format!("cannot connect: {other:?}").into()),
    };
    let mut times_us = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS as u64 {
        let start = Instant::now();
        let payload = Bytes::copy_from_slice(&round.to_le_bytes());
        handle.send(conn, Channel::Client, KIND_APPLICATION_MIN, payload.clone())?;
        match events.recv()? {
            Event::Frame { payload: echo, .. } if echo == payload => {}
            other => return Err(format!("expected an echo, got {other:?}").into()),
        }
        times_us.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    times_us.sort_by(f64::total_cmp);
    println!(
        "{ROUNDS} round trips over {}: p50 {:.1} us, p99 {:.1} us",
        client.backend(),
        times_us[ROUNDS / 2],
        times_us[ROUNDS * 99 / 100]
    );
    handle.close(conn, CloseCode::Done, "finished")?;
    client.shutdown();
    server.shutdown();
    echo.join().map_err(|_| "the echo thread panicked")?;
    Ok(())
}
