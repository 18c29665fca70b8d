//! The daemons' command line.

use clap::Parser;
use std::path::PathBuf;

/// What every daemon takes.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The TOML file; without it, defaults and the environment alone.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force, with comments, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// A command instead of running the daemon, with its arguments.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
