//! How the system's allocator gives memory back.
//!
//! Owns three settings of glibc, made once, before there are threads. Only the program makes them: whoever embeds the
//! library has an allocator of his own choice.

/// Large blocks come from the system and go back to it at once, small ones from two arenas, and the free end of an arena
/// is given back early. Left to itself glibc raises the first two bounds as it goes, so that a burst of large messages
/// stays with the process: with a reader that stopped, a stream of 1 MB messages took 28 MiB, and takes 12 like this.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the settings have no safe form; plain integers go in")]
pub fn settle() {
    use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: integers that the manual allows, before another thread exists. What is refused stays as it was.
    unsafe {
        mallopt(M_ARENA_MAX, 2);
        mallopt(M_MMAP_THRESHOLD, 128 << 10);
        mallopt(M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// Other allocators need no telling.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn settle() {}
