//! A filter on one device: attached, opened, steered, read, detached.

use std::fmt;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use aya::maps::{MapError, RingBuf};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::abi::{ABI_VERSION, FLAG_BLOCKS, FLAG_CLOSED, Settings};
use crate::attach::attach;
use crate::config::Owner;
use crate::device::Device;
use crate::error::{is_rights, words};
use crate::pins::{self, LINK, Pins};
use crate::tables::{Tables, table_error};
use crate::{
    Attach, Attachment, CAUSES, Counters, FilterConfig, FilterError, Limits, Mode, OBJECT, Samples,
    XSK_MAX, sys,
};

/// A filter. Its methods may be called from any thread, and beside other processes that opened the
/// same pinned filter.
pub struct Filter {
    device: String,
    pins: Option<Pins>,
    tables: Mutex<Tables>,
    attachment: Attachment,
    /// The last owner of a link detaches when it lets go; a pin is an owner.
    link: Option<FdLink>,
}

/// What is known about an attached filter.
#[derive(Clone, Debug)]
pub struct Status {
    /// The device.
    pub device: String,
    /// Where it is attached.
    pub mode: Mode,
    /// Who attached it.
    pub owner: Owner,
    /// UDP port.
    pub port: u16,
    /// Address, unless all are meant.
    pub address: Option<Ipv6Addr>,
    /// Whether clients may enter.
    pub clients: bool,
    /// Budgets.
    pub limits: Limits,
    /// Id of the program in the kernel, for bpftool.
    pub program: u32,
    /// Whether the device still exists.
    pub alive: bool,
    /// AF_XDP threads a queue.
    pub net_threads: u32,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("device", &self.device)
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// Loads the programs and attaches them to a device of the current network namespace.
    ///
    /// With `pin`, a directory on a BPF filesystem (usually [`crate::PIN_ROOT`]), the filter is
    /// pinned under it and outlives the process: it filters on until [`Filter::detach`]. Without,
    /// it ends when the value is dropped or the process dies.
    pub fn attach(
        device: &str,
        config: &FilterConfig,
        how: Attach,
        pin: Option<&Path>,
    ) -> Result<Self, FilterError> {
        config.check()?;
        let device = Device::find(device)?;
        let pins = pin.map(|root| Pins::new(root, &device.name)).transpose()?;
        let Some(pins) = pins else {
            return Self::load(&device, config, how, None);
        };
        pins.create()?;
        let _lock = pins.lock()?;
        // Another of us may have removed the directory between the two calls.
        pins.create()?;
        if pins.file(LINK).exists() {
            return Err(FilterError::AlreadyAttached {
                device: device.name,
                path: pins.dir().to_owned(),
            });
        }
        // Tables without a link: what a kill in the middle of attaching left.
        pins.remove()?;
        pins.create()?;
        let result = Self::load(&device, config, how, Some(&pins));
        if result.is_err() {
            // The first error is the one to report.
            let _ = pins.remove();
        }
        result
    }

    fn load(
        device: &Device,
        config: &FilterConfig,
        how: Attach,
        pins: Option<&Pins>,
    ) -> Result<Self, FilterError> {
        let mut ebpf = load_object(config)?;
        let mut tables = Tables::from_object(&mut ebpf, pins)?;
        let (link, attachment) = attach(&mut ebpf, device, how, |mode| {
            tables
                .settings
                .set(0, config.settings(mode), 0)
                .map_err(|error| table_error("settings", &error))
        })?;
        let link = match pins {
            None => link,
            Some(pins) => {
                let pinned = link.pin(pins.file(LINK));
                FdLink::from(pinned.map_err(|error| link_error(&error))?)
            }
        };
        Ok(Self {
            device: device.name.clone(),
            pins: pins.cloned(),
            tables: Mutex::new(tables),
            attachment,
            link: Some(link),
        })
    }

    /// The tables of an object whose programs are not attached.
    pub(crate) fn unattached(ebpf: &mut Ebpf, config: &FilterConfig) -> Result<Self, FilterError> {
        let mut tables = Tables::from_object(ebpf, None)?;
        let attachment = Attachment {
            mode: Mode::Native,
            passed_over: Vec::new(),
        };
        tables
            .settings
            .set(0, config.settings(attachment.mode), 0)
            .map_err(|error| table_error("settings", &error))?;
        Ok(Self {
            device: String::new(),
            pins: None,
            tables: Mutex::new(tables),
            attachment,
            link: None,
        })
    }

