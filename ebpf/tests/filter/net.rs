//! Two network namespaces joined by a veth pair, and who talks between them.

use std::io;
use std::net::{SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{HERE, THERE};

/// Tests of one process have different numbers.
pub static NEXT: AtomicU32 = AtomicU32::new(0);
/// How long to wait for an answer before asking again.
pub const RETRY: Duration = Duration::from_millis(100);

/// A pair of namespaces, gone when the value is.
pub struct Net {
    /// Where the clients are.
    there: String,
    /// Where the filter is.
    here: String,
}

impl Net {
    pub fn new() -> Self {
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("fnx-{}-{number}-{side}", std::process::id());
        let net = Self {
            there: name("there"),
            here: name("here"),
        };
        for name in [&net.there, &net.here] {
            ip(&["netns", "add", name]);
        }
        let (there, here) = (net.there.as_str(), net.here.as_str());
        ip(&[
            "-n", there, "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", here,
        ]);
        let ends = [(there, "va", THERE, "1"), (here, "vb", HERE, "2")];
        for (name, device, address, last) in ends {
            let mac = format!("02:00:00:00:00:0{last}");
            ip(&["-n", name, "link", "set", device, "address", &mac]);
            let address = format!("{address}/64");
            ip(&[
                "-n", name, "address", "add", &address, "dev", device, "nodad",
            ]);
            ip(&["-n", name, "link", "set", device, "up"]);
        }
        net
    }

    /// Runs a function on a thread of its own in a namespace.
    fn within<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = std::fs::File::open(format!("/var/run/netns/{name}")).unwrap();
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
                run()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn there<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        Self::within(&self.there, run)
    }

    pub fn here<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        Self::within(&self.here, run)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.there, &self.here] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// Deletes what runs that were killed left.
fn sweep() {
    let names = Command::new("ip").args(["netns", "list"]).output().unwrap();
    for line in String::from_utf8_lossy(&names.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or("");
        let pid = name
            .strip_prefix("fnx-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", args.join(" "));
}

/// Why namespaces cannot be had here.
pub fn without_namespaces() -> Option<String> {
    let name = format!("fnx-{}-probe", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    match made {
        Err(error) => Some(format!("iproute2 is missing: {error}")),
        Ok(output) if !output.status.success() => {
            Some(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
        Ok(_) => None,
    }
}

/// Sends frames as they are.
pub struct Raw(OwnedFd);

impl Raw {
    /// Of the current namespace.
    pub fn open(device: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a plain call; the result is checked before it is used.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: zero is a value of every field.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = protocol;
        let name = std::ffi::CString::new(device).unwrap();
        // SAFETY: a NUL-terminated string that outlives the call.
        to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        // SAFETY: an address of the length that is stated.
        let bound = unsafe {
            let length = size_of::<libc::sockaddr_ll>() as u32;
            libc::bind(fd.as_raw_fd(), (&raw const to).cast(), length)
        };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = rustix::io::write(&self.0, frame).unwrap();
        assert_eq!(sent, frame.len());
    }
}

/// Answers every datagram until it is told to stop.
pub fn echo(stop: &AtomicBool, port: u16) {
    let socket = UdpSocket::bind(SocketAddrV6::new(HERE, port, 0, 0)).unwrap();
    socket.set_read_timeout(Some(RETRY)).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
            // A forged source cannot be answered; whoever is honest asks again.
            let _ = socket.send_to(&buffer[..bytes], from);
        }
    }
}

/// Tells a thread to stop, also when the test fails: a scope waits for its threads.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks until the answer comes, as a transport would. Returns how often it asked again.
pub fn ask(socket: &UdpSocket, datagram: &[u8]) -> u32 {
    let mut again = 0;
    let mut buffer = [0; 2048];
    socket.send(datagram).unwrap();
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) if buffer[..bytes] == *datagram => return again,
            Ok(_) => {}
            Err(_) => {
                again += 1;
                socket.send(datagram).unwrap();
            }
        }
    }
}

pub fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddrV6::new(THERE, 0, 0, 0)).unwrap();
    socket.connect(SocketAddrV6::new(HERE, port, 0, 0)).unwrap();
    socket.set_read_timeout(Some(RETRY)).unwrap();
    socket
}
