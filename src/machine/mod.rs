//! Machines and what runs in and beside them.

mod ansible;
mod beneath;
pub mod collect;
mod console;
pub mod host;
mod keys;
pub mod lines;
mod making;
pub mod openstack;
pub mod process;
mod pytest;
pub mod qemu;
pub mod reap;
mod relay;
pub mod sandbox;
mod seal;
pub mod ssh;
mod templates;
