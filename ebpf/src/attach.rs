//! Where a filter is attached, and what is tried when that fails.

use std::fmt;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};

use crate::FilterError;
use crate::device::Device;
use crate::error::{is_rights, os_error, words};

/// How a filter is to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// tc where XDP costs more than it saves (veth, loopback); else native XDP, then tc, then
    /// generic XDP.
    #[default]
    Auto,
    /// XDP in the driver, or nothing.
    Native,
    /// XDP in the network stack, or nothing: slower than tc, but it can feed AF_XDP sockets.
    Generic,
    /// tc at ingress (TCX), or nothing. It cannot feed AF_XDP sockets.
    Tc,
}

/// Where a filter is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the network stack.
    Generic,
    /// tc at ingress.
    Tc,
}

impl Mode {
    pub(crate) fn to_raw(self) -> u32 {
        match self {
            Mode::Native => 1,
            Mode::Generic => 2,
            Mode::Tc => 3,
        }
    }

    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        [Mode::Native, Mode::Generic, Mode::Tc]
            .into_iter()
            .find(|mode| mode.to_raw() == raw)
    }

    /// Whether it can hand packets to AF_XDP sockets.
    #[must_use]
    pub fn is_xdp(self) -> bool {
        self != Mode::Tc
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Native => "native XDP",
            Mode::Generic => "generic XDP",
            Mode::Tc => "tc (TCX)",
        })
    }
}

/// What an attempt to attach came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The mode that worked.
    pub mode: Mode,
    /// Better modes that were passed over, and why.
    pub passed_over: Vec<(Mode, String)>,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mode)?;
        for (mode, why) in &self.passed_over {
            write!(f, "; not {mode}: {why}")?;
        }
        Ok(())
    }
}

/// Attaches the programs of a loaded object. The settings must be complete before.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    device: &Device,
    how: Attach,
    mut before: impl FnMut(Mode) -> Result<(), FilterError>,
) -> Result<(FdLink, Attachment), FilterError> {
    let mut passed_over = Vec::new();
    let modes: &[Mode] = match (how, &device.prefers_tc) {
        (Attach::Native, _) => &[Mode::Native],
        (Attach::Generic, _) => &[Mode::Generic],
        (Attach::Tc, _) => &[Mode::Tc],
        (Attach::Auto, None) => &[Mode::Native, Mode::Tc, Mode::Generic],
        (Attach::Auto, Some(why)) => {
            passed_over.push((Mode::Native, why.clone()));
            &[Mode::Tc, Mode::Generic]
        }
    };
    for mode in modes {
        before(*mode)?;
        let result = match mode {
            Mode::Native => attach_xdp(ebpf, device, XdpMode::Driver),
            Mode::Generic => attach_xdp(ebpf, device, XdpMode::Skb),
            Mode::Tc => attach_tc(ebpf, device),
        };
        match result {
            Ok(link) => {
                let attachment = Attachment {
                    mode: *mode,
                    passed_over,
                };
                return Ok((link, attachment));
            }
            Err(error) if is_rights(&*error) => {
                return Err(FilterError::Rights {
                    action: "attaching the filter",
                });
            }
            Err(error) => passed_over.push((*mode, why(&*error))),
        }
    }
    Err(FilterError::Attach {
        device: device.name.clone(),
        tried: passed_over,
    })
}

/// An error of the loader, of one kind or another.
type Failure = Box<dyn std::error::Error>;

fn attach_xdp(ebpf: &mut Ebpf, device: &Device, mode: XdpMode) -> Result<FdLink, Failure> {
    let program: &mut Xdp = ebpf
        .program_mut("falconet_xdp")
        .expect("the object has the XDP program")
        .try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    let id = program.attach_to_if_index(device.index, mode)?;
    // Attached by netlink, on kernels older than 5.9, the program could not be left to a pin: this
    // fails then, and dropping the link detaches.
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_tc(ebpf: &mut Ebpf, device: &Device) -> Result<FdLink, Failure> {
    let program: &mut SchedClassifier = ebpf
        .program_mut("falconet_tc")
        .expect("the object has the tc program")
        .try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    // First in the chain: dropping early is the purpose. Those behind it still run.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&device.name, TcAttachType::Ingress, order)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// The reason in words for people.
pub(crate) fn why(error: &(dyn std::error::Error + 'static)) -> String {
    match os_error(error) {
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is attached, see: ip link; falconet replaces only its own".into()
        }
        Some(libc::EOPNOTSUPP) => "the driver cannot".into(),
        Some(libc::EINVAL) => {
            "the driver or the kernel refuses (TCX needs Linux 6.6; see also: dmesg)".into()
        }
        _ => words(error),
    }
}
