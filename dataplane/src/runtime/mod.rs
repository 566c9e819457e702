//! The running endpoint: binds, starts the network threads, hands out handles.

mod datagrams;
mod handle;
mod handler;
mod link;
mod thread;
mod wake;

use std::{
    fmt,
    net::SocketAddrV6,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
};

use crossbeam_channel::Receiver;

use self::{
    handle::Shared,
    handler::Sink,
    link::link,
    thread::{NetThread, Parts},
    wake::Waker,
};
pub use self::{handle::StoqHandle, handler::Handler};
use crate::{
    AfterSetup, BindError, Event, EventBudget, FLUSH_AFTER_MAX, IoOptions, Stats, StoqConfig,
    endpoint::Endpoint,
    io,
    send::{Command, Registry},
    stats::Count,
    steer::THREADS_MAX,
};

/// Lifecycle events that may wait in the channel beside the frames.
const LIFECYCLE_EVENTS_MAX: usize = 4096;

/// A bound endpoint with its network threads. Dropping it closes all connections and stops the
/// threads.
pub struct Stoq {
    handle: StoqHandle,
    local_addr: SocketAddrV6,
    backend: String,
    stats: Arc<Stats>,
    threads: Vec<JoinHandle<()>>,
}

impl Stoq {
    /// Binds and starts. Events come from the receiver, those of one connection in order; when it is
    /// dropped the endpoint stops.
    pub fn bind(config: StoqConfig) -> Result<(Stoq, Receiver<Event>), BindError> {
        let room = config.limits.event_frames_max + LIFECYCLE_EVENTS_MAX;
        let (events, events_out) = crossbeam_channel::bounded(room);
        let notify = config.notify.clone();
        let stoq = Self::start(config, |_| Sink::Channel {
            events: events.clone(),
            notify: notify.clone(),
            held: None,
        })?;
        Ok((stoq, events_out))
    }

    /// Binds and starts; `handler` consumes the events in the network threads themselves. Runs
    /// until it is shut down.
    pub fn bind_with_handler(config: StoqConfig, handler: impl Handler) -> Result<Stoq, BindError> {
        let handler: Arc<dyn Handler> = Arc::new(handler);
        Self::start(config, |stoq| Sink::Handler {
            handler: handler.clone(),
            stoq: stoq.clone(),
        })
    }

    fn start(config: StoqConfig, sink: impl Fn(&StoqHandle) -> Sink) -> Result<Stoq, BindError> {
        let (addr, threads) = (config.bind, config.io.threads);
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(BindError::Limit {
                name: "io.threads",
                value: threads as u64,
                problem: "1 to 64 network threads are possible",
            });
        }
        let flush_after = config.io.flush_after.unwrap_or_default();
        if flush_after > FLUSH_AFTER_MAX {
            return Err(BindError::Limit {
                name: "io.flush_after",
                value: u64::try_from(flush_after.as_millis()).unwrap_or(u64::MAX),
                problem: "small frames may wait up to 100 ms for others",
            });
        }
        let stats = Arc::new(Stats::default());
        let budget = EventBudget::new(
            config.limits.event_frames_max,
            config.limits.event_bytes_max,
        );
        let registry = Arc::new(Registry::default());
        let endpoints = Endpoint::group(&config, threads, &stats, &budget, &registry, None)?;
        let (mut links, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let waker = Waker::new().map_err(|source| BindError::System {
                call: "eventfd",
                addr,
                source,
            })?;
            let (link, inbox) = link(config.limits.commands_max, waker);
            links.push(link);
            inboxes.push(inbox);
        }
        let wakers: Vec<Waker> = links.iter().map(|link| link.waker.clone()).collect();
        budget.on_room(Box::new(move || wakers.iter().for_each(Waker::wake)));
        let sockets = io::bind_group(addr, &config.io)?;
        let local_addr = sockets[0].addr;
        let handle = StoqHandle(Arc::new(Shared {
            links: links.clone(),
            registry,
            stats: stats.clone(),
            budget,
            trusted: config.trusted.clone(),
            limits: config.limits.clone(),
            next_target: AtomicU64::new(threads as u64),
        }));
        // From here on dropping it stops the threads that run already.
        let mut stoq = Stoq {
            handle,
            local_addr,
            backend: String::new(),
            stats,
            threads: Vec::new(),
        };
        let mut options = config.io;
        options.pool_bytes_max /= threads;
        let parts = endpoints.into_iter().zip(sockets).zip(inboxes);
        for (index, ((endpoint, socket), inbox)) in parts.enumerate() {
            let parts = Parts {
                index,
                endpoint,
                inbox,
                links: links.clone(),
                sink: sink(&stoq.handle),
                stats: stoq.stats.clone(),
            };
            let after_setup = config.after_setup.clone();
            let described = stoq.spawn(parts, socket, options, after_setup)?;
            if index == 0 {
                stoq.backend = described;
            } else if stoq.backend != described {
                tracing::warn!(index, described, "a network thread uses another backend");
            }
        }
        stoq.stats.net_threads.add(threads as u64);
        if threads > 1 {
            stoq.backend += &format!(", {threads} threads");
        }
        tracing::info!(%local_addr, backend = stoq.backend, "STOQ is listening");
        Ok(stoq)
    }

    /// Starts one network thread; returns the backend that it uses.
    fn spawn(
        &mut self,
        parts: Parts,
        socket: io::Socket,
        options: IoOptions,
        after_setup: Option<AfterSetup>,
    ) -> Result<String, BindError> {
        let (opened, opened_out) = crossbeam_channel::bounded(1);
        let addr = self.local_addr;
        let thread = std::thread::Builder::new()
            .name(format!("stoq-net-{}", parts.index))
            .spawn(move || {
                let io = io::open(socket, &options, parts.stats.clone()).and_then(|io| {
                    let done = after_setup.map_or(Ok(()), |after_setup| after_setup());
                    done.map(|()| io).map_err(|source| BindError::System {
                        call: "what is to be done after set-up (dropping privileges)",
                        addr,
                        source,
                    })
                });
                let io = match io {
                    Ok(io) => io,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                tracing::debug!(index = parts.index, addr = %io.local_addr(), "network thread");
                let _ = opened.send(Ok(io.describe()));
                NetThread::new(parts, io, options.spin).run();
            })
            .map_err(|source| BindError::System {
                call: "clone (starting a network thread)",
                addr,
                source,
            })?;
        self.threads.push(thread);
        opened_out
            .recv()
            .expect("a network thread reports before it does anything else")
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

    /// Closes all connections, tells the peers, and waits for the threads.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        for (link, _) in self.handle.0.links.iter().zip(&self.threads) {
            link.command_surely(Command::Shutdown);
        }
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
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
