//! The programs beside the filter (`src/bpf/plain.bpf.c`): loaded, and attached for as long as a
//! value lives.

use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::attach::why;
use crate::device::Device;
use crate::error::{is_rights, words};
use crate::{FilterError, Mode, PLAIN};

/// What a program without conditions does with every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainVerdict {
    /// Leaves it to the kernel. Frames that XDP sends into a veth pair arrive only where the other
    /// end has a program.
    Pass,
    /// Drops it: the least that a filter can cost.
    Drop,
}

/// A program that treats all packets alike, attached to a device while the value lives. For
/// measuring beside.
#[derive(Debug)]
pub struct PlainXdp {
    _link: FdLink,
}

impl PlainXdp {
    /// Attaches it in the driver of a device of the current network namespace.
    ///
    /// # Errors
    /// Missing rights, no such device, or another program is there.
    pub fn attach(device: &str, verdict: PlainVerdict) -> Result<Self, FilterError> {
        let device = Device::find(device)?;
        let mut ebpf = load_object()?;
        let name = match verdict {
            PlainVerdict::Pass => "pass",
            PlainVerdict::Drop => "drop",
        };
        program(&mut ebpf, name)?;
        let link = attach(&mut ebpf, name, device.index, Mode::Native);
        let link = link.map_err(|reason| FilterError::Attach {
            device: device.name,
            tried: vec![(Mode::Native, reason)],
        })?;
        Ok(Self { _link: link })
    }
}

/// Loads the object and makes its tables.
pub(crate) fn load_object() -> Result<Ebpf, FilterError> {
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .load(PLAIN)
        .map_err(|error| refused(&error))
}

/// Loads one of its programs, when that has not been done.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, FilterError> {
    let program = ebpf.program_mut(name).expect("the object has it");
    let program: &mut Xdp = program.try_into().expect("they are all for XDP");
    if program.fd().is_err() {
        program.load().map_err(|error| refused(&error))?;
    }
    Ok(program)
}

/// Attaches a loaded program by a link that ends with the value; the reason in words when not.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    name: &str,
    device_index: u32,
    mode: Mode,
) -> Result<FdLink, String> {
    let mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
        Mode::Tc => unreachable!("these programs are for XDP"),
    };
    let program = program(ebpf, name).map_err(|error| error.to_string())?;
    let id = program
        .attach_to_if_index(device_index, mode)
        .map_err(|error| why(&error))?;
    let link = program.take_link(id).map_err(|error| words(&error))?;
    // Attached by netlink, on kernels older than 5.9, it could outlive us: dropping detaches then.
    link.try_into()
        .map_err(|_| "the kernel has no links for XDP (Linux 5.9)".into())
}

fn refused(error: &(dyn std::error::Error + 'static)) -> FilterError {
    if is_rights(error) {
        return FilterError::Rights {
            action: "loading an XDP program",
        };
    }
    FilterError::Load(words(error))
}
