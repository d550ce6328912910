//! Memory for large buffers, straight from the system: in huge pages, of which one costs less than a tenth of the
//! small ones in its place when it is first touched, and one entry of the address cache ever after. What is never
//! touched, as the gradients of a model that a trainer updates as it finds them, takes no memory.

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Whether a buffer of so many bytes is mapped: if the huge pages in it are worth what they round up.
#[cfg(target_os = "linux")]
pub fn wanted(bytes: usize) -> bool {
    bytes >= HUGE / 2
}

/// Maps zeros, aligned to a huge page; null if there is not enough memory.
#[cfg(target_os = "linux")]
pub fn map(bytes: usize) -> *mut u8 {
    use libc::{MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE};
    let len = mapped(bytes);
    let room = len + HUGE;
    // SAFETY: a new mapping, at an address of the system's choice.
    let start = unsafe {
        libc::mmap(std::ptr::null_mut(), room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    };
    if start == MAP_FAILED {
        return std::ptr::null_mut();
    }
    let head = (start as usize).next_multiple_of(HUGE) - start as usize;
    let ptr = start.wrapping_byte_add(head);
    // SAFETY: what is given back lies in the new mapping, before and behind what is kept; both ends are whole small
    // pages, and nothing to give back is an error that changes nothing. The advice is for what is kept: where it is not
    // taken, pages stay small.
    unsafe {
        libc::munmap(start, head);
        libc::munmap(ptr.wrapping_byte_add(len), HUGE - head);
        libc::madvise(ptr, len, MADV_HUGEPAGE);
    }
    ptr.cast()
}

/// Gives back what was mapped.
///
/// # Safety
/// It must have been mapped with this size, and nobody use it any more.
#[cfg(target_os = "linux")]
pub unsafe fn unmap(ptr: *mut u8, bytes: usize) {
    // SAFETY: as the caller promised.
    unsafe { libc::munmap(ptr.cast(), mapped(bytes)) };
}

/// Bytes that are mapped: whole huge pages, unless the last would be less than half full.
#[cfg(target_os = "linux")]
fn mapped(bytes: usize) -> usize {
    let last = bytes % HUGE;
    // No system has small pages of more than 64 KiB.
    bytes.next_multiple_of(if last < HUGE / 2 { 64 << 10 } else { HUGE })
}

/// Elsewhere the allocator has them all.
#[cfg(not(target_os = "linux"))]
pub fn wanted(_: usize) -> bool {
    false
}

/// Not called: nothing is wanted.
#[cfg(not(target_os = "linux"))]
pub fn map(_: usize) -> *mut u8 {
    std::ptr::null_mut()
}

/// Not called, either.
///
/// # Safety
/// None is needed: nothing is done.
#[cfg(not(target_os = "linux"))]
pub unsafe fn unmap(_: *mut u8, _: usize) {}
