//! The four rings that an AF_XDP socket shares with the kernel (`Documentation/networking/af_xdp`):
//! fill and transmit, where we produce, receive and completion, where we consume.
//!
//! Indices are free-running `u32` that wrap; an entry is `index & mask`. The producer writes
//! entries and then publishes its index with release; the consumer reads that index with acquire,
//! then the entries, and then publishes its own index with release. Both sides keep the other's
//! index cached and look again only when the cached one is used up, so that the cache line
//! travels once for a batch.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
};

/// Memory that is unmapped when dropped.
pub(super) struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Private zeroed memory, backed at once.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// A ring of the AF_XDP socket `fd`; `offset` is one of the `XDP_*PGOFF*` constants.
    pub(super) fn ring(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED, fd.as_raw_fd(), offset)
    }

    fn map(len: usize, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice affects no other memory.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_POPULATE,
                fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("a mapping is never at address zero");
        Ok(Mapping { at, len })
    }

    /// Where `len` bytes at `offset` are; panics when they are not inside.
    pub(super) fn range(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len).expect("no wrap in memory");
        assert!(end <= self.len, "beyond the mapping");
        // SAFETY: `offset <= self.len`, so the result is inside the mapping or one past its end.
        unsafe { self.at.add(offset) }
    }

    /// Length, bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `map` and nothing points into it any more: rings hold
        // it by `Rc`, and frames are reached only through its owner.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// Where the parts of a ring are in its mapping, bytes. The kernel says (`XDP_MMAP_OFFSETS`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// The memory of one ring.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the memory mapped.
    _memory: Rc<Mapping>,
}

