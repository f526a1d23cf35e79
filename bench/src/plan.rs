//! What a run measures, and how long that takes.

use std::time::Duration;

use crate::case::{Case, Shape, Subject, Target};
use crate::load::Timing;
use crate::stats::SplitMix;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The subjects.
    pub subjects: Vec<Subject>,
    /// The kinds of traffic.
    pub cases: Vec<Case>,
    /// The wires, one after another.
    pub shapes: Vec<Shape>,
    /// What clients talk to.
    pub targets: Vec<Target>,
    /// How often everything is measured.
    pub rounds: u32,
    /// Each measurement.
    pub timing: Timing,
    /// Services beside the one that is measured.
    pub services: u32,
    /// Room for flows in Twill's maps, where it is not what the agent takes by itself.
    pub max_permits: Option<u32>,
    /// No round begins that would end later than this.
    pub limit: Duration,
}

/// One measurement of a round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// The traffic.
    pub case: Case,
    /// What the client talks to.
    pub target: Target,
    /// Who is measured.
    pub subject: Subject,
}

impl Plan {
    /// `--quick`: under six minutes.
    pub fn quick() -> Self {
        Self {
            subjects: Subject::USUAL.to_vec(),
            cases: Case::QUICK.to_vec(),
            shapes: vec![Shape::Gso],
            targets: Target::ALL.to_vec(),
            rounds: 6,
            timing: Timing {
                warm_up: Duration::from_millis(200),
                window: Duration::from_millis(600),
            },
            services: 50,
            max_permits: None,
            limit: Duration::from_secs(340),
        }
    }

    /// Everything: under forty minutes.
    pub fn full() -> Self {
        Self {
            cases: Case::full(),
            shapes: Shape::ALL.to_vec(),
            rounds: 10,
            timing: Timing {
                warm_up: Duration::from_millis(200),
                window: Duration::from_millis(700),
            },
            limit: Duration::from_mins(39),
            ..Self::quick()
        }
    }

    /// The measurements of one round, from 1: what is compared is measured one right after
    /// another, in an order that is another in each round. It is drawn, and always the same:
    /// in a mere rotation everybody would have the same neighbours for ever.
    pub fn steps(&self, round: u32, available: &[Subject]) -> Vec<Step> {
        let mut random = SplitMix::new(round.into());
        let mut steps = Vec::new();
        for &case in &self.cases {
            let mut group: Vec<_> = available
                .iter()
                .flat_map(|&subject| {
                    let targets = self.targets_of(subject).iter();
                    targets.map(move |&target| Step {
                        case,
                        target,
                        subject,
                    })
                })
                .collect();
            random.shuffle(&mut group);
            steps.append(&mut group);
        }
        steps
    }

    /// The nodes' own network knows no Service: its one figure is the limit of both targets.
    fn targets_of(&self, subject: Subject) -> &[Target] {
        if subject.is_overlay() {
            &self.targets
        } else {
            &[Target::Pod]
        }
    }

    /// About how long one measurement takes, set-up and end of its traffic included.
    pub fn step_time(&self) -> Duration {
        /// Threads, sockets, counters.
        const AROUND: Duration = Duration::from_millis(60);
        self.timing.warm_up + self.timing.window + AROUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Subject; 2] = [Subject::Host, Subject::Kernel];

    fn small() -> Plan {
        Plan {
            cases: vec![Case::TcpRr, Case::UdpRr],
            ..Plan::quick()
        }
    }

    #[test]
    fn everybody_is_measured_once_and_somebody_else_is_first() {
        let plan = small();
        let (first, second) = (plan.steps(1, &TWO), plan.steps(2, &TWO));
        // Host to the pod, kernel to the pod and to the Service, twice.
        assert_eq!(first.len(), 6);
        assert_ne!(first, second);
        for step in &first {
            assert_eq!(second.iter().filter(|other| *other == step).count(), 1);
        }
        // A case's subjects are measured together.
        assert!(first.iter().take(3).all(|step| step.case == Case::TcpRr));
    }

    #[test]
    fn a_run_to_services_alone_has_its_limit_beside_it() {
        let plan = Plan {
            targets: vec![Target::Service],
            ..small()
        };
        let steps = plan.steps(1, &TWO);
        assert_eq!(steps.len(), 4);
        assert!(steps.iter().any(|step| step.subject == Subject::Host));
    }

    #[test]
    fn both_runs_fit_their_time() {
        for (plan, minutes) in [(Plan::quick(), 6), (Plan::full(), 40)] {
            let steps = plan.steps(1, Subject::USUAL).len() * plan.shapes.len();
            let steps = u32::try_from(steps).unwrap() * plan.rounds;
            let took = plan.step_time() * steps;
            let limit = Duration::from_secs(minutes * 60);
            // A twentieth is for building and for warming up.
            assert!(took + limit / 20 <= limit, "{took:?} of {limit:?}");
            assert!(plan.limit < limit);
        }
    }
}
