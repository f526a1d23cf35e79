//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::case::{Case, Shape, Subject, Target};
use crate::growth;
use crate::guard;
use crate::plan::Plan;
use crate::programs::{self, Branch, MOST_LEASES, Object, Scene};
use crate::stats::FEWEST_ROUNDS;
use crate::subject::Programs;

/// Rounds of `--growth`.
const GROWTH_ROUNDS: u32 = 8;
/// Rounds of `--growth --quick`.
const GROWTH_ROUNDS_QUICK: u32 = 2;
/// Rounds of `--programs`.
const PROGRAM_ROUNDS: u32 = 20;

/// Rounds of `--guard`.
const GUARD_ROUNDS: u32 = 10;
/// Frames of `--guard` in each round, for each who is to drop them.
const GUARD_FRAMES: u32 = 1_000_000;
/// The same with `--quick`.
const GUARD_FRAMES_QUICK: u32 = 200_000;

/// Exit codes, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    everything ran as meant
  1    it could not run, or something did not run as meant: the report says what
  2    wrong usage
  130  interrupted; everything is removed";

/// Compare overlays side by side on this machine: the nodes' own network, the kernel's vxlan
/// as flannel sets it up, and Twill in each mode. Needs root.
///
/// Everything happens in network namespaces that are made for it and removed afterwards.
/// docs/bench.md says how to read what it prints.
#[derive(Clone, Debug, Parser)]
#[command(name = "twill-bench", version, after_help = EXIT_CODES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of a command line, of which clap takes one at a time"
)]
pub struct Args {
    /// Six cases, one wire: under six minutes instead of forty
    #[arg(long)]
    pub quick: bool,
    /// Write everything as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with charts, to read and to hand on
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Make the charts and tables of a run from its JSON again, and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "json"])]
    pub from: Option<PathBuf>,
    /// Let this flanneld and an etcd take the place of the kernel's device set up by hand
    #[arg(long, value_name = "PATH")]
    pub flanneld: Option<PathBuf>,
    /// The etcd for flanneld, with etcdctl beside it; a mere name is looked for in PATH
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    pub etcd: PathBuf,
    /// Measure nothing but what a packet costs in each program, branch by branch
    #[arg(long, conflicts_with_all = ["quick", "from", "flanneld", "html"])]
    pub programs: bool,
    /// Hold the load generator against iperf3 and, where it is installed, sockperf
    #[arg(long, conflicts_with_all = ["quick", "from", "programs", "growth", "guard", "html", "json"])]
    pub check_load: bool,
    /// Measure nothing but how costs grow with leases, permits and Services; with --quick a
    /// small run that shows no more than that all of it works
    #[arg(long, conflicts_with_all = ["from", "programs", "html"])]
    pub growth: bool,
    /// Measure nothing but the guard: packets that it drops in a second beside rules of nftables
    /// that drop the same, and a flow beside a flood; with --quick a small run
    #[arg(long, conflicts_with_all = ["from", "programs", "growth", "html"])]
    pub guard: bool,
    /// Measure nothing but how long agents take that start with so many leases in etcd, as
    /// 5000,50000: Twill's, and flanneld where one is given; --rounds of it, or one
    #[arg(long, value_name = "COUNT", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=90_000),
          conflicts_with_all = ["quick", "from", "programs", "growth", "check_load", "html"])]
    pub converge: Vec<u32>,
    /// The BPF object that --programs, --growth and --guard are about
    #[arg(long, value_name = "FILE", env = "TWILL_BPF_OBJECT")]
    pub object: Option<PathBuf>,
    /// An object from before a change: --programs measures both in turns
    #[arg(long, value_name = "FILE", requires = "programs")]
    pub against: Option<PathBuf>,
    /// A stored --programs run to hold this one against, as bench/results/programs.json
    #[arg(long, value_name = "FILE", requires = "programs")]
    pub compare: Option<PathBuf>,
    /// Only these cases
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    pub cases: Vec<Case>,
    /// Only these subjects; `again` and `slowed` show what the bench itself can tell apart
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    pub subjects: Vec<Subject>,
    /// Only these wires
    #[arg(long, value_name = "SHAPE", value_delimiter = ',')]
    pub shapes: Vec<Shape>,
    /// Only these targets
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    pub targets: Vec<Target>,
    /// How often everything is measured; six or more for an interval of 95 %
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of each measurement
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub window: Option<Duration>,
    /// Services that the nodes have rules for, beside the one that is measured
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub services: Option<u32>,
    /// Room for flows in Twill's maps. With less than a case has flows, such as 64 for
    /// the case `udp_rr_640`, whatever comes of it is the figure: nothing has to go past the stack
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_permits: Option<u32>,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds from 0.05 to 600".to_owned()),
    }
}

