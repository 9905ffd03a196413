//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The sandbox starts this same binary inside itself, before any command line is read.
    factoryd::machine::sandbox::dispatch(std::env::args_os()).unwrap_or_else(factoryd::cli::main)
}
