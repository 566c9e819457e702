//! What a network device is, as far as it decides where the filter goes.

use std::io;

use crate::{FilterError, sys};

/// Longest name of a device, without the closing NUL (`IFNAMSIZ`).
const NAME_BYTES_MAX: usize = 15;

/// A device of the current network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub name: String,
    pub index: u32,
    /// Why tc suits it better than XDP, if it does.
    pub prefers_tc: Option<String>,
}

impl Device {
    pub(crate) fn find(name: &str) -> Result<Self, FilterError> {
        check_name(name)?;
        let wrong = |source| FilterError::Device {
            device: name.into(),
            source,
        };
        let index = sys::device_index(name).map_err(wrong)?;
        let hardware = sys::hardware(name).map_err(wrong)?;
        let prefers_tc = match hardware {
            libc::ARPHRD_LOOPBACK => {
                Some("loopback: XDP would turn segmentation offload off".into())
            }
            libc::ARPHRD_ETHER => match sys::driver(name).map_err(wrong)?.as_deref() {
                Some(driver @ ("veth" | "tun" | "bridge" | "dummy")) => {
                    Some(format!("{driver}: XDP would turn segmentation offload off"))
                }
                _ => None,
            },
            _ => {
                return Err(FilterError::NoEthernet {
                    device: name.into(),
                });
            }
        };
        Ok(Self {
            name: name.into(),
            index,
            prefers_tc,
        })
    }
}

/// Refuses what cannot be a device's name, for it also becomes the name of a directory.
pub(crate) fn check_name(name: &str) -> Result<(), FilterError> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name == "."
        || name == ".."
        || name.contains(|c: char| c == '/' || c == '\0' || c.is_whitespace());
    if bad {
        return Err(FilterError::Device {
            device: name.into(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "no name of a device"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "a b", "sixteen-letters-"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("enp3s0f0np0").unwrap();
    }

    #[test]
    fn loopback_prefers_tc() {
        let lo = Device::find("lo").unwrap();
        assert!(lo.prefers_tc.is_some() && lo.index > 0);
        assert!(matches!(
            Device::find("no-such-device"),
            Err(FilterError::Device { .. })
        ));
    }
}