impl Args {
    /// What the run measures.
    pub fn plan(&self) -> Plan {
        let mut plan = if self.quick {
            Plan::quick()
        } else {
            Plan::full()
        };
        choose(&mut plan.cases, &self.cases);
        choose(&mut plan.subjects, &self.subjects);
        choose(&mut plan.shapes, &self.shapes);
        choose(&mut plan.targets, &self.targets);
        plan.services = self.services.unwrap_or(plan.services);
        plan.max_permits = self.max_permits;
        if self.rounds.is_some() || self.window.is_some() {
            // Who says how much shall have it.
            plan.limit = Duration::from_hours(24);
        }
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        plan.timing.window = self.window.unwrap_or(plan.timing.window);
        plan
    }

    /// What `--programs` measures.
    pub fn programs_plan(&self) -> Result<programs::Plan> {
        let mut objects = vec![Object::read("now", self.object()?)?];
        if let Some(path) = &self.against {
            objects.push(Object::read("before", path)?);
        }
        let leases = [2, MOST_LEASES];
        Ok(programs::Plan {
            objects,
            scenes: leases.map(|leases| Scene { leases, permits: 0 }).to_vec(),
            // The first counts for nobody.
            rounds: self.rounds.unwrap_or(PROGRAM_ROUNDS) + 1,
            branches: Branch::ALL.to_vec(),
        })
    }

    /// How many there are of everything in `--growth`, and its rounds.
    fn growth_size(&self) -> (growth::Sizes, u32) {
        let (sizes, rounds) = if self.quick {
            (growth::Sizes::quick(), GROWTH_ROUNDS_QUICK)
        } else {
            (growth::Sizes::full(), GROWTH_ROUNDS)
        };
        (sizes, self.rounds.unwrap_or(rounds))
    }

    /// What `--growth` measures.
    pub fn growth_plan(&self) -> Result<growth::Plan> {
        let (sizes, rounds) = self.growth_size();
        let mut timing = Plan::quick().timing;
        timing.window = self.window.unwrap_or(timing.window);
        Ok(growth::Plan {
            object: Object::read("now", self.object()?)?,
            flannel: self.programs()?,
            rounds,
            timing,
            sizes,
        })
    }

    /// Rounds of `--guard`, and frames in each.
    fn guard_size(&self) -> (u32, u32) {
        let (rounds, frames) = if self.quick {
            (GROWTH_ROUNDS_QUICK, GUARD_FRAMES_QUICK)
        } else {
            (GUARD_ROUNDS, GUARD_FRAMES)
        };
        (self.rounds.unwrap_or(rounds), frames)
    }

    /// What `--guard` measures.
    pub fn guard_plan(&self) -> Result<guard::Plan> {
        let (rounds, frames) = self.guard_size();
        Ok(guard::Plan {
            object: Object::read("now", self.object()?)?,
            rounds,
            frames,
        })
    }

    /// The BPF object, which must have been named.
    pub fn object(&self) -> Result<&Path> {
        let named = self.object.as_deref();
        named.context(
            "no BPF object: `cargo xtask bench` builds one, or name one by --object or \
             TWILL_BPF_OBJECT",
        )
    }

