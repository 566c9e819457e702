//! Huge pages for receive buffers, where the system gives them on request.
//!
//! A buffer must be an allocation of its own: what is cut from a larger one comes back only with all
//! of it (`pool`). But allocations of one size, made one after the other, are neighbours in the
//! address space, and the kernel asks only that: of the range that a group of neighbours covers, the
//! aligned part is advised, across their borders.

use std::{fs, ops::Range, path::Path};

use bytes::BytesMut;

/// Where the system says whether huge pages are given, and how large they are.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Largest gap between neighbours, bytes: the allocator's header and the rest of a page.
const GAP_BYTES_MAX: usize = 8192;

/// Size of a huge page, bytes; `None` where there are none, or not on request.
pub(crate) fn page_bytes() -> Option<usize> {
    let read = |name| fs::read_to_string(Path::new(SETTINGS).join(name)).ok();
    let enabled = read("enabled")?;
    let on_request = enabled.contains("[madvise]") || enabled.contains("[always]");
    let bytes: usize = read("hpage_pmd_size")?.trim().parse().ok()?;
    (on_request && bytes.is_power_of_two()).then_some(bytes)
}

/// Asks for huge pages under a group of buffers that nobody uses yet. Returns the bytes that they
/// cover; 0 where the buffers are no neighbours or the kernel refuses.
pub(crate) fn advise(buffers: &mut [BytesMut], page_bytes: usize) -> usize {
    let ranges = buffers.iter_mut().map(|buffer| {
        let room = buffer.spare_capacity_mut().as_ptr_range();
        room.start.addr()..room.end.addr()
    });
    aligned_runs(ranges.collect(), page_bytes)
        .into_iter()
        .filter(|run| {
            // SAFETY: MADV_HUGEPAGE changes neither contents nor protection of any memory, whoever
            // owns it; a part of the range that is not mapped makes the kernel refuse.
            let result = unsafe {
                libc::madvise(
                    std::ptr::without_provenance_mut(run.start),
                    run.len(),
                    libc::MADV_HUGEPAGE,
                )
            };
            result == 0
        })
        .map(|run| run.len())
        .sum()
}

/// The aligned parts of runs of neighbours.
fn aligned_runs(mut ranges: Vec<Range<usize>>, page_bytes: usize) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if range.start.saturating_sub(run.end) <= GAP_BYTES_MAX => {
                run.end = run.end.max(range.end);
            }
            _ => runs.push(range),
        }
    }
    runs.into_iter()
        .map(|run| run.start.next_multiple_of(page_bytes)..run.end / page_bytes * page_bytes)
        .filter(|run| run.start < run.end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_cut_to_whole_pages() {
        let runs = |ranges: &[(usize, usize)]| -> Vec<(usize, usize)> {
            let ranges = ranges.iter().map(|(start, end)| *start..*end).collect();
            let runs = aligned_runs(ranges, 1000);
            runs.into_iter().map(|run| (run.start, run.end)).collect()
        };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[(1, 999)]), [], "no whole page");
        assert_eq!(runs(&[(900, 1900), (2000, 3100)]), [(1000, 3000)]);
        assert_eq!(runs(&[(2000, 3100), (900, 1900)]), [(1000, 3000)]);
        let far = 3000 + GAP_BYTES_MAX + 1;
        assert_eq!(runs(&[(1000, 3000), (far, far + 10)]), [(1000, 3000)]);
    }

    #[test]
    fn buffers_made_together_get_huge_pages() {
        let Some(page_bytes) = page_bytes() else {
            println!("skipped: this system gives no huge pages on request ({SETTINGS}/enabled)");
            return;
        };
        let mut buffers: Vec<BytesMut> = (0..64)
            .map(|_| BytesMut::with_capacity(page_bytes / 8))
            .collect();
        let advised = advise(&mut buffers, page_bytes);
        assert!(advised >= page_bytes, "{advised} bytes of 64 neighbours");
        // The kernel marks the mappings (`hg`); whether it has such pages now is its business.
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let is_marked = |line: &str| line.starts_with("VmFlags:") && line.contains(" hg");
        assert!(maps.lines().any(is_marked), "no mapping is marked");
    }
}
