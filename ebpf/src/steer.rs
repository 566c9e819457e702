//! Packets to AF_XDP sockets on a device that has no filter.

use std::fmt;
use std::net::SocketAddrV6;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, MapData, XskMap};
use aya::programs::links::FdLink;

use crate::tables::table_error;
use crate::{FilterError, Mode, XSK_MAX, plain};

/// The endpoint, as the program has it (`struct endpoint` of `src/bpf/plain.bpf.c`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Endpoint {
    address: [u8; 16],
    /// In network order.
    port: u32,
    frame_bytes_max: u32,
}

// SAFETY: `repr(C)`, integers only, no padding that is not a field, any bytes are a value.
unsafe impl aya::Pod for Endpoint {}

/// A program that directs UDP over IPv6 for one endpoint to AF_XDP sockets and leaves everything
/// else to the kernel, also packets on a queue without socket: it drops nothing. It is attached by
/// a link that the process holds, so that it disappears with the process, and never in place of a
/// program that is there already.
pub struct Steer {
    sockets: XskMap<MapData>,
    mode: Mode,
    /// Detaches when dropped.
    _link: FdLink,
    _ebpf: Ebpf,
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Steer {
    /// Attaches it to a device for the packets to `endpoint`, of which an address `[::]` means
    /// every address. Frames longer than `frame_bytes_max`, which the
    /// sockets do not take, are left to the kernel. The modes, native or generic XDP, are tried in their order; what was tried
    /// in vain comes back with the reasons.
    ///
    /// # Errors
    /// Missing rights, or no mode worked.
    pub fn attach(
        device: &str,
        device_index: u32,
        endpoint: &SocketAddrV6,
        frame_bytes_max: u32,
        modes: &[Mode],
    ) -> Result<(Self, Vec<(Mode, String)>), FilterError> {
        let mut ebpf = plain::load_object()?;
        let to = ebpf.map_mut("endpoint").expect("the object has it");
        let mut to = Array::<_, Endpoint>::try_from(to).expect("it is an array");
        let value = Endpoint {
            address: endpoint.ip().octets(),
            port: u16::from_ne_bytes(endpoint.port().to_be_bytes()).into(),
            frame_bytes_max,
        };
        to.set(0, value, 0)
            .map_err(|error| table_error("endpoint", &error))?;
        let sockets = ebpf.take_map("sockets").expect("the object has it");
        let sockets = XskMap::try_from(sockets).map_err(|error| table_error("sockets", &error))?;
        // Rights are reported as such, before any mode is tried.
        plain::program(&mut ebpf, "steer")?;
        let mut tried = Vec::new();
        for mode in modes {
            match plain::attach(&mut ebpf, "steer", device_index, *mode) {
                Ok(link) => {
                    let steer = Self {
                        sockets,
                        mode: *mode,
                        _link: link,
                        _ebpf: ebpf,
                    };
                    return Ok((steer, tried));
                }
                Err(reason) => tried.push((*mode, reason)),
            }
        }
        Err(FilterError::Attach {
            device: device.into(),
            tried,
        })
    }

    /// Where it is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Sends the packets of a receive queue to an AF_XDP socket that is bound to it. When the
    /// socket closes, the kernel forgets it.
    ///
    /// # Errors
    /// The queue is beyond the table, or the kernel refuses the socket.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), FilterError> {
        if queue >= XSK_MAX {
            return Err(FilterError::Config("queues are at most 1024"));
        }
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|error| table_error("sockets", &error))
    }
}
