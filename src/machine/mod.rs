//! Machines and what runs in and beside them.

pub mod lines;
pub mod process;
pub mod qemu;
pub mod reap;
pub mod ssh;
