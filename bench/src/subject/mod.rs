//! The subjects: each has two nodes of its own, which stand side by side for the whole run
//! and of which one pair at a time is measured.

mod crowd;
pub(crate) mod flannel;
mod host;
mod kernel;
mod slowed;
pub(crate) mod twill;

use anyhow::Result;

pub use self::flannel::Programs;
pub use self::twill::{Carried, Share};

use crate::case::{Subject, Target};
use crate::cpu::ProcessUse;
use crate::load::Ends;
use crate::topology::Setup;

/// A subject that is ready to be measured. Dropped, all of it is gone.
pub struct Lane {
    /// Which.
    pub subject: Subject,
    network: Box<dyn Network>,
}

/// What the subjects have in common.
trait Network {
    /// Who talks to whom.
    fn ends(&self, target: Target) -> Ends<'_>;

    /// What BPF has carried until now; nothing where there is no BPF.
    fn carried(&self) -> Result<Option<Carried>> {
        Ok(None)
    }

    /// The agents of the nodes, and what they have used.
    fn agents(&mut self) -> Result<Vec<ProcessUse>> {
        Ok(Vec::new())
    }
}

impl Lane {
    /// Builds it. flanneld takes the place of the kernel device that is set up by hand.
    pub fn build(subject: Subject, setup: Setup, flannel: Option<&Programs>) -> Result<Self> {
        let network: Box<dyn Network> = match (subject, flannel) {
            (Subject::Host, _) => Box::new(host::Host::new(setup)?),
            (Subject::Kernel | Subject::Again, Some(programs)) => {
                Box::new(flannel::Flannel::new(setup, programs)?)
            }
            (Subject::Kernel | Subject::Again, None) => Box::new(kernel::Kernel::new(setup)?),
            (Subject::Slowed, _) => Box::new(slowed::Slowed::new(setup)?),
            (Subject::Off | Subject::Permit | Subject::Direct, _) => {
                Box::new(twill::Twill::new(subject, setup)?)
            }
        };
        Ok(Self { subject, network })
    }

    /// Who talks to whom.
    pub fn ends(&self, target: Target) -> Ends<'_> {
        self.network.ends(target)
    }

    /// What BPF has carried until now; nothing where there is no BPF.
    pub fn carried(&self) -> Result<Option<Carried>> {
        self.network.carried()
    }

    /// The agents of the nodes, and what they have used.
    pub fn agents(&mut self) -> Result<Vec<ProcessUse>> {
        self.network.agents()
    }
}
