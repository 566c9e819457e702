//! A network namespace for each validator, on a bridge.
//!
//! ```text
//!   hub (this process, the load)                 validator-i
//!   ┌────────────────────────────┐               ┌─────────────────────┐
//!   │ falconet-br  fdfa:1c::1/64 ├── vI ───veth──┤ eth0 fdfa:1c::10+i  │
//!   └────────────────────────────┘               └─────────────────────┘
//! ```
//!
//! **Nothing is left behind, whatever ends the process.** The namespaces have no names and are
//! mounted nowhere: they exist while a process lives in them or holds their descriptor. The hub is
//! this process's own; the validators die with it. When they are gone, by whatever signal, the
//! kernel removes namespaces, bridge, veth pairs and everything attached to them. The network of
//! the machine itself is never touched. The hub has a mount namespace of its own, too, with an empty
//! BPF filesystem in which the filters are pinned; it goes the same way. Devices have different
//! names because pins are told apart by them.
//!
//! ```sh
//! nsenter --net=/proc/$PID/ns/net falconet status    # look into it, $PID from the log
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::ports::{BASE_PORT, HTTP_PORT_OFFSET};

/// An address of the hub in another prefix than honest clients: who floods has its own.
pub const STRANGER: Ipv6Addr = Ipv6Addr::new(0xfdfa, 0x1c, 0, 0xbad, 0, 0, 0, 1);
const BRIDGE: &str = "falconet-br";
/// RFC 8200, section 5: with less there is no IPv6.
const MTU_MIN: u32 = 1280;
/// What a bridge of veth pairs takes.
const MTU_MAX: u32 = 65_535;
/// The first validator's address in the prefix; validators number 100 at most.
const FIRST_HOST: u16 = 0x10;

/// Why the namespaces cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Not permitted.
    #[error(
        "network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN ({0}); run it as root, or in a \
         user namespace of your own: unshare --user --map-root-user falconet testnet --netns"
    )]
    Permission(io::Error),
    /// The packet size is impossible.
    #[error("an MTU of {0} bytes is impossible; choose one from {MTU_MIN} to {MTU_MAX}")]
    Mtu(u32),
    /// The program of iproute2 is missing.
    #[error("cannot run `ip` ({0}); install it: apt-get install iproute2")]
    NoIp(io::Error),
    /// A command of it failed.
    #[error("`ip` refused ({said}) one of: {commands}; {hint}")]
    Ip {
        /// What it was told.
        commands: String,
        /// What it said.
        said: String,
        /// What may help.
        hint: &'static str,
    },
    /// Another system call failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The namespaces of a local network. This process lives in the hub from the moment that it makes
/// them.
#[derive(Debug, Clone)]
pub struct Namespaces {
    hub: Arc<File>,
    validators: Vec<Arc<File>>,
    can_pin: bool,
}

