//! Leader election by a Lease.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use twill_core::chain::chain;
use twill_core::podcidr::{Candidate, LeaseRecord, Move, Times};

use super::api::{Api, ApiError};

/// The Lease, and our part in it.
pub(super) struct Election {
    api: Api,
    path: String,
    name: String,
    namespace: String,
    times: Times,
    candidate: Candidate,
    begun: Instant,
}

impl Election {
    pub(super) fn new(
        api: Api,
        namespace: &str,
        name: &str,
        times: Times,
        identity: String,
    ) -> Self {
        Self {
            api,
            path: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            times,
            candidate: Candidate::new(identity, times),
            begun: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until we are leader.
    pub(super) async fn win(&mut self) {
        let mut waiting = false;
        loop {
            match self.attempt().await {
                Ok(true) => {
                    info!(
                        lease = self.name,
                        identity = self.candidate.identity(),
                        "leader"
                    );
                    return;
                }
                Ok(false) if !waiting => {
                    info!(lease = self.name, "another controller is leader; waiting");
                    waiting = true;
                }
                Ok(false) => {}
                Err(error) => tell("not leader; trying again", &error),
            }
            sleep(self.times.retry).await;
        }
    }

    /// Renews until we are leader no more.
    pub(super) async fn keep(&mut self) {
        loop {
            sleep(self.times.retry).await;
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => self.candidate.lost(),
                Err(error) => tell("renewing the Lease", &error),
            }
            if !self.candidate.is_leader(self.now()) {
                warn!(lease = self.name, "no leader any more");
                return;
            }
        }
    }

    /// Gives the Lease back, so that another one need not wait.
    pub(super) async fn give_back(&mut self) {
        if !self.candidate.is_leader(self.now()) {
            return;
        }
        self.candidate.lost();
        match self.api.lease(&self.path, &self.name).await {
            Ok(Some(lease)) if record(&lease).holder == self.candidate.identity() => {
                let seconds = Duration::from_secs(1);
                let lease = self.filled(Some(lease), "", seconds, false);
                if let Err(error) = self.api.write_lease(&self.path, &self.name, &lease).await {
                    tell("giving the Lease back", &error);
                }
            }
            Ok(_) => {}
            Err(error) => tell("giving the Lease back", &error),
        }
    }

    /// Whether we are leader after one attempt. That another one was quicker is no error.
    async fn attempt(&mut self) -> Result<bool, ApiError> {
        let begun = self.now();
        let lease = self.api.lease(&self.path, &self.name).await?;
        let seen = lease.as_ref().map(record);
        let Move::Take { taken } = self.candidate.look(seen.as_ref(), self.now()) else {
            return Ok(false);
        };
        let identity = self.candidate.identity().to_owned();
        let lease = self.filled(lease, &identity, self.times.lease, taken);
        match self.api.write_lease(&self.path, &self.name, &lease).await {
            Ok(()) => {
                self.candidate.written(begun);
                Ok(true)
            }
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The Lease with a new holder; what is not known here stays.
    fn filled(&self, lease: Option<Value>, holder: &str, lasts: Duration, taken: bool) -> Value {
        let now = json!(MicroTime(Timestamp::now()));
        let mut lease = lease.unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": { "name": self.name, "namespace": self.namespace },
            })
        });
        let before = lease.get("spec").map_or(0, |_| record(&lease).transitions);
        let is_new = lease.pointer("/metadata/resourceVersion").is_none();
        if !lease["spec"].is_object() {
            lease["spec"] = json!({});
        }
        let spec = &mut lease["spec"];
        spec["holderIdentity"] = holder.into();
        spec["leaseDurationSeconds"] = lasts.as_secs().max(1).into();
        spec["renewTime"] = now.clone();
        if taken {
            spec["acquireTime"] = now;
            spec["leaseTransitions"] = before.saturating_add(u32::from(!is_new)).into();
        }
        lease
    }
}

/// What is in a Lease; what is missing is nothing.
fn record(lease: &Value) -> LeaseRecord {
    let text = |name: &str| {
        let text = lease
            .pointer(&format!("/spec/{name}"))
            .and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let number = |name: &str| {
        let number = lease
            .pointer(&format!("/spec/{name}"))
            .and_then(Value::as_u64);
        number
            .and_then(|it| u32::try_from(it).ok())
            .unwrap_or_default()
    };
    LeaseRecord {
        holder: text("holderIdentity"),
        seconds: number("leaseDurationSeconds"),
        renewed: text("renewTime"),
        transitions: number("leaseTransitions"),
    }
}

fn tell(what: &str, error: &ApiError) {
    warn!(error = chain(error), "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read() {
        let lease = json!({ "spec": {
            "holderIdentity": "a", "leaseDurationSeconds": 15,
            "renewTime": "2026-01-02T03:04:05.000000Z", "leaseTransitions": 2,
        }});
        let expected = LeaseRecord {
            holder: "a".to_owned(),
            seconds: 15,
            renewed: "2026-01-02T03:04:05.000000Z".to_owned(),
            transitions: 2,
        };
        assert_eq!(record(&lease), expected);
        assert_eq!(
            record(&json!({ "spec": { "holderIdentity": null } })),
            LeaseRecord::default()
        );
    }
}
