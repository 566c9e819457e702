//! A foreign dissector reads a captured connection, given the key log: the packets are QUIC and
//! TLS 1.3 as everybody understands them.
//!
//! Needs tshark and the right to capture on loopback; otherwise it is skipped with the reason.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{Backend, Channel, Event, PeerTarget, Stoq, StoqConfig};

/// What a frame carries, to be found again in what the dissector decrypted.
const PAYLOAD: &[u8] = b"a frame that a foreign dissector can read";

#[test]
fn tshark_reads_a_captured_connection_with_the_key_log() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, capture) = (dir.path().join("keys"), dir.path().join("capture.pcapng"));
    let port = UdpSocket::bind("[::1]:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut tshark = match Capture::start(port, &capture) {
        Ok(tshark) => tshark,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };

    let pairs = [1, 2].map(|seed| Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[seed; 32])));
    let [(a, a_events), (b, b_events)] = [0, 1].map(|index| {
        let bind = format!("[::1]:{}", if index == 1 { port } else { 0 });
        let mut config = StoqConfig::new(bind.parse().unwrap(), Digest([0xc4; 32]));
        config.identity = Some(Arc::clone(&pairs[index]));
        config
            .trusted
            .replace(pairs.iter().map(|pair| pair.public()));
        // One datagram a packet: what the capture sees is then what the wire would carry.
        config.io.backend = Backend::Plain;
        if index == 0 {
            config.danger_log_keys_to(&keys).unwrap();
        }
        Stoq::bind(config).unwrap()
    });
    let peer = PeerTarget {
        addr: b.local_addr(),
        key: pairs[1].public().clone(),
        persistent: false,
    };
    a.handle().connect(peer).unwrap();
    let conn = match a_events.recv().unwrap() {
        Event::Connected { conn, .. } => conn,
        other => panic!("{other:?}"),
    };
    a.handle()
        .send(conn, Channel::Control, 16, Bytes::from_static(PAYLOAD))
        .unwrap();
    while !matches!(b_events.recv().unwrap(), Event::Frame { .. }) {}
    drop((a, b));
    tshark.until_it_sees(port, &capture, b"the connection has ended");
    tshark.stop();

    let fields = [
        "tls.handshake.extensions_key_share_group",
        "quic.stream_data",
        "quic.frame_type",
    ];
    let rows = dissect(&capture, port, Some(&keys), &fields);
    // X25519MLKEM768, code point 0x11ec.
    assert!(rows.contains("4588") || rows.contains("0x11ec"), "{rows}");
    assert!(
        rows.contains(&hex(PAYLOAD)),
        "the frame was not decrypted:\n{rows}"
    );
    // The same capture without the keys shows nothing of it: the keys did it.
    let blind = dissect(&capture, port, None, &fields);
    assert!(!blind.contains(&hex(PAYLOAD)));
}

/// A running tshark that writes what passes a port.
struct Capture(Child);

impl Capture {
    fn start(port: u16, file: &Path) -> Result<Self, String> {
        let mut child = Command::new("tshark")
            .args(["-i", "lo", "-n", "-q", "-f"])
            .arg(format!("udp port {port}"))
            .arg("-w")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tshark: {error}; install the package tshark"))?;
        let mut said = String::new();
        for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
            let line = line.map_err(|error| error.to_string())?;
            if line.contains("Capturing on") {
                let capture = Self(child);
                capture.until_it_sees(port, file, b"the capture has begun");
                return Ok(capture);
            }
            said += &line;
            said.push('\n');
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        Err(format!(
            "tshark cannot capture on loopback ({status}): {said}"
        ))
    }

    /// Sends a mark to the port until it is in the file, and so is everything before it:
    /// "capturing" is said a little before it is true, and packets are written a little after they
    /// were seen.
    fn until_it_sees(&self, port: u16, file: &Path, mark: &[u8]) {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let seen = || {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(mark.len()).any(|window| window == mark)
        };
        while !seen() {
            // Perhaps nobody listens, or nobody who understands; neither is of interest.
            let _ = socket.send_to(mark, ("::1", port));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Ends it as Ctrl-C would, so that it writes what it has.
    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Already ended, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dissect(capture: &Path, port: u16, keys: Option<&Path>, fields: &[&str]) -> String {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(capture).args(["-n", "-d"]);
    tshark
        .arg(format!("udp.port=={port},quic"))
        .args(["-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    if let Some(keys) = keys {
        tshark
            .arg("-o")
            .arg(format!("tls.keylog_file:{}", keys.display()));
    }
    let output = tshark.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
