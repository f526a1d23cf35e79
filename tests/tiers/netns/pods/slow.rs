//! A foreign qdisc or filter keeps a pod slow from the moment it appears until it is gone.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::Delegate;
use twill_tests::{load_program, small_object};

use super::{Watched, on_a_node};

/// What `tc` is told, and what the pod is then.
type Step = (&'static str, &'static str);

/// Takes the steps on the node, `VETH` standing for the pod's host-side veth.
async fn steps(watched: &mut Watched<'_>, steps: &[Step]) -> Result<()> {
    let veth = watched.veth().await?;
    for (line, expected) in steps {
        let line = line.replace("VETH", &veth);
        watched.run(&line)?;
        watched.sees(&line, &[expected]).await?;
    }
    Ok(())
}

/// One pod on a node, seen and at rest.
async fn with_pod(watched: &mut Watched<'_>, delegate: Delegate) -> Result<Pod> {
    let pod = Pod::add_by(delegate, watched.node, "1", &watched.env)?;
    let wiring = if delegate == Delegate::Bridge {
        "Bridge"
    } else {
        "Routed"
    };
    watched.sees_no_change("one pod", &[wiring]).await?;
    Ok(pod)
}

const TBF: &str = "tc qdisc add dev VETH root tbf rate 50mbit burst 32k latency 50ms";

#[test]
fn a10_a_bandwidth_limit_on_the_veth_keeps_a_pod_slow() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        steps(
            watched,
            &[
                (TBF, "Bridge foreign_qdisc"),
                ("tc qdisc del dev VETH root", "Bridge"),
                (
                    "tc qdisc add dev VETH root handle 1: htb",
                    "Bridge foreign_qdisc",
                ),
                ("tc qdisc del dev VETH root", "Bridge"),
                (
                    "tc qdisc add dev VETH root pfifo limit 100",
                    "Bridge foreign_qdisc",
                ),
                ("tc qdisc replace dev VETH root noqueue", "Bridge"),
                ("tc qdisc add dev VETH ingress", "Bridge foreign_qdisc"),
                ("tc qdisc del dev VETH ingress", "Bridge"),
            ],
        )
        .await
    })
}

#[test]
fn a10_it_is_the_same_with_a_routed_pod() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Ptp).await?;
        steps(
            watched,
            &[
                (TBF, "Routed foreign_qdisc"),
                ("tc qdisc del dev VETH root", "Routed"),
            ],
        )
        .await
    })
}

#[test]
fn a_limit_on_the_bridge_keeps_its_pods_slow() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        steps(
            watched,
            &[
                (
                    "tc qdisc add dev cni0 root tbf rate 50mbit burst 32k latency 50ms",
                    "Bridge foreign_qdisc",
                ),
                ("tc qdisc del dev cni0 root", "Bridge"),
            ],
        )
        .await?;
        watched.run("tc qdisc add dev cni0 clsact")?;
        watched.sees_no_change("clsact alone", &["Bridge"]).await?;
        steps(
            watched,
            &[(
                "tc filter add dev cni0 egress protocol ip u32 match u32 0 0",
                "Bridge foreign_filter",
            )],
        )
        .await
    })
}

#[test]
fn a_limit_elsewhere_is_none_of_the_pods_business() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        watched.run(
            "tc qdisc add dev eth0 root tbf rate 50mbit burst 32k latency 50ms
             ip link add docker0 type bridge
             ip link set docker0 up
             tc qdisc add dev docker0 root tbf rate 50mbit burst 32k latency 50ms",
        )?;
        watched
            .sees_no_change("limits elsewhere", &["Bridge"])
            .await
    })
}

#[test]
fn a_foreign_filter_keeps_a_pod_slow_and_clsact_alone_does_not() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        let veth = watched.veth().await?;
        watched.run(&format!("tc qdisc add dev {veth} clsact"))?;
        watched.sees_no_change("clsact alone", &["Bridge"]).await?;
        steps(
            watched,
            &[
                (
                    "tc filter add dev VETH ingress pref 7 protocol ip u32 match u32 0 0",
                    "Bridge foreign_filter",
                ),
                ("tc filter del dev VETH ingress pref 7", "Bridge"),
                (
                    "tc filter add dev VETH egress protocol ip u32 match u32 0 0",
                    "Bridge foreign_filter",
                ),
                ("tc qdisc del dev VETH clsact", "Bridge"),
            ],
        )
        .await?;
        watched.run(&format!("tc qdisc add dev {veth} clsact"))?;
        watched.sees_no_change("clsact again", &["Bridge"]).await?;
        // Classic BPF where ours would be: of our kind, at our priority, and not ours.
        watched.change(|watched| {
            let line = "tc filter add dev VETH ingress pref 50 handle 1 bpf bytecode";
            let line = line.replace("VETH", &veth);
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words.push("1,6 0 0 0");
            watched.node.namespace().run(&words)
        })?;
        watched
            .sees("classic BPF", &["Bridge foreign_filter"])
            .await?;
        steps(
            watched,
            &[
                ("tc filter del dev VETH ingress pref 50", "Bridge"),
                // In another chain, where a goto would find it.
                (
                    "tc filter add dev VETH ingress chain 3 protocol ip u32 match u32 0 0",
                    "Bridge foreign_filter",
                ),
                ("tc qdisc del dev VETH clsact", "Bridge"),
            ],
        )
        .await
    })
}

