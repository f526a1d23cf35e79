//! A lease that etcd does not let the node write: told, with what to do, long before its end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use twill_agent::store::etcd::{EtcdStore, Options};
use twill_agent::store::{Contact, Store};
use twill_core::condition::{Condition, NotRenewed, StoreFailure};
use twill_testbed::agent::Agent;
use twill_testbed::netns::Namespace;
use twill_testbed::wait::wait_for;
use twill_testbed::world::NODE_A;
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL, attrs, config};

const USER: [&str; 2] = ["twill", "hunter2"];
const PORT: u16 = 10_245;

/// A keeper whose lease is due soon, and what it tells when `harm` was done to etcd, and when it
/// was made good.
fn check(
    cause: StoreFailure,
    harm: impl FnOnce(&mut Lab) -> Result<()> + Send,
    mend: impl FnOnce(&Lab) -> Result<()> + Send,
) -> Result<()> {
    let mut lab = Lab::new(1, USUAL)?;
    let [name, password] = USER;
    lab.etcd.require_user(name, password)?;
    let options = Options {
        user: Some((name.to_owned(), password.into())),
        term: Duration::from_mins(1),
        margin: Duration::from_secs(59),
        ..lab.options()
    };
    let host = std::sync::Arc::clone(lab.etcd.host(0).namespace());
    super::lab::inside(&host, async || {
        let store = EtcdStore::new(options)?;
        let mine = attrs(1)?;
        let lease = store.acquire(&config(USUAL)?, &mine, None).await?;
        harm(&mut lab)?;
        let (_attrs, published) = watch::channel(mine);
        let stop = CancellationToken::new();
        let keeper = {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move { store.keep(lease, published, stop).await })
        };
        let told = until(&store, |told| told.is_some()).await?;
        let Some(Condition::LeaseNotRenewed(NotRenewed {
            cause: found,
            said,
            left,
        })) = told
        else {
            anyhow::bail!("{told:?}");
        };
        ensure!(found == cause, "{found:?}: {said}");
        ensure!(
            left.is_some_and(|left| left <= Duration::from_mins(1)),
            "{left:?}"
        );
        let contact = contact(&store);
        ensure!(contact.failed_renewals > 0, "not counted");
        mend(&lab)?;
        until(&store, |told| told.is_none()).await?;
        stop.cancel();
        keeper.await?;
        Ok(())
    })
}

fn contact(store: &EtcdStore) -> Contact {
    Store::Etcd(store.clone()).contact()
}

async fn until(
    store: &EtcdStore,
    so: impl Fn(Option<&Condition>) -> bool,
) -> Result<Option<Condition>> {
    let end = tokio::time::Instant::now() + 2 * PATIENCE;
    loop {
        let told = contact(store).condition();
        if so(told.as_ref()) {
            return Ok(told);
        }
        ensure!(tokio::time::Instant::now() < end, "still {told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_password_that_was_changed_is_told() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let [name, password] = USER;
    check(
        StoreFailure::Unauthenticated,
        |lab| lab.etcd.set_password(name, "another"),
        |lab| lab.etcd.set_password(name, password),
    )
}

#[test]
fn a_role_that_may_only_read_is_told() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check(
        StoreFailure::Denied,
        |lab| lab.etcd.only_reads(),
        |lab| {
            let grant = [
                "role",
                "grant-permission",
                "--prefix=true",
                "flannel",
                "readwrite",
            ];
            let prefix = [twill_testbed::etcd::PREFIX];
            lab.etcd.ctl(&[&grant[..], &prefix].concat()).map(drop)
        },
    )
}

#[test]
fn an_etcd_that_is_full_is_told() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check(
        StoreFailure::Full,
        |lab| lab.etcd.fill(),
        |lab| lab.etcd.make_room(),
    )
}

/// Status line and body.
fn ask(node: &Namespace, path: &str) -> Result<(String, String)> {
    let text = node.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// Status, `/readyz`, metric and log say it at once: other nodes send such a node nothing.
#[test]
fn a_lease_that_is_gone_and_cannot_be_taken_again_is_no_readiness() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let [name, password] = USER;
    lab.etcd.require_user(name, password)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let port = format!("-healthz-port={PORT}");
    let flags = ["-etcd-username=twill", "-etcd-password=hunter2", &port];
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &flags);
    agent.start_again()?;
    let env = agent.wait_ready_for(PATIENCE)?;
    let key = env.prefix().to_string().replace('/', "-");
    let node = node.namespace();
    let wait = |what: &str, gone: bool| {
        wait_for(what, 2 * PATIENCE, || {
            let (line, _) = ask(node, "/readyz")?;
            let (_, metrics) = ask(node, "/metrics")?;
            let metric = format!("twill_condition{{kind=\"lease_gone\"}} {}", i32::from(gone));
            let so = line.contains(if gone { "503" } else { "200" }) && metrics.contains(&metric);
            Ok(so.then_some(metrics))
        })
    };
    wait("the node is ready", false)?;

    lab.etcd.set_password(name, "another")?;
    let (_, lease) = lab.get(&key)?.context("no lease")?;
    lab.etcd.ctl(&["lease", "revoke", &format!("{lease:x}")])?;
    let metrics = wait("the lease is gone", true)?;
    ensure!(
        metrics.contains("twill_errors_total{kind=\"lease_renewal\"}"),
        "{metrics}"
    );
    let told = agent.status()?;
    let condition = &told["status"]["conditions"][0];
    ensure!(condition["not_ready"] == true, "{condition}");
    let text = condition["text"].as_str().unwrap_or_default();
    ensure!(
        text.contains("authentication failed") && text.contains("--etcd-password"),
        "{text}"
    );
    ensure!(
        agent.log_tail().contains("condition=\"lease_gone\""),
        "{}",
        agent.log_tail()
    );

    lab.etcd.set_password(name, password)?;
    wait("the lease is taken again", false)?;
    ensure!(lab.get(&key)?.is_some(), "no lease");
    Ok(())
}
