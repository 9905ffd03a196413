//! What a repository says: pipelines and vars, read and checked; the only place that names a YAML parser.

pub mod fault;
mod hints;
mod node;
mod scalar;
mod yaml;

pub use yaml::MOST_BYTES;
