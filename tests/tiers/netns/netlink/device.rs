//! The vxlan device: made as flannel makes it, told from others, and clear about conflicts.

use std::net::IpAddr;

use anyhow::Result;
use serde_json::json;
use twill_agent::netlink::{Error, VxlanDevice};
use twill_core::observed::ObservedDevice;
use twill_core::plan::KernelOp;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::world::{NODE_A, OVERLAY_LINK, PORT, VTEP_MAC_A};

use super::{UPLINK, apply, create, flannel_1, flannel_1_with, inside, link, observe};

#[test]
fn the_device_is_flannels_to_the_last_attribute() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let device = flannel_1(&netlink).await?;
        let own = "10.1.0.0/32".parse()?;
        let ops = [
            KernelOp::Create(device),
            KernelOp::SetUp(link()),
            KernelOp::AddAddress {
                link: link(),
                address: own,
            },
        ];
        apply(&netlink, &ops).await;

        let text = namespace.run(&["ip", "-d", "link", "show", OVERLAY_LINK])?;
        let wanted = "vxlan id 1 local 192.0.2.1 dev eth0 srcport 0 0 dstport 8472 nolearning \
                      ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx";
        assert!(text.contains(wanted), "{text}");

        // The same by hand, beside it: no attribute may differ.
        namespace.run_lines(
            "ip link add flannel.2 type vxlan id 2 local 192.0.2.1 dev eth0 dstport 8472 nolearning",
        )?;
        let ours = namespace.link_json(OVERLAY_LINK)?;
        let mut by_hand = namespace.link_json("flannel.2")?["linkinfo"].clone();
        by_hand["info_data"]["id"] = json!(1);
        assert_eq!(ours["linkinfo"], by_hand);
        assert_eq!(ours["mtu"], 1450);
        assert_eq!(ours["address"], "02:00:00:00:00:0a");
        assert!(
            ours.get("txqlen").is_none_or(|length| length == 0),
            "{ours}"
        );
        let accept_ra = "/proc/sys/net/ipv6/conf/flannel.1/accept_ra";
        assert_eq!(namespace.run(&["cat", accept_ra])?, "0\n");

        let observed = observe(&netlink).await?.unwrap();
        let uplink = netlink.device("eth0").await?.unwrap();
        assert_eq!(
            observed.device,
            ObservedDevice {
                ifindex: u32::try_from(ours["ifindex"].as_u64().unwrap())?,
                kind: "vxlan".to_owned(),
                mtu: 1450,
                mac: MacAddr(VTEP_MAC_A),
                up: true,
                vni: Some(1),
                port: Some(PORT),
                local: Some(IpAddr::V4(NODE_A)),
                uplink_ifindex: Some(uplink.ifindex),
                group: None,
                l2miss: false,
                gbp: false,
                learning: false,
            }
        );
        assert_eq!(observed.addresses, [own].into());
        Ok(())
    })
}

#[test]
fn options_reach_the_kernel_and_are_read_back() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut device = flannel_1_with(&netlink, |vxlan| {
            vxlan.gbp = true;
            vxlan.learning = true;
            vxlan.port = Some(4789);
        })
        .await?;
        device.mtu = 1400;
        let mtu = KernelOp::SetMtu {
            link: link(),
            mtu: 1300,
        };
        apply(&netlink, &[KernelOp::Create(device), mtu]).await;
        let text = namespace.run(&["ip", "-d", "link", "show", OVERLAY_LINK])?;
        assert!(text.contains("dstport 4789 ttl auto"), "{text}");
        assert!(
            text.contains("gbp") && !text.contains("nolearning"),
            "{text}"
        );
        let observed = netlink.device(OVERLAY_LINK).await?.unwrap();
        assert!(observed.gbp && observed.learning && !observed.up);
        assert_eq!((observed.port, observed.mtu), (Some(4789), 1300));

        // Without a port it is the kernel's own default.
        let ops = [KernelOp::Remove {
            link: link(),
            ifindex: observed.ifindex,
        }];
        apply(&netlink, &ops).await;
        assert_eq!(netlink.device(OVERLAY_LINK).await?, None);
        let device = flannel_1_with(&netlink, |vxlan| vxlan.port = None).await?;
        apply(&netlink, &[KernelOp::Create(device)]).await;
        assert_eq!(
            netlink.device(OVERLAY_LINK).await?.unwrap().port,
            Some(8472)
        );
        Ok(())
    })
}

