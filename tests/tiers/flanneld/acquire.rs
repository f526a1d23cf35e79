//! How nodes get their subnets.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use twill_agent::store::etcd::Error;
use twill_tests::required;

use super::lab::{Lab, USUAL, attrs, config, subnet, value};

/// As many subnets as there are nodes.
const TIGHT: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0",
    "SubnetMax":"10.244.100.0","Backend":{"Type":"vxlan"}}"#;
const NODES: u32 = 100;
const TWO: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0",
        "SubnetMax":"10.244.2.0","Backend":{"Type":"vxlan"}}"#;
const ONE: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.77.0",
        "SubnetMax":"10.244.77.0","Backend":{"Type":"vxlan"}}"#;

#[test]
fn a_hundred_nodes_that_start_at_once_get_a_subnet_each() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, TIGHT)?;
    lab.run(async || {
        let mut nodes = tokio::task::JoinSet::new();
        for n in 0..NODES {
            let (store, attrs) = (lab.store()?, attrs(n)?);
            nodes.spawn(async move {
                let config = store.begin().await?.config;
                store.acquire(&config, &attrs, None).await
            });
        }
        let mut subnets = BTreeSet::new();
        while let Some(node) = nodes.join_next().await {
            let lease = node??;
            ensure!(subnets.insert(lease.subnet), "{} twice", lease.subnet);
        }
        ensure!(subnets.len() == 100, "{subnets:?}");
        // What was granted to those who came too late was given back.
        let granted = lab.etcd.ctl(&["lease", "list"])?;
        ensure!(granted.lines().count() == 101, "{granted}");
        // Nothing is left.
        let config = lab.store()?.begin().await?.config;
        let refused = lab.store()?.acquire(&config, &attrs(NODES)?, None).await;
        ensure!(matches!(refused, Err(Error::Allocate(_))), "{refused:?}");
        Ok(())
    })?;
    ensure!(lab.etcd.leases()?.len() == 100);
    Ok(())
}

#[test]
fn keys_and_values_are_flannels_and_a_node_keeps_its_subnet() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let config = config(USUAL)?;
    lab.run(async || {
        let store = lab.store()?;
        let (previous, mine) = (subnet("10.244.7.0/24")?, attrs(1)?);
        let lease = store.acquire(&config, &mine, Some(previous)).await?;
        ensure!(lease.subnet == previous, "{lease:?}");
        ensure!(lease.ttl_seconds == Some(86_400), "{lease:?}");
        assert_eq!(lab.etcd.leases()?, [("10.244.7.0-24".to_owned(), value(1))]);
        let (_, first) = lab.get("10.244.7.0-24")?.unwrap_or_default();
        let told = lab
            .etcd
            .ctl(&["lease", "timetolive", &format!("{first:x}")])?;
        ensure!(told.contains("granted with TTL(86400s)"), "{told}");

        // Again, as after a restart: the same subnet with a new term.
        let lease = store.acquire(&config, &mine, None).await?;
        ensure!(lease.subnet == previous, "{lease:?}");
        let (_, second) = lab.get("10.244.7.0-24")?.unwrap_or_default();
        ensure!(second != first && second != 0, "{first:x} {second:x}");

        // Another node's is not taken, whatever this one had before.
        let lease = store.acquire(&config, &attrs(2)?, Some(previous)).await?;
        ensure!(lease.subnet != previous, "{lease:?}");
        assert_eq!(lab.etcd.leases()?.len(), 2);
        Ok(())
    })
}

#[test]
fn a_lease_that_the_config_has_no_place_for_is_replaced() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.put("10.244.9.0-25", &value(1))?;
    lab.put("10.250.9.0-24", &value(2))?;
    let lease = lab.etcd.ctl(&["lease", "grant", "1000"])?;
    let id = lease.split_whitespace().nth(1).unwrap_or_default();
    for (key, n) in [("10.244.9.128-25", 1), ("10.251.9.0-24", 3)] {
        let key = format!("{}/subnets/{key}", twill_testbed::etcd::PREFIX);
        let put = ["put", &key, &value(n), &format!("--lease={id}")];
        lab.etcd.ctl(&put)?;
    }
    let config = config(USUAL)?;
    let lease = lab.run(async || Ok(lab.store()?.acquire(&config, &attrs(1)?, None).await?))?;
    let keys: Vec<String> = lab.etcd.leases()?.into_iter().map(|(key, _)| key).collect();
    // Its own lease is gone; reservations and what is another's stay.
    let mut expected = vec![
        "10.244.9.0-25".to_owned(),
        "10.250.9.0-24".to_owned(),
        "10.251.9.0-24".to_owned(),
        lease.subnet.to_key(),
    ];
    expected.sort();
    assert_eq!(keys, expected);
    Ok(())
}

#[test]
fn a_reservation_is_kept_for_its_node_and_stays_one() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, ONE)?;
    lab.put("10.244.77.0-24", r#"{"PublicIP":"198.18.0.2"}"#)?;
    let config = config(ONE)?;
    lab.run(async || {
        let store = lab.store()?;
        let refused = store.acquire(&config, &attrs(2)?, None).await;
        ensure!(matches!(refused, Err(Error::Allocate(_))), "{refused:?}");
        let lease = store.acquire(&config, &attrs(1)?, None).await?;
        ensure!(lease.subnet == subnet("10.244.77.0/24")?, "{lease:?}");
        ensure!(lease.ttl_seconds.is_none(), "{lease:?}");
        Ok(())
    })?;
    assert_eq!(lab.get("10.244.77.0-24")?, Some((value(1), 0)));
    Ok(())
}

#[test]
fn rubbish_takes_its_subnet_and_harms_nobody() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, TWO)?;
    lab.put("10.244.1.0-24", "rubbish")?;
    lab.put("what-is-this", &value(9))?;
    lab.put("10.244.2.0-24/x", &value(9))?;
    let config = config(TWO)?;
    let lease = lab.run(async || Ok(lab.store()?.acquire(&config, &attrs(1)?, None).await?))?;
    ensure!(lease.subnet == subnet("10.244.2.0/24")?, "{lease:?}");
    assert_eq!(lab.etcd.leases()?.len(), 4);
    Ok(())
}

#[test]
fn what_is_missing_is_said() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.etcd.ctl(&["del", "--prefix", "/"])?;
    let error = lab.run(async || {
        let begun = lab.store()?.begin().await;
        Ok(begun.err().map(|error| error.to_string()))
    })?;
    let text = error.unwrap_or_default();
    let expected = "flannel config not found in etcd store. \
        Did you create your config using etcdv3 API?";
    ensure!(text.starts_with(expected), "{text}");
    Ok(())
}
