//! STOQ beside quinn over loopback: bulk, small frames, round trips. A quick look while working on
//! the transport; `falconet bench net` measures properly.
//!
//! `cargo run --release -p falconet-dataplane --example profile -- [bulk|rtt|small] [stoq|quinn]
//! [--mtu BYTES] [--secs N] [--backend auto|mmsg|plain|uring] [--spin never|adaptive|always]
//! [--size BYTES] [--events channel|handler]`
//!
//! With `--events handler` the round trips of `rtt` run within the network threads.
//!
//! Both sides run in this process, each on a thread of its own, with the same TLS (X25519MLKEM768,
//! FALCON-1024, AES-128-GCM).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::{Digest, hash},
};
use falconet_dataplane::{
    Backend, Channel, ConnId, Event, KIND_APPLICATION_MIN, PeerTarget, SendError, Spin, Stoq,
    StoqConfig, StoqHandle, TrustedKeys, tls,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Command line.
struct Options {
    what: String,
    who: String,
    mtu: u16,
    time: Duration,
    backend: Backend,
    spin: Spin,
    size: usize,
    in_handler: bool,
}

fn main() -> Result<(), Error> {
    let options = parse(std::env::args().skip(1))?;
    let keys = [1, 2].map(|seed| Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[seed; 32])));
    match options.who.as_str() {
        "stoq" if options.in_handler && options.what == "rtt" => rtt_in_handlers(&options, &keys),
        "stoq" => stoq(&options, &keys),
        "quinn" => quinn_side::run(&options, &keys),
        other => Err(format!("unknown transport {other}").into()),
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<Options, Error> {
    let mut options = Options {
        what: "bulk".into(),
        who: "stoq".into(),
        mtu: 1452,
        time: Duration::from_secs(3),
        backend: Backend::Auto,
        spin: Spin::Never,
        size: 0,
        in_handler: false,
    };
    let mut positional = 0;
    let mut args = args;
    while let Some(arg) = args.next() {
        if let Some(name) = arg.strip_prefix("--") {
            let value = args.next().ok_or("an option needs a value")?;
            match name {
                "mtu" => options.mtu = value.parse()?,
                "secs" => options.time = Duration::from_secs_f64(value.parse()?),
                "size" => options.size = value.parse()?,
                "events" => options.in_handler = value == "handler",
                "backend" => {
                    options.backend = match value.as_str() {
                        "auto" => Backend::Auto,
                        "mmsg" => Backend::Mmsg,
                        "plain" => Backend::Plain,
                        "uring" => Backend::IoUring,
                        _ => return Err("unknown backend".into()),
                    }
                }
                "spin" => {
                    options.spin = match value.as_str() {
                        "never" => Spin::Never,
                        "adaptive" => Spin::Adaptive {
                            max: Duration::from_micros(50),
                        },
                        "always" => Spin::Always,
                        _ => return Err("unknown spin".into()),
                    }
                }
                _ => return Err(format!("unknown option --{name}").into()),
            }
        } else {
            match positional {
                0 => options.what = arg,
                1 => options.who = arg,
                _ => return Err("too many arguments".into()),
            }
            positional += 1;
        }
    }
    if options.size == 0 {
        options.size = match options.what.as_str() {
            "bulk" => 1 << 20,
            "small" => 256,
            _ => 64,
        };
    }
    Ok(options)
}

fn chain() -> Digest {
    hash("profile", &[])
}

fn config(options: &Options, keys: &[Arc<KeyPair>; 2], own: usize) -> Result<StoqConfig, Error> {
    let mut config = StoqConfig::new("[::1]:0".parse()?, chain());
    config.identity = Some(keys[own].clone());
    config.trusted = TrustedKeys::new(keys.iter().map(|pair| pair.public()));
    config.io.backend = options.backend;
    config.io.spin = options.spin;
    config.io.mtu_max_loopback = options.mtu;
    Ok(config)
}

fn bind(
    options: &Options,
    keys: &[Arc<KeyPair>; 2],
    own: usize,
) -> Result<(Stoq, Receiver<Event>), Error> {
    Ok(Stoq::bind(config(options, keys, own)?)?)
}

/// Round trips that never leave the network threads.
fn rtt_in_handlers(options: &Options, keys: &[Arc<KeyPair>; 2]) -> Result<(), Error> {
    let kind = KIND_APPLICATION_MIN;
    let answer = move |stoq: &StoqHandle, event: Event| {
        if let Event::Frame {
            conn,
            channel,
            payload,
            ..
        } = event
        {
            // Fails only while the connection ends.
            let _ = stoq.send(conn, channel, kind, payload);
        }
    };
    let server = Stoq::bind_with_handler(config(options, keys, 0)?, answer)?;
    println!("stoq: {}", server.backend());
    let (done, done_out) = crossbeam_channel::bounded(1);
    let payload = Bytes::from(vec![7u8; options.size]);
    let (settle, time) = (Duration::from_millis(300), options.time);
    // When it began, when the last one was sent, the times.
    let state = Mutex::new((Instant::now(), Instant::now(), Vec::new()));
    let ping = move |stoq: &StoqHandle, event: Event| {
        let mut state = state.lock().expect("no holder of the lock panics");
        let conn = match event {
            Event::Connected { conn, .. } => {
                state.0 = Instant::now();
                conn
            }
            Event::Frame { conn, .. } => {
                let took_us = state.1.elapsed().as_nanos() as f64 / 1e3;
                if state.0.elapsed() > settle {
                    state.2.push(took_us);
                }
                conn
            }
            _ => return,
        };
        if state.0.elapsed() > settle + time {
            let _ = done.try_send(std::mem::take(&mut state.2));
            return;
        }
        state.1 = Instant::now();
        // Fails only while the connection ends.
        let _ = stoq.send(conn, Channel::Control, kind, payload.clone());
    };
    let client = Stoq::bind_with_handler(config(options, keys, 1)?, ping)?;
    let before = cpu_seconds();
    client.handle().connect(PeerTarget {
        addr: server.local_addr(),
        key: keys[0].public().clone(),
        persistent: false,
    })?;
    let mut times_us = done_out.recv()?;
    let none = AtomicU64::new(0);
    let elapsed = options.time.as_secs_f64();
    report(
        "stoq (handler)",
        options,
        &none,
        &none,
        &mut times_us,
        elapsed,
        before,
    );
    let stats = client.handle().stats();
    let each = |count: u64| count as f64 / stats.frames_out.max(1) as f64;
    println!(
        "  client, per round trip: {:.2} calls that send, {:.2} that receive, {:.2} that wait; \
         {:.2} datagrams out, {:.2} in",
        each(stats.syscalls_send),
        each(stats.syscalls_receive),
        each(stats.syscalls_wait),
        each(stats.datagrams_out),
        each(stats.datagrams_in),
    );
    client.shutdown();
    server.shutdown();
    Ok(())
}

fn connected(events: &Receiver<Event>) -> Result<ConnId, Error> {
    match events.recv()? {
        Event::Connected { conn, .. } => Ok(conn),
        other => Err(format!("not connected: {other:?}").into()),
    }
}

fn stoq(options: &Options, keys: &[Arc<KeyPair>; 2]) -> Result<(), Error> {
    let (server, server_events) = bind(options, keys, 0)?;
    let (client, events) = bind(options, keys, 1)?;
    println!("stoq: {}", server.backend());
    client.handle().connect(PeerTarget {
        addr: server.local_addr(),
        key: keys[0].public().clone(),
        persistent: false,
    })?;
    let conn = connected(&events)?;
    let server_conn = connected(&server_events)?;
    // Let path MTU discovery finish.
    std::thread::sleep(Duration::from_millis(300));
    let handle = client.handle();
    let payload = Bytes::from(vec![7u8; options.size]);
    let kind = KIND_APPLICATION_MIN;
    let (frames, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (frames_in, bytes_in) = (frames.clone(), bytes.clone());
    let is_rtt = options.what == "rtt";
    let server_handle = server.handle();
    let consumer = std::thread::spawn(move || {
        for event in server_events {
            if let Event::Frame {
                payload, channel, ..
            } = event
            {
                frames_in.fetch_add(1, Ordering::Relaxed);
                bytes_in.fetch_add(payload.len() as u64, Ordering::Relaxed);
                if is_rtt
                    && server_handle
                        .send(server_conn, channel, kind, payload)
                        .is_err()
                {
                    return;
                }
            }
        }
    });
    let before = cpu_seconds();
    let start = Instant::now();
    let mut times_us = Vec::new();
    let channel = if options.what == "rtt" {
        Channel::Control
    } else {
        Channel::Bulk
    };
    while start.elapsed() < options.time {
        if is_rtt {
            let sent = Instant::now();
            handle.send(conn, channel, kind, payload.clone())?;
            loop {
                // Spinning end to end, when asked for.
                match events.try_recv() {
                    Ok(Event::Frame { .. }) => break,
                    Ok(other) => return Err(format!("{other:?}").into()),
                    Err(_) if options.spin == Spin::Always => std::hint::spin_loop(),
                    Err(_) => match events.recv()? {
                        Event::Frame { .. } => break,
                        other => return Err(format!("{other:?}").into()),
                    },
                }
            }
            times_us.push(sent.elapsed().as_nanos() as f64 / 1e3);
        } else {
            match handle.send(conn, channel, kind, payload.clone()) {
                Ok(()) => {}
                Err(SendError::Full) => std::thread::sleep(Duration::from_micros(50)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    report(
        "stoq",
        options,
        &frames,
        &bytes,
        &mut times_us,
        elapsed,
        before,
    );
    let (from, to) = (client.handle().stats(), server.handle().stats());
    println!(
        "  datagrams per send {:.1}, per receive {:.1}; bytes per datagram {:.0}; acks {}; \
         copies per byte {:.2}; pool allocated {} recycled {} exhausted {}",
        from.datagrams_out as f64 / from.syscalls_send.max(1) as f64,
        to.datagrams_in as f64 / to.syscalls_receive.max(1) as f64,
        from.bytes_out as f64 / from.datagrams_out.max(1) as f64,
        to.datagrams_out,
        to.copies_per_byte().unwrap_or(0.0),
        to.pool_buffers_allocated,
        to.pool_buffers_recycled,
        to.pool_exhausted,
    );
    client.shutdown();
    server.shutdown();
    consumer.join().map_err(|_| "the consumer panicked")?;
    Ok(())
}

fn report(
    who: &str,
    options: &Options,
    frames: &AtomicU64,
    bytes: &AtomicU64,
    times_us: &mut [f64],
    elapsed: f64,
    before: (f64, f64),
) {
    let after = cpu_seconds();
    let cpu = |a: f64, b: f64| (a - b) / elapsed * 100.0;
    let tail = format!(
        "user {:.0}% system {:.0}%",
        cpu(after.0, before.0),
        cpu(after.1, before.1)
    );
    if times_us.is_empty() {
        println!(
            "{who} {} at MTU {}: {:.2} Gbit/s, {:.0}k frames/s, {tail}",
            options.what,
            options.mtu,
            bytes.load(Ordering::Relaxed) as f64 * 8e-9 / elapsed,
            frames.load(Ordering::Relaxed) as f64 / elapsed / 1e3,
        );
    } else {
        times_us.sort_by(f64::total_cmp);
        let at = |part: usize| times_us[times_us.len() * part / 1000];
        println!(
            "{who} rtt {} B: {:.0}/s, p50 {:.1} us, p99 {:.1} us, {tail}",
            options.size,
            times_us.len() as f64 / elapsed,
            at(500),
            at(990)
        );
    }
}

/// User and system time of this process.
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let ticks = |at: usize| fields.get(at).copied().unwrap_or(0.0) / 100.0;
    (ticks(11), ticks(12))
}

mod quinn_side {
    //! The same work over quinn as its users write it.

    use quinn::{
        ClientConfig, Connection, Endpoint, MtuDiscoveryConfig, ServerConfig, TransportConfig,
        VarInt,
    };

    use super::*;

    fn transport(mtu: u16) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu);
        config
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window(VarInt::from_u32(16 << 20))
            .receive_window(VarInt::from_u32(64 << 20))
            .send_window(24 << 20)
            .max_concurrent_uni_streams(VarInt::from_u32(1024));
        Arc::new(config)
    }

    fn runtime() -> Result<tokio::runtime::Runtime, Error> {
        Ok(tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?)
    }

    pub(super) fn run(options: &Options, keys: &[Arc<KeyPair>; 2]) -> Result<(), Error> {
        let trusted = TrustedKeys::new(keys.iter().map(|pair| pair.public()));
        let crypto = Arc::new(tls::server_config(&keys[0], &trusted)?);
        let mut server_config = ServerConfig::with_crypto(crypto);
        server_config.transport_config(transport(options.mtu));
        let (addr_in, addr_out) = crossbeam_channel::bounded(1);
        let (frames, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (frames_in, bytes_in) = (frames.clone(), bytes.clone());
        let what = options.what.clone();
        let server = std::thread::spawn(move || -> Result<(), Error> {
            runtime()?.block_on(async {
                let endpoint = Endpoint::server(server_config, "[::1]:0".parse()?)?;
                addr_in.send(endpoint.local_addr()?)?;
                let incoming = endpoint.accept().await.ok_or("nobody came")?;
                serve(incoming.await?, &what, &frames_in, &bytes_in).await;
                Ok(())
            })
        });
        let addr: SocketAddr = addr_out.recv()?;
        let crypto = tls::client_config(Some(&keys[1]), keys[0].public())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(options.mtu));
        runtime()?.block_on(async {
            let mut endpoint = Endpoint::client("[::1]:0".parse()?)?;
            endpoint.set_default_client_config(config);
            let conn = endpoint.connect(addr, "stoq")?.await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let before = cpu_seconds();
            let start = Instant::now();
            let mut times_us = Vec::new();
            client(&conn, options, start, &mut times_us).await?;
            let elapsed = start.elapsed().as_secs_f64();
            report(
                "quinn",
                options,
                &frames,
                &bytes,
                &mut times_us,
                elapsed,
                before,
            );
            conn.close(VarInt::from_u32(0), b"done");
            endpoint.wait_idle().await;
            Ok::<_, Error>(())
        })?;
        server.join().map_err(|_| "the server panicked")?
    }

    async fn serve(conn: Connection, what: &str, frames: &Arc<AtomicU64>, bytes: &Arc<AtomicU64>) {
        let stop = AtomicBool::new(false);
        if what == "rtt" {
            if let Ok((mut send, mut recv)) = conn.accept_bi().await {
                while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                    if send.write_chunk(chunk.bytes).await.is_err() {
                        break;
                    }
                }
            }
            return;
        }
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut stream) = conn.accept_uni().await else {
                return;
            };
            let (frames, bytes) = (frames.clone(), bytes.clone());
            let read = async move {
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                    bytes.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
                }
                frames.fetch_add(1, Ordering::Relaxed);
            };
            if what == "bulk" {
                tokio::spawn(read);
            } else {
                read.await;
            }
        }
    }

    async fn client(
        conn: &Connection,
        options: &Options,
        start: Instant,
        times_us: &mut Vec<f64>,
    ) -> Result<(), Error> {
        let payload = Bytes::from(vec![7u8; options.size]);
        match options.what.as_str() {
            "rtt" => {
                let (mut send, mut recv) = conn.open_bi().await?;
                while start.elapsed() < options.time {
                    let sent = Instant::now();
                    send.write_chunk(payload.clone()).await?;
                    let mut got = 0;
                    while got < options.size {
                        let chunk = recv.read_chunk(usize::MAX, true).await?;
                        got += chunk.ok_or("the stream ended")?.bytes.len();
                    }
                    times_us.push(sent.elapsed().as_nanos() as f64 / 1e3);
                }
            }
            "bulk" => {
                let mut stream = conn.open_uni().await?;
                while start.elapsed() < options.time {
                    stream.write_chunk(payload.clone()).await?;
                }
            }
            _ => {
                while start.elapsed() < options.time {
                    let mut stream = conn.open_uni().await?;
                    stream.write_chunk(payload.clone()).await?;
                    stream.finish()?;
                }
            }
        }
        Ok(())
    }
}