    /// Opens the filter that is pinned for a device under `root`.
    pub fn open(root: &Path, device: &str) -> Result<Self, FilterError> {
        let pins = Pins::new(root, device)?;
        let link = match PinnedLink::from_pin(pins.file(LINK)) {
            Ok(link) => link,
            Err(error) if is_rights(&error) => {
                return Err(FilterError::Rights {
                    action: "opening the filter",
                });
            }
            Err(LinkError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                return Err(FilterError::NotAttached {
                    device: device.into(),
                    path: pins.dir().to_owned(),
                });
            }
            Err(error) => return Err(link_error(&error)),
        };
        let other = || FilterError::OtherVersion {
            device: device.into(),
        };
        let tables = match Tables::from_pins(&pins) {
            Err(FilterError::Table { .. }) => return Err(other()),
            tables => tables?,
        };
        let settings = tables.settings.get(&0, 0).map_err(|_| other())?;
        let mode = Mode::from_raw(settings.mode).ok_or_else(other)?;
        if settings.abi != ABI_VERSION {
            return Err(other());
        }
        Ok(Self {
            device: device.into(),
            pins: Some(pins),
            tables: Mutex::new(tables),
            attachment: Attachment {
                mode,
                passed_over: Vec::new(),
            },
            link: Some(FdLink::from(link)),
        })
    }

    /// Devices for which something is pinned under `root`.
    pub fn devices(root: &Path) -> Result<Vec<String>, FilterError> {
        pins::devices(root)
    }

