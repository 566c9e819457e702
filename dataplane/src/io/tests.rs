//! The backends against the real kernel: what they carry, what they allocate, how they give way.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    os::fd::AsFd,
    sync::atomic::AtomicU64,
};

use super::*;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system allocator; the counter is a plain
// thread-local cell without destructor, so that touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller guarantees.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller guarantees.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn options(backend: Choice) -> IoOptions {
    IoOptions {
        backend,
        spin: Spin::Never,
        ..IoOptions::default()
    }
}

/// A socket on a port of its own.
fn bind(options: &IoOptions) -> Socket {
    let mut group = bind_group("[::1]:0".parse().unwrap(), options).unwrap();
    group.pop().expect("one thread")
}

/// A backend on a port of its own, or `None` with the reason printed.
fn try_open(backend: Choice) -> Option<(Box<dyn Backend>, Arc<Stats>)> {
    let stats = Arc::new(Stats::default());
    match open(bind(&options(backend)), &options(backend), stats.clone()) {
        Ok(io) => Some((io, stats)),
        Err(BindError::Backend { backend, reason }) => {
            println!("skipped for {backend}: {reason}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn each(test: impl Fn(&mut dyn Backend, &mut dyn Backend, &Stats)) {
    for backend in [Choice::Plain, Choice::Mmsg, Choice::IoUring] {
        let (Some((mut a, _)), Some((mut b, stats))) = (try_open(backend), try_open(backend))
        else {
            continue;
        };
        test(&mut *a, &mut *b, &stats);
    }
}

/// Sends `datagrams` of `size` bytes, in one transmission where the backend can.
fn send(from: &mut dyn Backend, to: SocketAddrV6, datagrams: usize, size: usize, fill: u8) {
    let per_transmit = datagrams.min(from.segments_max());
    let mut left = datagrams;
    while left > 0 {
        let now = left.min(per_transmit);
        let buf = from.transmit_buffer().expect("the kernel keeps up");
        buf.resize(now * size, fill);
        from.transmit(&Transmit {
            destination: SocketAddr::V6(to),
            ecn: Some(EcnCodepoint::Ect0),
            size: now * size,
            segment_size: (now > 1).then_some(size),
            src_ip: None,
        });
        from.flush().unwrap();
        left -= now;
    }
}

/// Receives until `datagrams` came; returns how many bytes they had.
fn receive(at: &mut dyn Backend, from: SocketAddrV6, datagrams: usize, fill: u8) -> usize {
    let waker = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let (mut count, mut bytes) = (0, 0);
    while count < datagrams {
        let any = at
            .receive(&mut |received| {
                assert_eq!(received.from, from);
                assert_eq!(received.ecn, Some(EcnCodepoint::Ect0));
                assert!(received.data.iter().all(|byte| *byte == fill));
                count += 1;
                bytes += received.data.len();
            })
            .unwrap();
        if any == Taken::Nothing && count < datagrams {
            at.wait(waker.as_fd(), None).unwrap();
        }
    }
    bytes
}

#[test]
fn datagrams_arrive_whole_and_separate() {
    each(|a, b, _| {
        for (datagrams, size) in [(1, 1), (1, 1200), (7, 100), (40, 1452), (1, 60_000)] {
            let fill = (datagrams * 3 + size) as u8;
            let (from, to) = (a.local_addr(), b.local_addr());
            send(a, to, datagrams, size, fill);
            assert_eq!(receive(b, from, datagrams, fill), datagrams * size);
            // And back.
            send(b, from, datagrams, size, fill);
            assert_eq!(receive(a, to, datagrams, fill), datagrams * size);
        }
    });
}

#[test]
fn steady_state_allocates_nothing() {
    each(|a, b, stats| {
        let to = b.local_addr();
        let waker = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut round = |datagrams: usize| {
            send(a, to, datagrams, 1200, 1);
            let mut count = 0;
            while count < datagrams {
                let any = b.receive(&mut |_| count += 1).unwrap();
                if any == Taken::Nothing && count < datagrams {
                    b.wait(waker.as_fd(), None).unwrap();
                }
            }
        };
        for i in 0..2000 {
            round(1 + i % 40);
        }
        let slabs = stats.snapshot().pool_buffers_allocated;
        let before = ALLOCATIONS.with(Cell::get);
        for i in 0..2000 {
            round(1 + i % 40);
        }
        assert_eq!(ALLOCATIONS.with(Cell::get), before, "allocations");
        assert_eq!(stats.snapshot().pool_buffers_allocated, slabs);
    });
}

#[test]
fn a_pinned_pool_degrades_to_copies() {
    for backend in [Choice::Mmsg, Choice::IoUring] {
        let Some((mut a, _)) = try_open(backend) else {
            continue;
        };
        let stats = Arc::new(Stats::default());
        let mut options = options(backend);
        options.pool_bytes_max = 17 * crate::pool::SLAB_BYTES;
        let mut b = open(bind(&options), &options, stats.clone()).unwrap();
        let to = b.local_addr();
        let waker = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut pinned: Vec<BytesMut> = Vec::new();
        for i in 0..400u32 {
            send(&mut *a, to, 1, 50_000, i as u8);
            while pinned.len() <= i as usize {
                let any = b
                    .receive(&mut |received| pinned.push(received.data))
                    .unwrap();
                if any == Taken::Nothing && pinned.len() <= i as usize {
                    b.wait(waker.as_fd(), None).unwrap();
                }
            }
        }
        for (i, data) in pinned.iter().enumerate() {
            assert!(data.len() == 50_000 && data.iter().all(|byte| *byte == i as u8));
        }
        let snapshot = stats.snapshot();
        assert!(snapshot.pool_exhausted > 0, "{snapshot:?}");
        assert!(snapshot.pool_buffers_allocated <= 17);
    }
}

#[test]
fn too_long_datagrams_are_counted_and_forgotten() {
    each(|a, b, _| {
        let (from, to) = (a.local_addr(), b.local_addr());
        // Longer than any UDP datagram may be.
        let buf = a.transmit_buffer().unwrap();
        buf.resize(65_530, 0);
        a.transmit(&Transmit {
            destination: SocketAddr::V6(to),
            ecn: None,
            size: 65_530,
            segment_size: None,
            src_ip: None,
        });
        a.flush().unwrap();
        send(a, to, 1, 10, 9);
        assert_eq!(receive(b, from, 1, 9), 10);
    });
}

/// A seccomp filter as containers have it: io_uring is refused, for this thread only.
fn forbid_io_uring(errno: i32) -> bool {
    const LOAD_SYSCALL: libc::sock_filter = libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let is_setup = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_io_uring_setup as u32,
    };
    let answer = |k| libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut filter = [
        LOAD_SYSCALL,
        is_setup,
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: both calls take integers and a pointer to a valid program that outlives them.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    }
}

#[test]
fn a_thread_that_never_sleeps_reads_its_socket_itself() {
    let mut options = options(Choice::Auto);
    options.spin = Spin::Always;
    let io = open(bind(&options), &options, Arc::default()).unwrap();
    assert!(io.describe().starts_with("recvmmsg"), "{}", io.describe());
    options.backend = Choice::IoUring;
    if let Ok(io) = open(bind(&options), &options, Arc::default()) {
        assert!(io.describe().starts_with("io_uring"), "chosen is chosen");
    }
}

#[test]
fn a_refused_io_uring_gives_way_with_a_reason() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        // The filter stays with its thread.
        std::thread::spawn(move || refuse_and_open(errno))
            .join()
            .unwrap();
    }
}

