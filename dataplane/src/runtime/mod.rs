//! The running endpoint: binds, starts the network thread, hands out handles.

mod datagrams;
mod handle;
mod thread;
mod wake;

use std::{
    fmt,
    net::SocketAddrV6,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
};

use crossbeam_channel::Receiver;

pub use self::handle::StoqHandle;
use self::{
    handle::Shared,
    thread::{NetThread, Parts},
    wake::Waker,
};
use crate::{
    BindError, Event, EventBudget, Stats, StoqConfig,
    endpoint::Endpoint,
    io,
    send::{Command, Registry},
};

/// Lifecycle events that may wait in the channel beside the frames.
const LIFECYCLE_EVENTS_MAX: usize = 4096;

/// A bound endpoint with its network thread. Dropping it closes all connections and stops the
/// thread.
pub struct Stoq {
    handle: StoqHandle,
    local_addr: SocketAddrV6,
    backend: String,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

impl Stoq {
    /// Binds and starts. Events come from the receiver, in order; when it is dropped the endpoint
    /// stops.
    pub fn bind(mut config: StoqConfig) -> Result<(Stoq, Receiver<Event>), BindError> {
        let addr = config.bind;
        let stats = Arc::new(Stats::default());
        let budget = EventBudget::new(
            config.limits.event_frames_max,
            config.limits.event_bytes_max,
        );
        let registry = Arc::new(Registry::default());
        let endpoint = Endpoint::new(
            &config,
            stats.clone(),
            budget.clone(),
            registry.clone(),
            None,
        )?;
        let waker = Waker::new().map_err(|source| BindError::System {
            call: "eventfd",
            addr,
            source,
        })?;
        let on_room = waker.clone();
        budget.on_room(Box::new(move || on_room.wake()));
        let (commands, commands_out) = crossbeam_channel::bounded(config.limits.commands_max);
        let (events, events_out) =
            crossbeam_channel::bounded(config.limits.event_frames_max + LIFECYCLE_EVENTS_MAX);
        let handle = StoqHandle(Arc::new(Shared {
            commands,
            waker: waker.clone(),
            registry,
            stats: stats.clone(),
            budget,
            trusted: config.trusted.clone(),
            limits: config.limits.clone(),
            next_target: AtomicU64::new(1),
        }));
        let (bound, bound_out) = crossbeam_channel::bounded(1);
        let (options, notify) = (config.io, config.notify.take());
        let net_stats = stats.clone();
        let thread = std::thread::Builder::new()
            .name("stoq-net".into())
            .spawn(move || {
                let io = match io::open(addr, &options, net_stats.clone()) {
                    Ok(io) => io,
                    Err(error) => {
                        let _ = bound.send(Err(error));
                        return;
                    }
                };
                let _ = bound.send(Ok((io.local_addr(), io.describe())));
                let parts = Parts {
                    endpoint,
                    io,
                    commands: commands_out,
                    events,
                    waker,
                    stats: net_stats,
                    notify,
                };
                NetThread::new(parts, options.spin).run();
            })
            .map_err(|source| BindError::System {
                call: "clone (starting the network thread)",
                addr,
                source,
            })?;
        let (local_addr, backend) = bound_out
            .recv()
            .expect("the network thread reports before it does anything else")?;
        tracing::info!(%local_addr, backend, "STOQ is listening");
        let stoq = Stoq {
            handle,
            local_addr,
            backend,
            stats,
            thread: Some(thread),
        };
        Ok((stoq, events_out))
    }

    /// A handle for other threads.
    pub fn handle(&self) -> StoqHandle {
        self.handle.clone()
    }

    /// The address bound, with the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddrV6 {
        self.local_addr
    }

    /// The I/O backend in use, for people.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The live counters, for an exporter.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Closes all connections, tells the peers, and waits for the thread.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A full command queue drains; the thread may also have ended by itself.
        let mut command = Command::Shutdown;
        while let Err(crossbeam_channel::TrySendError::Full(back)) =
            self.handle.0.commands.try_send(command)
        {
            command = back;
            self.handle.0.waker.wake();
            std::thread::yield_now();
        }
        self.handle.0.waker.wake();
        if let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Stoq {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Stoq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stoq")
            .field("local_addr", &self.local_addr)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
