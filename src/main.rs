//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    factoryd::machine::sandbox::dispatch(std::env::args_os()).unwrap_or_default()
}
