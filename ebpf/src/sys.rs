//! The few system calls that neither aya nor rustix offers.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketType, socket};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
/// Bytes of `struct ethtool_drvinfo`, and of the name at its beginning (behind the command).
const DRVINFO_BYTES: usize = 196;
const DRIVER_BYTES: usize = 32;

/// Index of the device that a link of the XDP or TCX kind hangs on; 0 when the device is gone and
/// the link hangs in the air. Needs CAP_SYS_ADMIN.
pub(crate) fn link_device(id: u32) -> io::Result<u32> {
    /// `struct bpf_link_info`, as far as the device's index, which XDP and TCX have in one place.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        device: u32,
        more: [u32; 11],
    }
    /// `union bpf_attr`, the branch `info`.
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        bytes: u32,
        info: u64,
    }
    /// `union bpf_attr`, the branch that opens by id.
    #[repr(C)]
    struct IdAttr {
        id: u32,
        next: u32,
        flags: u32,
    }
    let by_id = IdAttr {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: `by_id` is as long as stated and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_GET_FD_BY_ID,
            &raw const by_id,
            size_of::<IdAttr>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, which nobody else knows.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut info = Info::default();
    let attr = InfoAttr {
        fd: link.as_raw_fd() as u32,
        bytes: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` names a buffer of exactly the length that it states, and both outlive the
    // call; the kernel writes plain integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<InfoAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.device)
}

/// Mounts a BPF filesystem.
pub(crate) fn mount_bpf(target: &CStr) -> io::Result<()> {
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call; no data is given.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Keeps what is mounted from now on inside this mount namespace.
pub(crate) fn make_mounts_private() -> io::Result<()> {
    // SAFETY: the target is a NUL-terminated string; the other pointers may be null when only the
    // propagation changes.
    let result = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Index of a device in the current network namespace.
pub(crate) fn device_index(device: &str) -> io::Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Kind of hardware (`ARPHRD_*`) of a device.
pub(crate) fn hardware(device: &str) -> io::Result<u16> {
    let mut request = request(device)?;
    ioctl(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: after SIOCGIFHWADDR succeeded the union holds an address, whose family is the kind
    // of hardware.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// Name of the driver of a device; `None` when it has none to tell.
pub(crate) fn driver(device: &str) -> io::Result<Option<String>> {
    let mut info = [0u8; DRVINFO_BYTES];
    info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    let mut request = request(device)?;
    request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
    match ioctl(SIOCETHTOOL, &mut request) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error),
    }
    let name = CStr::from_bytes_until_nul(&info[4..4 + DRIVER_BYTES])
        .map(|name| name.to_string_lossy().into_owned());
    Ok(name.ok().filter(|name| !name.is_empty()))
}

/// Switches generic receive offload; returns how it was.
pub(crate) fn receive_offload(device: &str, on: bool) -> io::Result<bool> {
    // struct ethtool_value: command, value.
    let mut value = [ETHTOOL_GGRO, 0];
    let mut request = request(device)?;
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    ioctl(SIOCETHTOOL, &mut request)?;
    let before = value[1] != 0;
    if before != on {
        value = [ETHTOOL_SGRO, on.into()];
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        ioctl(SIOCETHTOOL, &mut request)?;
    }
    Ok(before)
}

fn request(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is made of integers and unions of such; zero is a value of each.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = device.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

fn ioctl(command: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
    // SAFETY: both commands take an `ifreq`; where that holds a pointer (SIOCETHTOOL) it points to
    // a live buffer of the size that its command asks for.
    if unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut *request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