impl<T: Copy> Ring<T> {
    fn new(memory: Rc<Mapping>, layout: Layout, size: u32) -> Self {
        assert!(size.is_power_of_two(), "ring sizes are powers of two");
        let word = |offset| {
            let at = memory.range(offset, size_of::<AtomicU32>()).cast();
            assert!(at.is_aligned());
            at
        };
        let entries = memory
            .range(layout.entries, size as usize * size_of::<T>())
            .cast::<T>();
        assert!(entries.is_aligned());
        Ring {
            producer: word(layout.producer),
            consumer: word(layout.consumer),
            flags: word(layout.flags),
            entries,
            size,
            _memory: memory,
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` found the word inside the mapping, which lives as long as `self`; the
        // kernel accesses it atomically, as we do.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// Entry `index`; the caller must own it according to the indices.
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, and `new` found room for `size` entries.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// Our end of a ring into which we write.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes; ahead of the published index until [`Producer::publish`].
    next: u32,
    /// First index that the consumer has not made free, as last seen.
    limit: u32,
}

impl<T: Copy> Producer<T> {
    /// Takes the producing end of the ring in `memory`, of which there must be only one.
    pub(super) fn new(memory: Rc<Mapping>, layout: Layout, size: u32) -> Self {
        let ring = Ring::new(memory, layout, size);
        let next = ring.producer().load(Ordering::Relaxed);
        let mut producer = Producer {
            ring,
            next,
            limit: next,
        };
        producer.look();
        producer
    }

    fn look(&mut self) {
        let consumed = self.ring.consumer().load(Ordering::Acquire);
        let waiting = self.next.wrapping_sub(consumed);
        assert!(
            waiting <= self.ring.size,
            "the consumer passed the producer"
        );
        self.limit = consumed.wrapping_add(self.ring.size);
    }

    /// Entries that can be pushed now.
    pub(super) fn room(&mut self) -> u32 {
        if self.limit == self.next {
            self.look();
        }
        self.limit.wrapping_sub(self.next)
    }

    /// Writes one entry, for which there must be room. The consumer sees it after `publish`.
    pub(super) fn push(&mut self, entry: T) {
        assert!(self.room() > 0, "no room in the ring");
        // SAFETY: the entry is ours: the consumer has released it, and the index that would hand
        // it over is not published yet.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Hands everything pushed to the consumer.
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Published entries that the consumer has not taken.
    pub(super) fn pending(&self) -> u32 {
        let published = self.ring.producer().load(Ordering::Relaxed);
        published.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Whether the kernel sleeps and wants a system call (`XDP_RING_NEED_WAKEUP`).
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a ring from which we read.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to read; ahead of the published index until [`Consumer::release`].
    next: u32,
    /// First index that the producer has not filled, as last seen.
    limit: u32,
}

impl<T: Copy> Consumer<T> {
    /// Takes the consuming end of the ring in `memory`, of which there must be only one.
    pub(super) fn new(memory: Rc<Mapping>, layout: Layout, size: u32) -> Self {
        let ring = Ring::new(memory, layout, size);
        let next = ring.consumer().load(Ordering::Relaxed);
        Consumer {
            ring,
            next,
            limit: next,
        }
    }

    /// The next entry; its place is given back by `release`.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.limit {
            self.limit = self.ring.producer().load(Ordering::Acquire);
            let available = self.limit.wrapping_sub(self.next);
            assert!(
                available <= self.ring.size,
                "the producer passed the consumer"
            );
            if available == 0 {
                return None;
            }
        }
        // SAFETY: the producer has published this entry and does not touch it before our index
        // passes it.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of everything popped back to the producer.
    pub(super) fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };

    /// Both ends of one ring whose indices begin at `start`.
    fn ring(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        let memory = Rc::new(Mapping::anonymous(4096 + size as usize * 8).unwrap());
        let view = Ring::<u64>::new(memory.clone(), LAYOUT, size);
        view.producer().store(start, Ordering::Relaxed);
        view.consumer().store(start, Ordering::Relaxed);
        (
            Producer::new(memory.clone(), LAYOUT, size),
            Consumer::new(memory, LAYOUT, size),
        )
    }

    proptest! {
        /// Against a queue, with indices that pass 2^32 on the way.
        #[test]
        fn a_ring_is_a_bounded_queue(
            size_log in 0u32..8,
            before_wrap in 0u32..600,
            steps in proptest::collection::vec((any::<bool>(), 0u32..300, any::<bool>()), 1..200),
        ) {
            let size = 1 << size_log;
            let (mut producer, mut consumer) = ring(size, 0u32.wrapping_sub(before_wrap));
            // Pushed and not published; published and not popped; popped and not released.
            let (mut pushed, mut published, mut held) = (VecDeque::new(), VecDeque::new(), 0);
            let mut value = 0u64;
            for (is_push, count, hand_over) in steps {
                if is_push {
                    for _ in 0..count {
                        let used = (pushed.len() + published.len() + held) as u32;
                        let room = producer.room();
                        // The cached view may be old, never optimistic, and never says "none"
                        // while there is some.
                        prop_assert!(room <= size - used);
                        prop_assert_eq!(room == 0, used == size);
                        if room == 0 {
                            break;
                        }
                        producer.push(value);
                        pushed.push_back(value);
                        value += 1;
                    }
                    if hand_over {
                        producer.publish();
                        published.append(&mut pushed);
                        prop_assert_eq!(producer.pending() as usize, published.len() + held);
                    }
                } else {
                    for _ in 0..count {
                        let expected = published.pop_front();
                        prop_assert_eq!(consumer.pop(), expected);
                        if expected.is_none() {
                            break;
                        }
                        held += 1;
                    }
                    if hand_over {
                        consumer.release();
                        held = 0;
                    }
                }
            }
        }
    }

    #[test]
    fn ends_on_two_threads_agree() {
        struct Send<T>(T);
        // SAFETY: each end moves to one thread; they share only atomics and entries that the
        // indices hand over. The `Rc` is counted down after both threads are joined.
        unsafe impl<T> std::marker::Send for Send<T> {}
        const COUNT: u64 = 200_000;
        let (producer, consumer) = ring(64, u32::MAX - 1000);
        let (mut producer, consumer) = (Send(producer), Send(consumer));
        let reader = std::thread::spawn(move || {
            let mut consumer = consumer;
            let mut expected = 0;
            while expected < COUNT {
                match consumer.0.pop() {
                    Some(value) => {
                        assert_eq!(value, expected);
                        expected += 1;
                        consumer.0.release();
                    }
                    None => std::thread::yield_now(),
                }
            }
            consumer
        });
        let mut value = 0;
        while value < COUNT {
            if producer.0.room() == 0 {
                std::thread::yield_now();
                continue;
            }
            producer.0.push(value);
            producer.0.publish();
            value += 1;
        }
        drop(reader.join().unwrap());
    }

    #[test]
    #[should_panic(expected = "no room")]
    fn a_full_ring_takes_nothing() {
        let (mut producer, _) = ring(2, 0);
        for i in 0..3 {
            producer.push(i);
        }
    }

    #[test]
    #[should_panic(expected = "beyond the mapping")]
    fn offsets_beyond_the_mapping_are_refused() {
        let memory = Rc::new(Mapping::anonymous(4096).unwrap());
        let _ = Ring::<u64>::new(memory, LAYOUT, 4096);
    }
}