    /// The programs of a real flannel, if asked for. Errors name what is not there.
    pub fn programs(&self) -> Result<Option<Programs>> {
        let Some(flanneld) = &self.flanneld else {
            return Ok(None);
        };
        let etcdctl = self.etcd.with_file_name("etcdctl");
        for (flag, path) in [
            ("--flanneld", flanneld),
            ("--etcd", &self.etcd),
            ("--etcd (beside it)", &etcdctl),
        ] {
            if !is_there(path) {
                bail!("{flag}: there is no program {}", path.display());
            }
        }
        Ok(Some(Programs {
            flanneld: flanneld.clone(),
            etcd: self.etcd.clone(),
        }))
    }

    /// A remark on the plan, if it is too short to show much.
    pub fn remark(&self) -> Option<String> {
        if !self.converge.is_empty() {
            return None;
        }
        let rounds = match (self.programs, self.growth, self.guard) {
            (true, ..) => self.rounds.unwrap_or(PROGRAM_ROUNDS),
            (_, true, _) => self.growth_size().1,
            (.., true) => self.guard_size().0,
            _ => self.plan().rounds,
        };
        let rounds = rounds as usize;
        (rounds < FEWEST_ROUNDS).then(|| {
            format!("{rounds} rounds are too few for intervals of 95 %: {FEWEST_ROUNDS} or more")
        })
    }
}

/// Whether a program is there as `execvp` looks for it: a mere name in PATH, a path where it leads.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// What was named, if anything was.
fn choose<T: Clone>(from: &mut Vec<T>, named: &[T]) {
    if !named.is_empty() {
        named.clone_into(from);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"twill-bench").chain(words))
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_choose_and_quick_is_quick() {
        let plan = parse(&["--quick", "--cases", "tcp_rr,udp_64"])
            .unwrap()
            .plan();
        assert_eq!(plan.cases, [Case::TcpRr, Case::Udp64]);
        assert_eq!(plan.shapes, [Shape::Gso]);
        let plan = parse(&["--subjects=kernel,slowed"]).unwrap().plan();
        assert_eq!(plan.subjects, [Subject::Kernel, Subject::Slowed]);
        assert_eq!(plan.cases, Case::full());
    }

    #[test]
    fn a_wrong_value_is_answered_with_flag_and_value() {
        for (words, flag) in [
            (["--cases", "tcp"], "--cases"),
            (["--window", "0"], "--window"),
            (["--rounds", "0"], "--rounds"),
            (["--services", "200000"], "--services"),
        ] {
            let text = parse(&words).unwrap_err().to_string();
            assert!(text.contains(flag) && text.contains(words[1]), "{text}");
        }
    }

    #[test]
    fn a_flanneld_that_is_not_there_is_named() {
        let args = parse(&["--flanneld", "/nowhere/flanneld"]).unwrap();
        let error = args.programs().unwrap_err().to_string();
        assert!(error.contains("/nowhere/flanneld"), "{error}");
    }

    #[test]
    fn an_etcd_is_looked_for_where_a_shell_would() {
        assert_eq!(parse(&[]).unwrap().etcd, Path::new("etcd"));
        for etcd in ["/nowhere/etcd", "no-such-etcd"] {
            let args = parse(&["--flanneld=/bin/sh", "--etcd", etcd]).unwrap();
            let error = args.programs().unwrap_err().to_string();
            assert!(error.contains(etcd), "{error}");
        }
        for (program, there) in [("sh", true), ("/bin/sh", true), ("./sh", false)] {
            assert_eq!(is_there(Path::new(program)), there, "{program}");
        }
    }

    #[test]
    fn too_few_rounds_are_remarked() {
        assert!(parse(&["--rounds", "5"]).unwrap().remark().is_some());
        assert!(parse(&["--quick"]).unwrap().remark().is_none());
        assert!(parse(&["--growth"]).unwrap().remark().is_none());
        assert!(parse(&["--guard"]).unwrap().remark().is_none());
        assert!(parse(&["--guard", "--quick"]).unwrap().remark().is_some());
        assert!(parse(&["--growth", "--quick"]).unwrap().remark().is_some());
    }
}
