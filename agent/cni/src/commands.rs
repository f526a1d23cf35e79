//! ADD, CHECK, DEL, GC and STATUS.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{NetConf, Object};
use crate::delegate;
use crate::error::{Code, PluginError};
use crate::fast_path;
use crate::invoke;
use crate::protocol::{self, Call, Command};
use crate::state::State;
use crate::subnet_env::SubnetEnv;
use crate::version::Version;

/// The plugin itself, as configs name it: as its own delegate it would call itself for ever.
pub(crate) const OURSELVES: &str = "flannel";
/// The link of a pod whose own name for it is not known any more: what container runtimes give.
const USUAL_LINK: &str = "eth0";

/// Does what the runtime asks for, and gives what is printed.
pub(crate) fn run(call: &Call, input: &[u8]) -> Result<Vec<u8>, PluginError> {
    let name = the_name(input)?;
    protocol::is_network(&name)?;
    let conf = NetConf::parse(input)?;
    let version = Version::parse(&conf.version)?;
    match call.command {
        Command::Add => add(call, &conf),
        Command::Check => {
            since(version, Version::WITH_CHECK, call.command)?;
            check(call, &conf)
        }
        Command::Del => del(call, &conf),
        Command::Gc => {
            since(version, Version::WITH_GC, call.command)?;
            gc(call, &conf)
        }
        Command::Status => {
            since(version, Version::WITH_GC, call.command)?;
            status(call, &conf)
        }
        Command::Version => Ok(crate::version::reply()),
    }
}

/// What every plugin's config must have, before it is looked at further.
fn the_name(input: &[u8]) -> Result<String, PluginError> {
    let config: Value = serde_json::from_slice(input).map_err(|error| {
        let words = format!("error unmarshall network config: {error}");
        PluginError::new(Code::Decoding, words)
    })?;
    let name = config.get("name").and_then(Value::as_str);
    Ok(name.unwrap_or_default().to_owned())
}

fn since(version: Version, first: Version, command: Command) -> Result<(), PluginError> {
    if version >= first {
        return Ok(());
    }
    let words = format!("config version does not allow {}", command.name());
    Err(PluginError::new(Code::IncompatibleVersion, words))
}

fn add(call: &Call, conf: &NetConf) -> Result<Vec<u8>, PluginError> {
    not_our_own(call)?;
    let env = subnet_env(conf)?;
    let delegate = delegate_of(conf, &env)?;
    let kind = plugin(&delegate)?;
    let text = Value::Object(delegate.clone()).to_string();
    // Before the delegate runs: what it leaves behind when it fails is taken away by DEL.
    State(&conf.data_dir)
        .save(&call.container, text.as_bytes())
        .map_err(|error| error.within("failed to delegate add"))?;
    say(&format!(
        "delegateAdd: netconf sent to delegate plugin:\n{text}"
    ));
    let result = invoke::run(call, Command::Add, kind, text.as_bytes(), &[])
        .map_err(|error| error.within("failed to delegate add"))?;
    fast_path::enter(conf, &env, &result);
    Ok(result)
}

/// Whether the pod is as ADD left it: the delegate says so, of the config that it had then.
fn check(call: &Call, conf: &NetConf) -> Result<Vec<u8>, PluginError> {
    let Some(mut delegate) = kept(conf, &call.container)? else {
        let words = format!(
            "nothing is kept of the container in {}",
            conf.data_dir.display()
        );
        return Err(PluginError::new(Code::UnknownContainer, words));
    };
    let Some(result) = &conf.prev_result else {
        let words = "CHECK needs the \"prevResult\" of ADD";
        return Err(PluginError::new(Code::InvalidConfig, words));
    };
    delegate.insert("prevResult".to_owned(), result.clone());
    let text = Value::Object(delegate.clone()).to_string();
    invoke::run(
        call,
        Command::Check,
        plugin(&delegate)?,
        text.as_bytes(),
        &[],
    )
}

/// A pod of which nothing is kept is gone. What is kept stays until the delegate has done its
/// part, so that the runtime's next try finds it (flannel's plugin forgets it, and leaks).
fn del(call: &Call, conf: &NetConf) -> Result<Vec<u8>, PluginError> {
    detach(call, conf, &call.container, &[])?;
    fast_path::leave(conf);
    Ok(Vec::new())
}

fn detach(
    call: &Call,
    conf: &NetConf,
    container: &str,
    others: &[(&str, &str)],
) -> Result<(), PluginError> {
    let delegate = match kept(conf, container) {
        Ok(None) => return Ok(()),
        Ok(Some(delegate)) => delegate,
        // As flannel does: it would be unreadable at the next try as well.
        Err(error) => {
            say(&format!("DEL of {container}: {error}; nothing to hand on"));
            return Ok(());
        }
    };
    let text = Value::Object(delegate.clone()).to_string();
    invoke::run(
        call,
        Command::Del,
        plugin(&delegate)?,
        text.as_bytes(),
        others,
    )?;
    State(&conf.data_dir).remove(container)
}

