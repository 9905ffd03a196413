//! `factoryd schema`, `completions`, `man`: what editors, shells and packages want.

use std::path::Path;

use clap::CommandFactory as _;

use super::{Arguments, Failure, say};
use crate::manifest::schema;

pub(super) fn schema(what: &str) -> Result<(), Failure> {
    if what != "pipeline" {
        return Err(Failure::usage(format!("there is no schema of `{what}`")).help("factoryd schema pipeline"));
    }
    let text = serde_json::to_string_pretty(&schema::pipeline())
        .map_err(|error| Failure::failed(format!("the schema can't be written: {error}")))?;
    say(&format!("{text}\n"))
}

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "factoryd", &mut script);
    say(&String::from_utf8_lossy(&script))
}

pub(super) fn man(directory: &Path) -> Result<(), Failure> {
    let cant = |error: std::io::Error| Failure::failed(format!("can't write into {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(cant)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(cant)
}
