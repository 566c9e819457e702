//! Verification and hashing do not allocate once their memory is there.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use falconet_crypto::Digest;
use falconet_crypto::falcon::{Backend, Bitmap, Job, Verifier};
use falconet_crypto::hash::hash_many;
use support::Case;
use support::mutate::Corpus;

/// The system's allocator, counting the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        allocations_of(|| drop(std::hint::black_box(vec![1u8; 100]))),
        1
    );
}

#[test]
fn a_batch_of_a_known_size_allocates_nothing() {
    let corpus = Corpus::new(2, 20);
    let cases: Vec<Case> = (0..300).map(|seed| corpus.case(seed)).collect();
    let jobs: Vec<Job<'_>> = cases.iter().map(Case::job).collect();
    for backend in Backend::available() {
        let mut verifier = Verifier::with_backend(backend);
        let mut valid = Bitmap::with_capacity(jobs.len());
        for size in [1, 40, jobs.len()] {
            let count = allocations_of(|| verifier.verify_batch(&jobs[..size], &mut valid));
            assert_eq!(count, 0, "{backend:?}, {size} jobs");
        }
    }
}

#[test]
fn hashing_many_allocates_nothing() {
    let items = vec![[5u8; 200]; 100];
    let mut out = vec![Digest::ZERO; 100];
    assert_eq!(allocations_of(|| hash_many("test", &items, &mut out)), 0);
}
