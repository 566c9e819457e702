//! The way to a network thread: its queues and its waker.

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::wake::Waker;
use crate::{SendError, io::Received, send::Command};

/// Datagrams from other threads that may wait for one thread. They are few: only those that
/// receive offload joined to packets of another connection between the same two addresses.
const FORWARDED_MAX: usize = 1024;

/// The sending ends, for handles and for the other threads.
#[derive(Clone)]
pub(super) struct Link {
    commands: Sender<Command>,
    datagrams: Sender<Received>,
    pub(super) waker: Waker,
}

/// The receiving ends, for the thread itself.
pub(super) struct Inbox {
    pub(super) commands: Receiver<Command>,
    pub(super) datagrams: Receiver<Received>,
    pub(super) waker: Waker,
}

/// A link with room for `commands_max` commands.
pub(super) fn link(commands_max: usize, waker: Waker) -> (Link, Inbox) {
    let (commands, commands_out) = crossbeam_channel::bounded(commands_max);
    let (datagrams, datagrams_out) = crossbeam_channel::bounded(FORWARDED_MAX);
    let link = Link {
        commands,
        datagrams,
        waker: waker.clone(),
    };
    let inbox = Inbox {
        commands: commands_out,
        datagrams: datagrams_out,
        waker,
    };
    (link, inbox)
}

impl Link {
    /// Queues a command and wakes the thread.
    pub(super) fn command(&self, command: Command) -> Result<(), SendError> {
        match self.commands.try_send(command) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(SendError::Full),
            Err(TrySendError::Disconnected(_)) => Err(SendError::Closed),
        }
    }

    /// Queues a command and wakes the thread; gives it back when the queue is full. A thread that
    /// has ended needs no more commands.
    pub(super) fn try_command(&self, command: Command) -> Result<(), Command> {
        match self.commands.try_send(command) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(command)) => Err(command),
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Queues a command that must not be lost; waits while the queue is full. Not for network
    /// threads, which might wait for each other.
    pub(super) fn command_surely(&self, mut command: Command) {
        while let Err(TrySendError::Full(back)) = self.commands.try_send(command) {
            command = back;
            self.waker.wake();
            std::thread::yield_now();
        }
        self.waker.wake();
    }

    /// Passes a datagram on; `false` when the thread has no room for it.
    pub(super) fn forward(&self, received: Received) -> bool {
        let taken = self.datagrams.try_send(received).is_ok();
        self.waker.wake();
        taken
    }
}