fn refuse_and_open(errno: i32) {
    if !forbid_io_uring(errno) {
        println!("skipped: this process may not install a seccomp filter");
        return;
    }
    let (auto, demanded) = (options(Choice::Auto), options(Choice::IoUring));
    let stats = Arc::new(Stats::default());
    let auto = open(bind(&auto), &auto, stats.clone()).expect("the next backend");
    assert!(auto.describe().contains("recvmmsg"), "{}", auto.describe());
    match open(bind(&demanded), &demanded, stats).map(|_| ()) {
        Err(error @ BindError::Backend { .. }) => {
            let text = error.to_string();
            let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            let is_permitted = sysctl.map_or(true, |text| text.trim() == "0");
            let expected = if is_permitted || errno == libc::ENOSYS {
                "seccomp filter"
            } else {
                "sysctl"
            };
            assert!(text.contains(expected), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn zero_copy_is_given_up_where_the_device_copies() {
    let Some((mut a, stats)) = try_open(Choice::IoUring) else {
        return;
    };
    let (mut b, _) = try_open(Choice::IoUring).expect("as the first");
    if a.segments_max() == 1 {
        println!("skipped: no segmentation offload, so no large transmission");
        return;
    }
    let (from, to) = (a.local_addr(), b.local_addr());
    for round in 0..40 {
        send(&mut *a, to, 20, 1400, round);
        assert_eq!(receive(&mut *b, from, 20, round), 20 * 1400);
    }
    a.flush().unwrap();
    let snapshot = stats.snapshot();
    let (copied, not) = (snapshot.sends_zero_copy_copied, snapshot.sends_zero_copy);
    if copied + not == 0 {
        println!("skipped: this kernel has no IORING_OP_SENDMSG_ZC");
        return;
    }
    // Loopback copies: a few tries, then no more.
    assert!(not == 0 && copied < 40, "{copied} copied, {not} not");
    assert!(
        a.describe().contains("zero-copy send off"),
        "{}",
        a.describe()
    );
}

/// The counter of this module counts.
#[test]
fn the_counting_allocator_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(Box::new(AtomicU64::new(1))));
    assert_eq!(ALLOCATIONS.with(Cell::get), before + 1);
}
