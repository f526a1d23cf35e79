//! The proof that flows are fast: without it a test of the fast path proves nothing.

use std::time::Duration;

use anyhow::Result;
use twill_testbed::wait::{pass, wait_for};

use super::{Lab, SECONDS};
use crate::talk::Flow;

/// Requests between two looks at the counters.
const ROUND: u64 = 40;

impl Lab {
    /// Asks until most of a round of requests and answers went past the stacks of every node with
    /// programs, out of its pods and into them. A question that is not answered is an error. On
    /// stock nodes it asks one round.
    pub(crate) fn make_fast(&self, ask: impl FnMut() -> Result<()>) -> Result<()> {
        self.make_fast_on(self.twill_nodes(), ask)
    }

    /// [`Self::make_fast`] where some nodes only can be fast.
    pub(crate) fn make_fast_on(
        &self,
        nodes: &[usize],
        mut ask: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut round = || (0..ROUND).try_for_each(|_| ask());
        if !self.has_programs() {
            return round();
        }
        let counts = || self.fast_counts_of(nodes);
        let mut asked = Ok(());
        wait_for("requests and answers are fast", SECONDS, || {
            let before = counts()?;
            asked = round();
            let after = counts()?;
            let mut pairs = before.iter().zip(&after);
            let fast = pairs.all(|(before, after)| after - before > ROUND / 2);
            Ok((fast || asked.is_err()).then_some(()))
        })?;
        asked
    }

    /// [`Self::make_fast`] with questions of this flow, each of which has to be answered.
    pub(crate) fn until_fast(&self, flow: &mut Flow) -> Result<()> {
        self.make_fast(|| flow.ask().map(drop))
    }

    /// Waits until every flow, known by a port of either end, may be fast in both directions on
    /// every node with programs, and packets are in fact carried past the stacks: for flows that
    /// somebody else keeps busy.
    pub(crate) fn wait_fast(&self, ports: &[u16]) -> Result<()> {
        if !self.has_programs() {
            return Ok(());
        }
        wait_for(&format!("flows {ports:?} are fast"), SECONDS, || {
            for node in self.twill_nodes() {
                for port in ports {
                    if !self.is_live(*node, *port)? {
                        return Ok(None);
                    }
                }
            }
            let before = self.fast_counts()?;
            pass(Duration::from_millis(50))?;
            let after = self.fast_counts()?;
            let mut pairs = before.iter().zip(&after);
            Ok(pairs.all(|(before, after)| after > before).then_some(()))
        })
    }
}
