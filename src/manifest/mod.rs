//! What a repository says: pipelines and vars, read and checked; the only place that names a YAML parser.

mod bind;
pub mod fault;
mod fields;
mod globs;
mod hints;
mod node;
mod pipeline;
mod reader;
mod scalar;
pub mod schema;
mod stages;
mod steps;
mod units;
mod vars;
mod yaml;

pub use pipeline::check_file;
pub use yaml::MOST_BYTES;
