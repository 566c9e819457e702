//! Every static probe of the table fires: in a network that works, loses a validator for a while,
//! loses packets, and is asked more than it can answer.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use falconet_client::{Client, Hub};
use falconet_types::{Digest, Scheme};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{FALCONET, PATIENCE, wait_for};
use crate::network::Network;
use crate::tracing::{look, obstacle};

/// How long each look at the network takes, at first.
const LOOK: Duration = Duration::from_secs(4);
/// Of the datagrams to the client, one of so many is lost.
const LOST_ONE_OF: u32 = 7;
/// Requests for proofs that are sent in one piece; many times the queue's limit.
const REQUESTS: usize = 20_000;

/// A way between a client and a validator on which datagrams to the client are lost.
struct LossyWay {
    address: SocketAddrV6,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl LossyWay {
    fn to(validator: SocketAddrV6) -> Self {
        let bind = || {
            let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            let turn = Some(Duration::from_millis(20));
            socket.set_read_timeout(turn).unwrap();
            Arc::new(socket)
        };
        let (front, back) = (bind(), bind());
        let SocketAddr::V6(address) = front.local_addr().unwrap() else {
            unreachable!("it was bound to an IPv6 address")
        };
        // Also towards the front, so that neither direction needs to know where the client is
        // before it has spoken.
        let client = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let there = {
            let (front, back, client, stop) =
                (front.clone(), back.clone(), client.clone(), stop.clone());
            thread::spawn(move || {
                forward(&stop, &front, |datagram, from| {
                    *client.lock().unwrap() = Some(from);
                    // A full buffer loses it, as a network does.
                    let _ = back.send_to(datagram, validator);
                });
            })
        };
        let again = {
            let stop = stop.clone();
            let mut count = 0;
            thread::spawn(move || {
                forward(&stop, &back, |datagram, _| {
                    count += 1;
                    if let Some(to) = client.lock().unwrap().filter(|_| count % LOST_ONE_OF != 0) {
                        let _ = front.send_to(datagram, to);
                    }
                });
            })
        };
        Self {
            address,
            stop,
            threads: vec![there, again],
        }
    }
}

fn forward(stop: &AtomicBool, from: &UdpSocket, mut each: impl FnMut(&[u8], SocketAddr)) {
    let mut datagram = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        // An error is the end of a turn without a datagram.
        if let Ok((length, sender)) = from.recv_from(&mut datagram) {
            each(&datagram[..length], sender);
        }
    }
}

impl Drop for LossyWay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Pays until the time is over. Nonces go up from `nonce`.
fn pay(network: &Network, account: usize, nonce: &mut u64, client: &mut Client, until: Instant) {
    while Instant::now() < until {
        let mut wallet = network.wallet_from(account, *nonce);
        let to = network.account(1 - account);
        let transfers: Vec<_> = (0..20).map(|_| wallet.transfer(to, 1)).collect();
        *nonce = wallet.next_nonce();
        client.submit_and_wait(&transfers, PATIENCE).unwrap();
    }
}

#[test]
fn every_probe_of_the_table_fires() {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: {reason}");
        return;
    }
    let network = Network::running(2, 2, Scheme::Falcon512);
    let other = Pid::from_raw(network.pid(1).cast_signed()).unwrap();
    let mut near = network.client(1);
    let way = LossyWay::to(network.stoq(0));
    let mut config = network.client_config(0);
    config.addr = way.address;
    let mut far = Client::connect(&config).unwrap();
    let mut hub = Hub::open(network.chain_id()).unwrap();
    let asking = hub.dial(network.stoq(0), &config.key).unwrap();

    let counted = falconet_probes::PROBES.iter().map(|probe| {
        let name = probe.name;
        format!("usdt:{FALCONET}:falconet:{name} {{ @fired[\"{name}\"] = count(); }}\n")
    });
    let program: String = counted.collect();
    let mut missing: BTreeSet<&str> = falconet_probes::PROBES.iter().map(|p| p.name).collect();
    let (mut nonces, mut time) = ([1, 1], LOOK);
    wait_for("every probe to fire", || {
        let until = Instant::now() + time;
        let output = thread::scope(|scope| {
            let [near_nonce, far_nonce] = &mut nonces;
            scope.spawn(|| pay(&network, 0, near_nonce, &mut near, until));
            scope.spawn(|| pay(&network, 1, far_nonce, &mut far, until));
            scope.spawn(|| {
                // A quorum is both: rounds are given up, and taken up again.
                thread::sleep(time / 3);
                kill_process(other, Signal::STOP).unwrap();
                thread::sleep(time / 3);
                kill_process(other, Signal::CONT).unwrap();
            });
            scope.spawn(|| {
                while Instant::now() < until {
                    for i in 0..REQUESTS {
                        let mut id = [0; 32];
                        id[..8].copy_from_slice(&i.to_le_bytes());
                        // No room for more requests is what is wanted.
                        if hub.request_proof(asking, Digest(id)).is_err() {
                            break;
                        }
                    }
                    let soon = Instant::now() + Duration::from_millis(10);
                    while hub.poll(Some(soon)).unwrap().is_some() {}
                }
            });
            let mut command = Command::new("bpftrace");
            command.args(["-p", &network.pid(0).to_string(), "-e", &program]);
            look(command, time)
        });
        missing.retain(|name| !output.contains(&format!("@fired[{name}]: ")));
        time *= 2;
        if !missing.is_empty() {
            eprintln!("not seen yet: {missing:?}");
        }
        missing.is_empty().then_some(())
    });
    drop(way);
}