impl Namespaces {
    /// Moves this process into a new hub, and makes and links a namespace for each validator.
    ///
    /// # Panics
    /// When this process has several threads: the others would stay where they are.
    pub fn enter(validators: usize, mtu: u32) -> Result<Self, NamespaceError> {
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(NamespaceError::Mtu(mtu));
        }
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        assert_eq!(
            threads, 1,
            "namespaces are entered before threads are started"
        );
        let hub = Arc::new(fresh()?);
        // In a user namespace the kernel mounts none; the filter cannot be loaded there either.
        let can_pin = falconet_ebpf::private_bpffs().is_ok();
        ip(&format!(
            "link set lo up\n\
             link add {BRIDGE} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0\n\
             address add {}/64 dev {BRIDGE} nodad\n\
             address add {STRANGER}/64 dev {BRIDGE} nodad\n\
             link set {BRIDGE} up\n",
            address(1)
        ))?;
        let mut all = Self {
            hub,
            validators: Vec::with_capacity(validators),
            can_pin,
        };
        for index in 0..validators {
            all.add(index, mtu)?;
        }
        Ok(all)
    }

    fn add(&mut self, index: usize, mtu: u32) -> Result<(), NamespaceError> {
        let own = Arc::new(fresh()?);
        // Descriptors of this process, as `ip` finds them.
        let hub = format!("/proc/{}/fd/{}", std::process::id(), self.hub.as_raw_fd());
        ip(&format!(
            "link set lo up\n\
             link add {device} mtu {mtu} type veth peer name {port} mtu {mtu} netns {hub}\n\
             link set {device} address {mac}\n\
             address add {}/64 dev {device} nodad\n\
             link set {device} up\n\
             route add default via {}\n",
            self.validator(index),
            address(1),
            device = self.device(index),
            port = self.port(index),
            mac = self.mac(index).map(|byte| format!("{byte:02x}")).join(":"),
        ))?;
        self.validators.push(own);
        enter(&self.hub).map_err(system("setns"))?;
        ip(&format!(
            "link set {} master {BRIDGE} up\n",
            self.port(index)
        ))
    }

    /// The device inside a validator's namespace.
    #[must_use]
    pub fn device(&self, index: usize) -> String {
        format!("eth{index}")
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self, index: usize) -> [u8; 6] {
        let index = u8::try_from(index).expect("validators are few");
        [0x02, 0xfa, 0x1c, 0, 0, index]
    }

    /// The other end of the cable, a port of the hub's bridge.
    #[must_use]
    pub fn port(&self, index: usize) -> String {
        format!("v{index}")
    }

    /// Whether filters can be pinned where only this network sees them.
    #[must_use]
    pub fn can_pin(&self) -> bool {
        self.can_pin
    }

    /// The address of a validator.
    #[must_use]
    pub fn validator(&self, index: usize) -> Ipv6Addr {
        let index = u16::try_from(index).expect("validators are few");
        address(FIRST_HOST + index)
    }

    /// Where each validator listens, STOQ and HTTP: on equal ports of different addresses.
    #[must_use]
    pub fn listens(&self) -> Vec<(SocketAddrV6, SocketAddrV6)> {
        let at = |index, port| SocketAddrV6::new(self.validator(index), port, 0, 0);
        (0..self.validators.len())
            .map(|index| {
                (
                    at(index, BASE_PORT),
                    at(index, BASE_PORT + HTTP_PORT_OFFSET),
                )
            })
            .collect()
    }

    /// Does something in the namespace of a validator. The calling thread is there meanwhile, and
    /// what it starts stays there.
    ///
    /// # Panics
    /// When the way back is closed: nothing that follows would be right.
    pub fn within<T>(&self, index: usize, work: impl FnOnce() -> T) -> io::Result<T> {
        enter(&self.validators[index])?;
        let result = work();
        if let Err(error) = enter(&self.hub) {
            panic!("cannot return to the hub's namespace: {error}");
        }
        Ok(result)
    }

    /// Starts a program in the namespace of a validator.
    pub fn spawn(&self, index: usize, command: &mut Command) -> io::Result<Child> {
        self.within(index, || command.spawn())?
    }
}

/// `fdfa:1c::HOST`, a unique local address (RFC 4193).
fn address(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfdfa, 0x1c, 0, 0, 0, 0, 0, host)
}

/// Moves this thread into a new network namespace, and returns its descriptor.
fn fresh() -> Result<File, NamespaceError> {
    // SAFETY: the danger of unshare is CLONE_FILES, which makes threads see different descriptors;
    // only the network namespace is asked for.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| match errno {
        rustix::io::Errno::PERM => NamespaceError::Permission(errno.into()),
        _ => NamespaceError::System {
            call: "unshare(CLONE_NEWNET)",
            source: errno.into(),
        },
    })?;
    File::open("/proc/thread-self/ns/net").map_err(system("/proc/thread-self/ns/net"))
}

fn enter(namespace: &File) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn system(call: &'static str) -> impl Fn(io::Error) -> NamespaceError {
    move |source| NamespaceError::System { call, source }
}

/// Gives commands to `ip` in this thread's namespace; it stops at the first that fails.
fn ip(commands: &str) -> Result<(), NamespaceError> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NamespaceError::NoIp)?;
    let mut stdin = child.stdin.take().expect("piped");
    // When it has ended already its own words say why.
    let _ = stdin.write_all(commands.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(system("wait for ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', ", ");
    Err(NamespaceError::Ip {
        hint: match () {
            () if said.contains("not permitted") => "it needs CAP_NET_ADMIN: run as root",
            () if said.contains("Unknown device type") => {
                "the kernel lacks bridge or veth: modprobe bridge veth"
            }
            () if said.contains("Permission denied") => {
                "IPv6 may be off: sysctl -w net.ipv6.conf.default.disable_ipv6=0"
            }
            () => "look at the kernel's log: journalctl -k",
        },
        commands: commands.trim().replace('\n', "; "),
        said,
    })
}
