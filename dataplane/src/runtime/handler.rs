//! Where events go: to a channel for another thread, or to a handler that runs in the network
//! thread itself.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};
use falconet_probes::Queue;

use super::handle::StoqHandle;
use crate::Event;

/// Consumes events within the network thread, for the lowest latency: no queue, no wake-up of
/// another thread, and what the handler sends leaves in the same turn.
///
/// It must not block and should be quick: while it runs, the thread neither receives nor sends. With
/// several network threads it is called by all of them, at the same time for different connections;
/// the events of one connection come in order. Dropping an event's lease late slows its sender down,
/// as with the channel.
///
/// Closures `Fn(&StoqHandle, Event)` are handlers.
pub trait Handler: Send + Sync + 'static {
    /// Something happened. `stoq` is the endpoint that it happened to.
    fn on_event(&self, stoq: &StoqHandle, event: Event);
}

impl<F: Fn(&StoqHandle, Event) + Send + Sync + 'static> Handler for F {
    fn on_event(&self, stoq: &StoqHandle, event: Event) {
        self(stoq, event);
    }
}

/// Where one network thread's events go.
pub(super) enum Sink {
    /// To whoever holds the receiver.
    Channel {
        events: Sender<Event>,
        notify: Option<Arc<dyn Fn() + Send + Sync>>,
        /// The event that found the channel full.
        held: Option<Event>,
    },
    /// To a handler, at once.
    Handler {
        handler: Arc<dyn Handler>,
        stoq: StoqHandle,
    },
}

/// What delivering brought.
pub(super) enum Delivered {
    /// All is delivered; whether a handler may have queued answers.
    All { answers: bool },
    /// The channel is full.
    Full,
    /// Nobody listens any more.
    Nobody,
}

impl Sink {
    /// Delivers events from `next` until there is none or no room.
    pub(super) fn deliver(&mut self, mut next: impl FnMut() -> Option<Event>) -> Delivered {
        match self {
            Sink::Handler { handler, stoq } => {
                let mut answers = false;
                while let Some(event) = next() {
                    handler.on_event(stoq, event);
                    answers = true;
                }
                Delivered::All { answers }
            }
            Sink::Channel {
                events,
                notify,
                held,
            } => {
                let mut any = false;
                let mut outcome = Delivered::All { answers: false };
                while let Some(event) = held.take().or_else(&mut next) {
                    match events.try_send(event) {
                        Ok(()) => any = true,
                        Err(TrySendError::Full(event)) => {
                            let limit = events.capacity().unwrap_or(0) as u64;
                            falconet_probes::queue_full(Queue::Events as u64, limit);
                            *held = Some(event);
                            outcome = Delivered::Full;
                            break;
                        }
                        Err(TrySendError::Disconnected(_)) => outcome = Delivered::Nobody,
                    }
                }
                if any && let Some(notify) = notify {
                    notify();
                }
                outcome
            }
        }
    }

    /// Whether an event waits for room in the channel.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Sink::Channel { held: Some(_), .. })
    }
}
