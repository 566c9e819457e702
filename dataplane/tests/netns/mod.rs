//! Network namespaces for tests and measurements: made, joined, and deleted again, also when the
//! test fails. Names carry the process id, so that runs do not meet.

use std::{
    fs::File,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// Runs `ip` and fails with its words.
pub fn ip(arguments: &str) {
    if let Err(reason) = try_ip(arguments) {
        panic!("ip {arguments}: {reason}");
    }
}

fn try_ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("{error} (package iproute2)"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// A namespace, deleted when dropped, and with it its devices.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, or says why that is not possible here.
    pub fn new(label: &str) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("falconet-{}-{number}-{label}", std::process::id());
        try_ip(&format!("netns add {name}"))?;
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Runs `work` in a thread that lives inside; threads that it starts live there too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
                // SAFETY: the descriptor is open; only this thread changes its namespace, before
                // it opens any socket.
                let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = try_ip(&format!("netns delete {}", self.name));
    }
}

/// Two namespaces with a pair of veth devices, each called `eth0`, between them.
#[derive(Debug)]
pub struct Pair {
    /// The one with address `fd00:51::1`.
    pub a: Namespace,
    /// The one with address `fd00:51::2`.
    pub b: Namespace,
}

impl Pair {
    /// Makes them, or says why that is not possible here.
    pub fn new(mtu: u32) -> Result<Self, String> {
        let pair = Pair {
            a: Namespace::new("a")?,
            b: Namespace::new("b")?,
        };
        connect(&pair.a, "eth0", &pair.b, "eth0", mtu)?;
        for (namespace, address) in [(&pair.a, address(1)), (&pair.b, address(2))] {
            namespace.ip(&format!("address add {address}/64 dev eth0 nodad"));
        }
        Ok(pair)
    }
}

/// Addresses of a [`Pair`].
pub fn address(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, host)
}

/// A socket address at one of them.
pub fn at(host: u16, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address(host), port, 0, 0)
}

/// Lays a cable: a pair of veth devices, up.
pub fn connect(a: &Namespace, da: &str, b: &Namespace, db: &str, mtu: u32) -> Result<(), String> {
    try_ip(&format!(
        "-n {} link add {da} type veth peer name {db} netns {}",
        a.name, b.name
    ))?;
    for (namespace, device) in [(a, da), (b, db)] {
        namespace.ip(&format!("link set {device} mtu {mtu} addrgenmode none up"));
    }
    Ok(())
}