#[test]
fn a_filter_in_a_shared_block_is_seen() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        let veth = watched.veth().await?;
        watched.run(&format!("tc qdisc add dev {veth} ingress_block 22 clsact"))?;
        watched
            .sees_no_change("an empty block", &["Bridge"])
            .await?;
        steps(
            watched,
            &[
                (
                    "tc filter add block 22 protocol ip u32 match u32 0 0",
                    "Bridge foreign_filter",
                ),
                ("tc filter del block 22", "Bridge"),
            ],
        )
        .await
    })
}

#[test]
fn a_pods_own_xdp_program_keeps_it_slow() -> Result<()> {
    on_a_node(async |watched| {
        let pod = with_pod(watched, Delegate::Bridge).await?;
        let mut ebpf = small_object()?;
        let program: &mut Xdp = ebpf.program_mut("guard").unwrap().try_into()?;
        load_program(|| program.load())?;
        let mut attached = None;
        watched.change(|_| {
            let attach = || program.attach("eth0", XdpMode::Driver);
            attached = Some(pod.namespace().enter(attach)??);
            Ok(())
        })?;
        let expected = ["Bridge pod_program"];
        watched.sees("a program in the pod", &expected).await?;
        let link = attached.context("nothing is attached")?;
        watched.change(|_| Ok(program.detach(link)?))?;
        watched.sees("it is gone", &["Bridge"]).await
    })
}

/// Attaches one of our programs as the agent does where the kernel has no TCX.
fn attach(
    ebpf: &mut Ebpf,
    program: &str,
    veth: &str,
    hook: TcAttachType,
    priority: u16,
) -> Result<()> {
    let program: &mut SchedClassifier = ebpf.program_mut(program).unwrap().try_into()?;
    let options = TcAttachOptions::Netlink(NlOptions {
        priority,
        handle: TcHandle::new(0, 1),
        classid: None,
    });
    let link = program.attach_with_options(veth, hook, options)?;
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

fn load() -> Result<Ebpf> {
    let mut ebpf = small_object()?;
    for name in ["from_pod", "to_pod"] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into()?;
        load_program(|| program.load())?;
    }
    Ok(ebpf)
}

#[test]
fn our_own_filters_keep_no_pod_slow() -> Result<()> {
    on_a_node(async |watched| {
        let _pod = with_pod(watched, Delegate::Bridge).await?;
        let veth = watched.veth().await?;
        let mut ebpf = load()?;
        watched.run(&format!("tc qdisc add dev {veth} clsact"))?;
        attach(&mut ebpf, "from_pod", &veth, TcAttachType::Ingress, 50)?;
        attach(&mut ebpf, "to_pod", &veth, TcAttachType::Egress, 50)?;
        watched.sees_no_change("both of ours", &["Bridge"]).await?;
        // The same program elsewhere is somebody else's.
        for (program, hook, priority) in [
            ("from_pod", TcAttachType::Ingress, 51),
            ("from_pod", TcAttachType::Egress, 51),
        ] {
            watched.change(|_| attach(&mut ebpf, program, &veth, hook, priority))?;
            let what = format!("{program} at {hook:?} {priority}");
            watched.sees(&what, &["Bridge foreign_filter"]).await?;
            let hook = if hook == TcAttachType::Ingress {
                "ingress"
            } else {
                "egress"
            };
            watched.run(&format!("tc filter del dev {veth} {hook} pref {priority}"))?;
            watched.sees("removed", &["Bridge"]).await?;
        }
        // Ours at the wrong hook.
        watched.run(&format!("tc filter del dev {veth} egress pref 50"))?;
        watched.sees_no_change("one of ours", &["Bridge"]).await?;
        watched.change(|_| attach(&mut ebpf, "from_pod", &veth, TcAttachType::Egress, 50))?;
        watched.sees("wrong hook", &["Bridge foreign_filter"]).await
    })
}

#[test]
fn the_operators_word_keeps_a_pod_slow() -> Result<()> {
    on_a_node(async |watched| {
        let pod = with_pod(watched, Delegate::Ptp).await?;
        watched.rules.excluded.addresses.insert(pod.address());
        watched
            .sees_no_change("by address", &["Routed excluded"])
            .await?;
        watched.rules.excluded.addresses.clear();
        let veth = watched.veth().await?;
        watched.rules.excluded.links.insert(veth);
        watched
            .sees_no_change("by name", &["Routed excluded"])
            .await?;
        watched.rules.excluded.links.clear();
        let pods = watched.pods().await?;
        let ifindex = *pods.keys().next().unwrap();
        let program = "retis".to_owned();
        watched.rules.foreign_programs.insert(ifindex, program);
        let expected = ["Routed foreign_program"];
        watched
            .sees_no_change("a foreign TCX program", &expected)
            .await
    })
}
