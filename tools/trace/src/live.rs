//! Attaching: one BPF program, attached to every probe of a process with the probe's number as
//! cookie. Detaches when dropped.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use falconet_probes::{PROBES, PROVIDER};
use libbpf_rs::{Link, MapCore as _, MapFlags, Object, ObjectBuilder, RingBufferBuilder, UsdtOpts};

use crate::event::Event;

/// Compiled from `bpf/trace.bpf.c` by `build-bpf`; a test tells when it is out of date.
const PROGRAM: &[u8] = include_bytes!("bpf/trace.bpf.o");

/// Longest wait for the ring, so that the end of the time is noticed.
const POLL: Duration = Duration::from_millis(100);

/// A process that is being watched.
pub struct Live {
    // Detached before the programs and maps that they use.
    _links: Vec<Link>,
    object: Object,
}

impl Live {
    /// Attaches to all probes of `pid`.
    pub fn attach(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/exe");
        if std::fs::metadata(&path).is_err() {
            bail!("there is no process {pid}, or it belongs to somebody else; run as root");
        }
        libbpf_rs::set_print(None);
        let object = ObjectBuilder::default()
            .open_memory(PROGRAM)
            .and_then(|open| open.load())
            .context("the kernel does not load the program; run as root, on Linux 5.15 or later")?;
        let program = object
            .progs_mut()
            .find(|program| program.name() == "on_probe")
            .context("no program in the object")?;
        let pid = i32::try_from(pid).context("no process id")?;
        let mut links = Vec::with_capacity(PROBES.len());
        for (cookie, probe) in (0..).zip(PROBES) {
            let options = UsdtOpts {
                cookie,
                ..UsdtOpts::default()
            };
            let link = program
                .attach_usdt_with_opts(pid, &path, PROVIDER, probe.name, options)
                .with_context(|| {
                    format!(
                        "probe {} cannot be attached; process {pid} must be a validator of the \
                         same version as this tool",
                        probe.name
                    )
                })?;
            links.push(link);
        }
        Ok(Self {
            _links: links,
            object,
        })
    }

    /// Hands events to `sink` until the time has come or `sink` wants no more.
    pub fn run(&self, until: Instant, mut sink: impl FnMut(Event) -> bool) -> anyhow::Result<()> {
        let events = self.map("events")?;
        let mut more = true;
        let go_on = std::cell::Cell::new(true);
        let mut builder = RingBufferBuilder::new();
        builder.add(&events, |bytes| {
            if let Some(event) = Event::parse(bytes) {
                more = more && sink(event);
                go_on.set(more);
            }
            0
        })?;
        let ring = builder.build()?;
        while go_on.get() && Instant::now() < until {
            match ring.poll(POLL) {
                Ok(()) => {}
                // Ctrl-C: the caller's flag says so.
                Err(error) if error.kind() == libbpf_rs::ErrorKind::Interrupted => return Ok(()),
                Err(error) => return Err(error).context("reading events"),
            }
        }
        Ok(())
    }

    /// Events that found the ring full: what was reported lacks them.
    pub fn lost(&self) -> anyhow::Result<u64> {
        let value = self
            .map("lost")?
            .lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?;
        let bytes = value.context("the counter of lost events is missing")?;
        let bytes: [u8; 8] = bytes.try_into().ok().context("a counter has eight bytes")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn map(&self, name: &str) -> anyhow::Result<libbpf_rs::Map<'_>> {
        let mut maps = self.object.maps();
        maps.find(|map| map.name() == name)
            .with_context(|| format!("no map {name} in the object"))
    }
}

#[cfg(test)]
mod tests {
    /// FNV-1a, 64 bits: enough to notice an edit.
    fn fingerprint(bytes: &[u8]) -> String {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    #[test]
    fn the_compiled_program_is_of_this_source() {
        let source = fingerprint(include_bytes!("bpf/trace.bpf.c"));
        let compiled = include_str!("bpf/trace.bpf.source").trim();
        assert_eq!(
            source, compiled,
            "run tools/trace/build-bpf, and write {source} to src/bpf/trace.bpf.source"
        );
    }
}
