//! A cluster of three that loses members and leaders, and one that asks who is there.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_agent::store::etcd::{EtcdStore, Options, Tls};
use twill_testbed::agent::Agent;
use twill_testbed::certificates::Certificates;
use twill_testbed::etcd::{Etcd, PREFIX};
use twill_testbed::topology::Underlay;
use twill_testbed::world::NODE_A;
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL, added, attrs, config, inside, listed, removed, value};
use super::watch::follow;

#[test]
fn a_node_stays_with_a_cluster_that_loses_members_and_leaders() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(3, USUAL)?;
    let node = lab.underlay.join("a", NODE_A)?;
    lab.put("10.244.1.0-24", &value(1))?;
    let store = lab.store()?;
    let config = config(USUAL)?;
    let lab = &mut lab;
    inside(node.namespace(), async || {
        let (mut events, stop) = follow(store.clone());
        assert_eq!(listed(&mut events).await?, ["10.244.1.0/24"]);
        // The member that it listens to: the first that answered.
        lab.etcd.kill(0)?;
        lab.etcd.wait_healthy()?;
        lab.put("10.244.2.0-24", &value(2))?;
        // Gone on with from the revision that was reached: nothing is listed again.
        assert_eq!(added(&mut events).await?, "10.244.2.0/24");
        let lease = store.acquire(&config, &attrs(7)?, None).await?;
        assert_eq!(added(&mut events).await?, lease.subnet.to_string());

        lab.etcd.start_again(0)?;
        lab.etcd.wait_healthy()?;
        let before = lab.etcd.leader()?;
        lab.etcd.move_leader()?;
        ensure!(lab.etcd.leader()? != before, "the leader has not moved");
        lab.delete("10.244.1.0-24")?;
        assert_eq!(removed(&mut events).await?, "10.244.1.0/24");

        // One that is left of three has no say: nothing is taken, and nothing is lost.
        lab.etcd.kill(0)?;
        lab.etcd.kill(1)?;
        let another = attrs(8)?;
        let alone = store.acquire(&config, &another, None);
        let alone = tokio::time::timeout(Duration::from_mins(1), alone).await?;
        let error = alone.err().map(|error| error.to_string());
        let text = error.unwrap_or_default();
        ensure!(text.contains("no member of etcd answers"), "{text}");
        lab.etcd.start_again(0)?;
        lab.etcd.start_again(1)?;
        lab.etcd.wait_healthy()?;
        lab.put("10.244.3.0-24", &value(3))?;
        assert_eq!(added(&mut events).await?, "10.244.3.0/24");
        stop.cancel();
        Ok(())
    })
}

#[test]
fn an_etcd_that_does_not_ask_for_a_password_takes_one() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let options = Options {
        user: Some(("twill".to_owned(), "hunter2".into())),
        ..lab.options()
    };
    let config = config(USUAL)?;
    lab.run(async || {
        let store = EtcdStore::new(options)?;
        store.begin().await?;
        store.acquire(&config, &attrs(1)?, None).await?;
        Ok(())
    })
}

/// By the flags of the daemon, whose log shows all of them but one.
#[test]
fn the_daemon_tells_such_an_etcd_who_it_is() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let certificates = Certificates::new()?;
    let mut etcd = Etcd::start_with(&underlay, 1, Some(&certificates))?;
    etcd.configure(USUAL)?;
    etcd.require_user("twill", "hunter2")?;
    let node = underlay.join("a", NODE_A)?;
    certificates.write(&node, NODE_A)?;
    let flag = |name: &str, file: &str| {
        let path = node.directory().join(file);
        format!("--{name}={}", path.display())
    };
    let files = [
        flag("etcd-cafile", "ca.pem"),
        flag("etcd-certfile", "cert.pem"),
        flag("etcd-keyfile", "key.pem"),
    ];
    let mut flags = vec!["--etcd-username=twill", "-v=4"];
    flags.extend(files.iter().map(String::as_str));
    let mut agent = Agent::on_etcd(&node, &etcd.endpoints(), &flags);
    for by in ["a flag", "a variable"] {
        if by == "a flag" {
            agent.set_flags(&[&flags[..], &["--etcd-password=hunter2"]].concat());
        } else {
            agent.set_flags(&flags);
            agent.set_variable("FLANNELD_ETCD_PASSWORD", "hunter2");
        }
        agent.start_again()?;
        let env = agent.wait_ready_for(PATIENCE)?;
        let key = env.prefix().to_string().replace('/', "-");
        let leases = etcd.leases()?;
        ensure!(leases.len() == 1 && leases[0].0 == key, "{leases:?}");
        ensure!(agent.stop()?.success(), "{}", agent.log_tail());
        let log = fs::read_to_string(node.directory().join("twilld.log"))?;
        ensure!(log.contains("[redacted]"), "no flags in the log");
        ensure!(!log.contains("hunter2"), "the password, by {by}");
    }
    Ok(())
}

#[test]
fn etcd_may_ask_for_certificates_and_passwords() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let certificates = Certificates::new()?;
    let mut etcd = Etcd::start_with(&underlay, 1, Some(&certificates))?;
    etcd.configure(USUAL)?;
    etcd.require_user("twill", "hunter2")?;
    let node = underlay.join("a", NODE_A)?;
    certificates.write(&node, NODE_A)?;
    let file = |name: &str| node.directory().join(name);
    let right = Options {
        tls: Tls {
            authority: Some(file("ca.pem")),
            identity: Some((file("cert.pem"), file("key.pem"))),
        },
        user: Some(("twill".to_owned(), "hunter2".into())),
        ..Options::new(&etcd.endpoints(), PREFIX)
    };
    let config = config(USUAL)?;
    inside(node.namespace(), async || {
        let store = EtcdStore::new(right.clone())?;
        let (mut events, stop) = follow(store.clone());
        assert_eq!(listed(&mut events).await?.len(), 0);
        let lease = store.acquire(&config, &attrs(1)?, None).await?;
        assert_eq!(added(&mut events).await?, lease.subnet.to_string());
        stop.cancel();

        let wrong = [
            Options {
                user: Some(("twill".to_owned(), "swordfish".into())),
                ..right.clone()
            },
            Options {
                user: None,
                ..right.clone()
            },
            Options {
                tls: Tls {
                    identity: None,
                    ..right.tls.clone()
                },
                ..right.clone()
            },
            // An authority that has not signed etcd's certificate.
            Options {
                tls: Tls {
                    authority: None,
                    ..right.tls.clone()
                },
                ..right.clone()
            },
            Options {
                tls: Tls {
                    authority: Some(file("missing.pem")),
                    ..right.tls.clone()
                },
                ..right.clone()
            },
        ];
        for options in wrong {
            let shown = format!("{options:?}");
            let error = EtcdStore::new(options)?.begin().await.err();
            let text = error.map(|error| error.to_string()).unwrap_or_default();
            ensure!(!text.is_empty(), "taken: {shown}");
            ensure!(!text.contains("swordfish"), "{text}");
        }
        Ok(())
    })
}
