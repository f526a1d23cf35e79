//! The flags of the log.

use clap::{Args, ValueEnum};

use super::values::go_int;

/// How twilld logs. `RUST_LOG` says more.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter for each module. By default
    /// what -v says.
    #[arg(long, global = true, value_name = "LEVEL", env = "RUST_LOG")]
    pub log_level: Option<String>,
    /// How.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// Flannel's level of detail: 0 is info, 1 to 3 debug, 4 and above trace.
    #[arg(
        short,
        long,
        global = true,
        value_name = "LEVEL",
        default_value = "0",
        allow_negative_numbers = true,
        value_parser = go_int
    )]
    pub v: i64,
    /// Taken for flannel's sake, without effect: --log-level has a filter for each module.
    #[arg(long, value_name = "FILTER", hide = true)]
    pub vmodule: Option<String>,
    /// Taken for flannel's sake, without effect.
    #[arg(long = "log_backtrace_at", value_name = "FILE:LINE", hide = true)]
    pub log_backtrace_at: Option<String>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogArgs {
    /// The filter, as `RUST_LOG` is written.
    pub fn filter(&self) -> &str {
        match (&self.log_level, self.v) {
            (Some(level), _) => level,
            (None, ..=0) => "info",
            // Flannel's detail is about itself, not about the libraries that it is made of.
            (None, 1..=3) => "info,twill_agent=debug,twill_core=debug",
            (None, 4..) => "info,twill_agent=trace,twill_core=trace",
        }
    }

    /// What was given and has no effect, each a sentence for the log.
    pub fn without_effect(&self) -> Vec<String> {
        let given = [
            ("--vmodule", self.vmodule.is_some()),
            ("--log_backtrace_at", self.log_backtrace_at.is_some()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given
            .map(|(flag, _)| format!("{flag} has no effect; see --log-level"))
            .collect()
    }
}