#[test]
fn a_device_of_another_kind_is_reported_as_what_it_is() -> Result<()> {
    let setup = format!("{UPLINK}\n ip link add name flannel.1 type bridge");
    inside(&setup, async |_, netlink| {
        let observed = observe(&netlink).await?.unwrap().device;
        assert_eq!((observed.kind.as_str(), observed.vni), ("bridge", None));
        Ok(())
    })
}

#[test]
fn an_alternative_name_is_not_our_device() -> Result<()> {
    let setup = format!("{UPLINK}\n ip link property add dev wire altname flannel.1");
    inside(&setup, async |namespace, netlink| {
        assert_eq!(observe(&netlink).await?, None);
        let device = flannel_1(&netlink).await?;
        let errors = netlink.apply(&[KernelOp::Create(device)]).await;
        let [(_, Error::Op { .. })] = &errors[..] else {
            panic!("{errors:?}")
        };
        namespace.link_json("wire")?;
        Ok(())
    })
}

#[test]
fn a_vni_in_use_is_an_error_that_names_the_holder() -> Result<()> {
    let setup = format!(
        "{UPLINK}
         ip link add other type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472
         ip link add elsewhere type vxlan id 1 local 192.0.2.1 dev eth0 dstport 4789
         ip link add cilium_vxlan type vxlan external dstport 8473"
    );
    inside(&setup, async |_, netlink| {
        let mut devices = netlink.vxlan_devices().await?;
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        let seen: Vec<_> = devices
            .iter()
            .map(
                |VxlanDevice {
                     name,
                     vni,
                     port,
                     external,
                     ..
                 }| { (name.as_str(), *vni, *port, *external) },
            )
            .collect();
        assert_eq!(
            seen,
            [
                ("cilium_vxlan", 0, 8473, true),
                ("elsewhere", 1, 4789, false),
                ("other", 1, 8472, false),
            ]
        );

        for port in [Some(8472), None] {
            let device = flannel_1_with(&netlink, |vxlan| vxlan.port = port).await?;
            let errors = netlink.apply(&[KernelOp::Create(device)]).await;
            let [(_, error)] = &errors[..] else {
                panic!("{errors:?}")
            };
            assert_eq!(
                error.to_string(),
                "create vxlan device flannel.1: VNI 1 on UDP port 8472 is in use by other; remove \
                 that device, or set another VNI or Port in the network's backend"
            );
        }
        // Another VNI lives beside it.
        let vni = Vni::new(2)?;
        let device = flannel_1_with(&netlink, |vxlan| vxlan.vni = vni).await?;
        apply(&netlink, &[KernelOp::Create(device)]).await;
        Ok(())
    })
}

#[test]
fn a_port_in_use_is_told_when_the_device_goes_up() -> Result<()> {
    inside(UPLINK, async |_, netlink| {
        let _holder = std::net::UdpSocket::bind(("0.0.0.0", PORT))?;
        let device = flannel_1(&netlink).await?;
        let ops = [KernelOp::Create(device), KernelOp::SetUp(link())];
        let errors = netlink.apply(&ops).await;
        let [(KernelOp::SetUp(_), Error::PortInUse { .. })] = &errors[..] else {
            panic!("{errors:?}")
        };
        Ok(())
    })
}

#[test]
fn a_name_that_is_taken_is_an_error_with_the_kernels_reason() -> Result<()> {
    inside(UPLINK, async |_, netlink| {
        create(&netlink).await?;
        let device = flannel_1(&netlink).await?;
        let errors = netlink.apply(&[KernelOp::Create(device)]).await;
        let [(_, error)] = errors.try_into().unwrap();
        let text = format!("{:#}", anyhow::Error::from(error));
        assert_eq!(text, "create vxlan device flannel.1: File exists");
        Ok(())
    })
}
