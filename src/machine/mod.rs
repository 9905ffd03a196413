//! Machines and what runs in and beside them.

mod ansible;
pub mod collect;
pub mod host;
mod pytest;
mod relay;
pub mod sandbox;
