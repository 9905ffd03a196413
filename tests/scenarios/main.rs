//! Scenarios: people push, ask and kill the daemon; the real engine, store and git see to it, in a world that is strict.
//!
//! [`factory::Factory`] is the harness. Outside of it there is only [`world::World`], which stands for hypervisor, guests
//! and sandbox, outlives every daemon, and remembers each thing that was done wrongly. After each scenario the harness
//! looks whether anything was left behind.

mod clone;
mod factory;
mod fakes;
mod logs;
mod show;
mod world;

mod artifacts;
mod bases;
mod branches;
mod canary;
mod care;
mod changes;
mod disk;
mod failures;
mod far;
mod packer;
mod pushes;
mod restarts;
mod sequences;

mod steps;
