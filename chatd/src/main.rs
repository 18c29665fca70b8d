//! The daemon; all of it is in the library.

use std::process::ExitCode;

/// Faster than the C library's where one thread frees what another has allocated, as everywhere here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chatd::main()
}
