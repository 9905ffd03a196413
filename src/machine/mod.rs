//! Machines and what runs in and beside them.

mod ansible;
mod beneath;
pub mod collect;
pub mod host;
pub mod lines;
pub mod process;
mod pytest;
pub mod qemu;
pub mod reap;
mod relay;
pub mod sandbox;
pub mod ssh;
mod templates;