    /// Detaches the filter and removes its pins.
    pub fn detach(self) -> Result<(), FilterError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let _lock = pins.lock()?;
        pins.remove()
    }

    /// Removes whatever is pinned for a device, also what [`Filter::open`] refuses: another
    /// version's, or the rest of one that was killed while it attached.
    pub fn remove(root: &Path, device: &str) -> Result<(), FilterError> {
        let pins = Pins::new(root, device)?;
        if !pins.exist() {
            return Err(FilterError::NotAttached {
                device: device.into(),
                path: pins.dir().to_owned(),
            });
        }
        let _lock = pins.lock()?;
        pins.remove()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Where it is attached, and why not better.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What is known about it.
    pub fn status(&self) -> Result<Status, FilterError> {
        let settings = self.read_settings(&self.tables())?;
        let (program, alive) = match &self.link {
            None => (0, false),
            Some(link) => {
                let info = link.info().map_err(|error| link_error(&error))?;
                // Who may not ask hears of a missing device from the network itself.
                let alive = sys::link_device(info.id()).map_or(true, |device| device != 0);
                (info.program_id(), alive)
            }
        };
        let address = Ipv6Addr::from(settings.address);
        Ok(Status {
            device: self.device.clone(),
            mode: self.attachment.mode,
            owner: Owner::from_raw(settings.owner),
            port: u16::from_be_bytes(settings.port),
            address: (!address.is_unspecified()).then_some(address),
            clients: settings.flags & FLAG_CLOSED == 0,
            limits: Limits::from_settings(&settings),
            program,
            alive,
            net_threads: settings.net_threads,
        })
    }

    /// Replaces every setting; the tables stay as they are. `sources_max` only counts when
    /// attaching.
    pub fn configure(&self, config: &FilterConfig) -> Result<(), FilterError> {
        config.check()?;
        let wanted = config.settings(self.attachment.mode);
        self.change(|settings| {
            let (blocks, bytes_max) = (settings.flags & FLAG_BLOCKS, settings.xsk_bytes_max);
            *settings = wanted;
            settings.flags |= blocks;
            settings.xsk_bytes_max = bytes_max;
        })
    }

    /// Replaces the budgets.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), FilterError> {
        limits.check()?;
        self.change(|settings| limits.store(settings))
    }

    /// Opens or closes the door to everybody outside the allow list.
    pub fn set_clients(&self, admit: bool) -> Result<(), FilterError> {
        self.change(|settings| {
            settings.flags &= !FLAG_CLOSED;
            if !admit {
                settings.flags |= FLAG_CLOSED;
            }
        })
    }

    /// Tells how many AF_XDP sockets each queue has, one a thread of the endpoint, and which byte
    /// of the destination connection id, modulo that number, names the thread.
    pub fn set_net_threads(&self, threads: u32, steer_byte: u32) -> Result<(), FilterError> {
        if threads == 0 || threads > XSK_MAX {
            return Err(FilterError::Config(
                "the number of threads must be 1 to 1024",
            ));
        }
        self.change(|settings| {
            settings.net_threads = threads;
            settings.steer_byte = steer_byte;
        })
    }

    /// Sends the packets of a receive queue, as far as their connection ids name `thread` (0 when
    /// there is but one), to an AF_XDP socket that is bound to that queue. When the socket closes,
    /// the kernel forgets it and packets take the way through the network stack again. Frames longer
    /// than `frame_bytes_max`, the same for all sockets, take that way too: the sockets do not take
    /// them.
    pub fn register_xsk(
        &self,
        queue: u32,
        thread: u32,
        socket: BorrowedFd<'_>,
        frame_bytes_max: u32,
    ) -> Result<(), FilterError> {
        if !self.attachment.mode.is_xdp() {
            return Err(FilterError::Config(
                "a filter attached by tc cannot feed AF_XDP sockets; attach it in native or \
                 generic mode",
            ));
        }
        self.change(|settings| settings.xsk_bytes_max = frame_bytes_max)?;
        let mut tables = self.tables();
        let index = self.xsk_index(&tables, queue, thread)?;
        tables
            .xsks
            .set(index, socket.as_raw_fd(), 0)
            .map_err(|error| table_error("xsks", &error))
    }

    /// Takes the socket of a queue and thread out again.
    pub fn unregister_xsk(&self, queue: u32, thread: u32) -> Result<(), FilterError> {
        let mut tables = self.tables();
        let index = self.xsk_index(&tables, queue, thread)?;
        match tables.xsks.unset(index) {
            Err(error) if !is_missing(&error) => Err(table_error("xsks", &error)),
            _ => Ok(()),
        }
    }

    fn xsk_index(&self, tables: &Tables, queue: u32, thread: u32) -> Result<u32, FilterError> {
        let threads = self.read_settings(tables)?.net_threads.max(1);
        let index = u64::from(queue) * u64::from(threads) + u64::from(thread);
        if thread >= threads || index >= u64::from(XSK_MAX) {
            return Err(FilterError::Config(
                "no place for this queue and thread; queues times threads are at most 1024",
            ));
        }
        Ok(index as u32)
    }

    /// The counters, summed over the cores.
    pub fn counters(&self) -> Result<Counters, FilterError> {
        let tables = self.tables();
        let mut counts = [0; CAUSES];
        for (index, count) in counts.iter_mut().enumerate() {
            let values = tables
                .counters
                .get(&(index as u32), 0)
                .map_err(|error| table_error("counters", &error))?;
            *count = values.iter().sum();
        }
        Ok(Counters::new(counts))
    }

    /// Calls `read` with the samples of dropped packets. One process reads at a time, and a sample
    /// is read once.
    pub fn read_samples<T>(&self, read: impl FnOnce(Samples<'_>) -> T) -> Result<T, FilterError> {
        let lock = match &self.pins {
            Some(pins) => pins.lock_samples()?,
            None => None,
        };
        let tables = self.tables();
        let ring =
            RingBuf::try_from(&tables.samples).map_err(|error| table_error("samples", &error))?;
        Ok(read(Samples::new(ring, lock)))
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no holder panics")
    }

    /// Keeps other processes from changing the same lists meanwhile.
    pub(crate) fn lock(&self) -> Result<Option<OwnedFd>, FilterError> {
        self.pins.as_ref().map_or(Ok(None), Pins::lock)
    }

    fn read_settings(&self, tables: &Tables) -> Result<Settings, FilterError> {
        tables
            .settings
            .get(&0, 0)
            .map_err(|error| table_error("settings", &error))
    }

    pub(crate) fn change(&self, edit: impl FnOnce(&mut Settings)) -> Result<(), FilterError> {
        let _lock = self.lock()?;
        let mut tables = self.tables();
        let mut settings = self.read_settings(&tables)?;
        edit(&mut settings);
        tables
            .settings
            .set(0, settings, 0)
            .map_err(|error| table_error("settings", &error))
    }
}

/// Loads the object: makes its tables; the programs come when they are attached.
pub(crate) fn load_object(config: &FilterConfig) -> Result<Ebpf, FilterError> {
    // The log of a refusal is for those who change the programs: megabytes, and minutes.
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .map_max_entries("sources", config.sources_max)
        .load(OBJECT)
        .map_err(|error| {
            if is_rights(&error) {
                return FilterError::Rights {
                    action: "loading the filter",
                };
            }
            FilterError::Load(words(&error))
        })
}

fn link_error(error: &(dyn std::error::Error + 'static)) -> FilterError {
    FilterError::Table {
        table: LINK,
        reason: words(error),
    }
}

pub(crate) fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || crate::error::os_error(error) == Some(libc::ENOENT)
}
