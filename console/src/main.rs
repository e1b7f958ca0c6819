//! `portolan`: the operator's console, a thin client of the server's API.
//!
//! It keeps nothing and decides nothing: it checks what was typed, asks the server, and prints what comes back.
//! Results go to stdout, everything else to stderr; the exit code says how it went ([`errors::Exit`]).

mod cli;
mod commands;
mod document;
mod errors;
#[cfg(test)]
mod fake;
mod interrupts;
mod output;
mod scan_result;
mod session;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    commands::run(cli).unwrap_or_else(|error| errors::report(&error)).into()
}
