//! What a repository says: pipelines and vars, read and checked; the only place that names a YAML parser.
//!
//! ```text
//! tree ──► discovery: pipelines/*.yml, their globs ──► bundles
//!            │ pipeline: YAML → checked once            │ vars: YAML → values
//!            └──────────── bind: for each bundle ───────┘
//!                             │ values, files: the inputs of each stage
//!                             ▼
//!                    bases: who is based on whom ──► reading: fingerprints, or faults
//! ```
//!
//! Nothing here runs anything or writes anything, and every limit has its fault: a repository can be wrong, hostile or
//! huge, and is then told so.

mod advice;
mod ansible_settings;
mod bases;
mod bind;
mod budget;
mod build_script;
mod bundle;
mod cache;
mod clouds;
pub mod directory;
mod discovery;
mod elsewhere;
pub mod fault;
mod fields;
mod files;
mod glance;
mod globs;
mod hints;
mod mentions;
mod node;
mod outputs;
mod packer;
mod pipeline;
mod planning;
mod playbooks;
mod reader;
pub mod reading;
mod scalar;
pub mod schema;
mod stacks;
mod stages;
mod step_files;
mod steps;
mod units;
mod values;
mod vars;
mod wanting;
mod yaml;

#[cfg(test)]
mod forest;

pub use cache::Cache;
pub use clouds::read_texts;
pub use outputs::{Output, check_output, check_yaml};
pub use pipeline::check_file;
pub use playbooks::old_playbooks;
pub use reading::read;
pub use stacks::{StackReads, stack_reads};
pub use vars::read_vars;
pub use yaml::MOST_BYTES;
