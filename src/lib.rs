//! factoryd: a git push ends in a tested, published image.
//!
//! The library holds everything; `main.rs` only calls [`cli`]. Start reading at `ARCHITECTURE.md`, then [`domain`].

pub mod blocking;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod engine;
pub mod machine;
pub mod manifest;
pub mod render;
pub mod server;
pub mod source;
pub mod store;
pub mod systemd;
pub mod telemetry;
