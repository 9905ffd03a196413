//! Orchestration: what is planned becomes builds, builds become images, and nothing that was made is forgotten.

pub mod junit;
pub mod ports;