/// Detaches what belongs to no attachment that lives, then lets the delegate do the same. The
/// files of other networks in the same folder are theirs. Where the runtime does not say what
/// lives (libcni 1.3 leaves the list out where it has none), nothing of ours is garbage.
fn gc(call: &Call, conf: &NetConf) -> Result<Vec<u8>, PluginError> {
    let mut failures = Vec::new();
    if let Some(valid) = &conf.valid_attachments {
        let living = containers_in(valid)?;
        for container in State(&conf.data_dir).containers()? {
            if living.contains(&container) || !is_of(conf, &container) {
                continue;
            }
            let pod = [
                ("CNI_CONTAINERID", container.as_str()),
                ("CNI_IFNAME", USUAL_LINK),
                ("CNI_NETNS", ""),
            ];
            if let Err(error) = detach(call, conf, &container, &pod) {
                failures.push(format!("{container}: {error}"));
            }
        }
    } else {
        say("GC without \"cni.dev/valid-attachments\": no container is taken for gone");
    }
    if let Ok(mut delegate) = delegate_now(conf) {
        if let Some(valid) = &conf.valid_attachments {
            delegate.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
        }
        if let Err(error) = ask(call, Command::Gc, &delegate) {
            failures.push(error.to_string());
        }
    }
    fast_path::leave(conf);
    if failures.is_empty() {
        return Ok(Vec::new());
    }
    Err(PluginError::new(Code::Internal, "garbage is left").with_details(failures.join("; ")))
}

/// Whether what is kept of a container is of this network.
fn is_of(conf: &NetConf, container: &str) -> bool {
    let kept = kept(conf, container).ok().flatten();
    kept.is_some_and(|delegate| delegate.get("name") == Some(&json!(conf.name)))
}

/// The containers of `[{"containerID": …, "ifname": …}]`. Anything else is refused: taken for an
/// empty list it would detach every pod.
fn containers_in(valid: &Value) -> Result<Vec<String>, PluginError> {
    let refused = || {
        let words = "\"cni.dev/valid-attachments\" must be a list of {\"containerID\", \"ifname\"}";
        PluginError::new(Code::InvalidConfig, words)
    };
    let container = |attachment: &Value| {
        let container = attachment.get("containerID").and_then(Value::as_str);
        container.map(ToOwned::to_owned).ok_or_else(refused)
    };
    let list = valid.as_array().ok_or_else(refused)?;
    list.iter().map(container).collect()
}

/// Whether an ADD could succeed: the daemon has written the subnet, and the delegate is willing.
fn status(call: &Call, conf: &NetConf) -> Result<Vec<u8>, PluginError> {
    let not_available =
        |error: PluginError| PluginError::new(Code::NotAvailable, error.to_string());
    let delegate = delegate_now(conf).map_err(not_available)?;
    ask(call, Command::Status, &delegate)?;
    Ok(Vec::new())
}

/// Asks a delegate that may be older than the command.
fn ask(call: &Call, command: Command, delegate: &Object) -> Result<(), PluginError> {
    let text = Value::Object(delegate.clone()).to_string();
    match invoke::run(call, command, plugin(delegate)?, text.as_bytes(), &[]) {
        Err(error) if !error.is_unknown_command() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The delegate's config by what the node's subnet is now.
fn delegate_now(conf: &NetConf) -> Result<Object, PluginError> {
    delegate_of(conf, &subnet_env(conf)?)
}

fn subnet_env(conf: &NetConf) -> Result<SubnetEnv, PluginError> {
    SubnetEnv::load(&conf.subnet_file).map_err(|error| {
        let words = format!(
            "failed to load flannel 'subnet.env' file: {error}. Check the flannel pod log for this node."
        );
        PluginError::new(Code::Internal, words)
    })
}

fn delegate_of(conf: &NetConf, env: &SubnetEnv) -> Result<Object, PluginError> {
    delegate::config(conf, env).map_err(|error| PluginError::new(Code::Internal, error.to_string()))
}

/// What was handed to the delegate at ADD.
fn kept(conf: &NetConf, container: &str) -> Result<Option<Object>, PluginError> {
    let Some(text) = State(&conf.data_dir).load(container)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&text) {
        Ok(Value::Object(delegate)) => Ok(Some(delegate)),
        Ok(_) => Err(PluginError::new(
            Code::Decoding,
            "what was kept is no object",
        )),
        Err(error) => Err(PluginError::new(
            Code::Decoding,
            format!("failed to parse netconf: {error}"),
        )),
    }
}

fn plugin(delegate: &Object) -> Result<&str, PluginError> {
    let kind = delegate::plugin(delegate)
        .map_err(|error| PluginError::new(Code::InvalidConfig, error.to_string()))?;
    if kind == OURSELVES {
        let words = "'delegate' must be another plugin than flannel, as bridge";
        return Err(PluginError::new(Code::InvalidConfig, words));
    }
    Ok(kind)
}

/// A pod in our own namespace would be the host. One that cannot be looked at is the delegate's
/// to refuse.
fn not_our_own(call: &Call) -> Result<(), PluginError> {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let ours = identity(Path::new("/proc/self/ns/net"));
    if call.own_netns_allowed || ours.is_none() || identity(Path::new(&call.netns)) != ours {
        return Ok(());
    }
    let words = "plugin's netns and netns from CNI_NETNS should not be the same";
    Err(PluginError::new(Code::InvalidNetns, words))
}

/// For the runtime's log. Where it cannot be written there is nobody to tell.
pub(crate) fn say(text: &str) {
    let _told = writeln!(io::stderr(), "{text}");
}
