//! From flannel to Twill and back: on nodes set up by hand as flannel does it, where every word of
//! the state can be compared, and on nodes of a real flanneld.

mod by_hand;
mod cut_off;
mod flannel;
mod real;

use anyhow::{Context as _, Result};
use twill_testbed::traffic::{Load, Report};

use crate::table;

/// Ends the load: a line of the table, and an error with `logs` if what was done meanwhile is one.
fn measured(
    event: &str,
    load: Load,
    done: Result<()>,
    logs: impl Fn() -> String,
) -> Result<Report> {
    let report = load.report();
    table::add(event, &report)?;
    done.with_context(&logs)?;
    Ok(report)
}
