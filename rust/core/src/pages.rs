//! Memory for large buffers, straight from the operating system and in huge pages. On first touch a huge page
//! costs less than a tenth of the small pages it replaces, and from then on one TLB entry instead of many.
//! Memory that is never touched takes none, for example the gradients of a model whose trainer applies them
//! as it computes them.

#![allow(unsafe_code)] // calls to the operating system

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Whether a buffer of this many bytes is mapped: if its huge pages are worth the rounding.
#[cfg(target_os = "linux")]
pub fn wanted(bytes: usize) -> bool {
    bytes >= HUGE / 2
}

/// How often memory was mapped.
#[cfg(test)]
pub static MAPPED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Maps zeroed memory, aligned to a huge page; null if there is not enough memory.
#[cfg(target_os = "linux")]
pub fn map(bytes: usize) -> *mut u8 {
    #[cfg(test)]
    MAPPED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    use libc::{MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE};
    let len = mapped(bytes);
    let room = len + HUGE;
    // SAFETY: an anonymous mapping, at an address that the system chooses, so no memory in use is affected.
    let start = unsafe {
        libc::mmap(std::ptr::null_mut(), room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    };
    if start == MAP_FAILED {
        return std::ptr::null_mut();
    }
    let head = (start as usize).next_multiple_of(HUGE) - start as usize;
    let ptr = start.wrapping_byte_add(head);
    // SAFETY: what is unmapped lies within the new mapping, before and after the part that is kept; both ends
    // are whole small pages, and unmapping zero bytes fails without changing anything. The advice concerns
    // only the kept part; if the system ignores it, the pages stay small.
    unsafe {
        libc::munmap(start, head);
        libc::munmap(ptr.wrapping_byte_add(len), HUGE - head);
        libc::madvise(ptr, len, MADV_HUGEPAGE);
    }
    ptr.cast()
}

/// Unmaps what was mapped.
///
/// # Safety
/// `ptr` must come from [`map`] with the same `bytes`, and nobody may use the memory any more.
#[cfg(target_os = "linux")]
pub unsafe fn unmap(ptr: *mut u8, bytes: usize) {
    // SAFETY: the caller promises that this is a whole mapping from `map`, no longer in use.
    unsafe { libc::munmap(ptr.cast(), mapped(bytes)) };
}

/// Bytes that are mapped: whole huge pages, unless the last would be less than half full.
#[cfg(target_os = "linux")]
fn mapped(bytes: usize) -> usize {
    let last = bytes % HUGE;
    // No system has small pages larger than 64 KiB.
    bytes.next_multiple_of(if last < HUGE / 2 { 64 << 10 } else { HUGE })
}

/// Elsewhere the allocator provides all buffers.
#[cfg(not(target_os = "linux"))]
pub fn wanted(_: usize) -> bool {
    false
}

/// Never called, since nothing is wanted.
#[cfg(not(target_os = "linux"))]
pub fn map(_: usize) -> *mut u8 {
    std::ptr::null_mut()
}

/// Never called, either.
///
/// # Safety
/// There are no conditions: the function does nothing.
#[cfg(not(target_os = "linux"))]
pub unsafe fn unmap(_: *mut u8, _: usize) {}
