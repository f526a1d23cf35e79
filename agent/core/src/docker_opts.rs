//! Docker's options from `subnet.env`, as flannel's `dist/mk-docker-opts.sh` makes them
//! (flannel 0.28.9).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use thiserror::Error;

use crate::subnet_env::entries;

/// What options have in common, as variables of the environment or of the file.
const OPTION: &str = "DOCKER_OPT_";

/// What is written, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Form {
    /// A line for each option.
    pub individual: bool,
    /// One line with all options, under this name.
    pub combined: Option<String>,
    /// Whether `--ip-masq` is among the options.
    pub ip_masq: bool,
}

/// A `subnet.env` that options cannot be made from.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum DockerOptsError {
    /// Not an address with a prefix length.
    #[error("FLANNEL_SUBNET is {0:?}; it should be as 10.244.1.1/24")]
    Subnet(String),
    /// Not a number.
    #[error("FLANNEL_MTU is {0:?}; it should be a number of bytes, as 1450")]
    Mtu(String),
    /// Neither true nor false, in the script's words.
    #[error("Invalid value of FLANNEL_IPMASQ: {0}; it should be true or false")]
    IpMasq(String),
    /// Something that would end the quotes that it is written in.
    #[error("{0} has a quote, a backslash, a dollar sign or a control character in it")]
    Unquotable(String),
}

/// Options, ready to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DockerOpts {
    /// The text of the file.
    pub text: String,
    /// The bridge's address with its prefix length, where `subnet.env` has one.
    pub bridge: Option<Ipv4Network>,
}

/// Makes the options of a `subnet.env`. Options that are in `environment` or in the file as
/// `DOCKER_OPT_*`, and a value that the combined name has, are taken over.
pub fn docker_opts(
    subnet_env: &str,
    environment: &BTreeMap<String, String>,
    form: &Form,
) -> Result<DockerOpts, DockerOptsError> {
    let mut variables = environment.clone();
    variables.extend(entries(subnet_env).map(|(key, value)| (key.to_owned(), value.to_owned())));
    let value = |name: &str| variables.get(name).filter(|value| !value.is_empty());

    let bridge = value("FLANNEL_SUBNET")
        .map(|text| bridge(text))
        .transpose()?;
    let mut options: BTreeMap<String, String> = variables
        .iter()
        .filter(|(name, _)| name.starts_with(OPTION))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(bridge) = bridge {
        options.insert(format!("{OPTION}BIP"), format!("--bip={bridge}"));
    }
    if let Some(text) = value("FLANNEL_MTU") {
        let mtu: u32 = text
            .parse()
            .map_err(|_not_a_number| DockerOptsError::Mtu(text.clone()))?;
        options.insert(format!("{OPTION}MTU"), format!("--mtu={mtu}"));
    }
    if let Some(text) = value("FLANNEL_IPMASQ").filter(|_| form.ip_masq) {
        // Docker masquerades where flannel does not.
        let docker_does = match text.as_str() {
            "true" => false,
            "false" => true,
            _ => return Err(DockerOptsError::IpMasq(text.clone())),
        };
        options.insert(
            format!("{OPTION}IPMASQ"),
            format!("--ip-masq={docker_does}"),
        );
    }

    let mut text = String::new();
    if form.individual {
        for (name, value) in &options {
            text.push_str(&line(name, value)?);
        }
    }
    if let Some(name) = &form.combined {
        let before = value(name).map_or_else(String::new, |before| format!("{before} "));
        let all: Vec<String> = options
            .values()
            .map(|option| format!(" {option}"))
            .collect();
        text.push_str(&line(name, &(before + &all.concat()))?);
    }
    Ok(DockerOpts { text, bridge })
}

fn bridge(text: &str) -> Result<Ipv4Network, DockerOptsError> {
    let wrong = || DockerOptsError::Subnet(text.to_owned());
    let bridge: Ipv4Network = text.parse().map_err(|_error| wrong())?;
    let usable = text.contains('/') && bridge.ip() != Ipv4Addr::UNSPECIFIED;
    usable.then_some(bridge).ok_or_else(wrong)
}

fn line(name: &str, value: &str) -> Result<String, DockerOptsError> {
    let breaks_out = |c: char| matches!(c, '"' | '\\' | '$' | '`') || c.is_control();
    if value.contains(breaks_out) {
        return Err(DockerOptsError::Unquotable(name.to_owned()));
    }
    Ok(format!("{name}=\"{value}\"\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = "FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
";

    fn form(individual: bool, combined: &str, ip_masq: bool) -> Form {
        Form {
            individual,
            combined: (!combined.is_empty()).then(|| combined.to_owned()),
            ip_masq,
        }
    }

    fn text(subnet_env: &str, environment: &[(&str, &str)], form: &Form) -> String {
        let environment = environment
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        docker_opts(subnet_env, &environment, form).unwrap().text
    }

    /// The cases of flannel's `dist/mk_docker_opts_test.go`.
    #[test]
    fn flannel_s_own_cases() {
        let individual = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n\
                          DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n\
                          DOCKER_OPT_MTU=\"--mtu=1472\"\n";
        let combined = "\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";
        for (form, expected) in [
            (
                form(true, "DOCKER_OPTS", true),
                format!("{individual}DOCKER_OPTS={combined}"),
            ),
            (form(true, "", true), individual.to_owned()),
            (
                form(false, "DOCKER_OPTS", true),
                format!("DOCKER_OPTS={combined}"),
            ),
            (
                form(true, "CUSTOM_KEY", true),
                format!("{individual}CUSTOM_KEY={combined}"),
            ),
            (
                form(true, "DOCKER_OPTS", false),
                "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n\
                 DOCKER_OPT_MTU=\"--mtu=1472\"\n\
                 DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"
                    .to_owned(),
            ),
        ] {
            assert_eq!(text(SAMPLE, &[], &form), expected);
        }
    }

    #[test]
    fn docker_masquerades_where_flannel_does_not() {
        let env = SAMPLE.replace("false", "true");
        let said = text(&env, &[], &form(false, "X", true));
        assert!(said.contains("--ip-masq=false"), "{said}");
    }

    #[test]
    fn what_is_there_already_is_taken_over() {
        let environment = [
            ("DOCKER_OPT_LOG", "--log-level=warn"),
            ("DOCKER_OPTS", "--debug"),
            ("DOCKER_OPT_MTU", "--mtu=1"),
            ("HOME", "/root"),
        ];
        assert_eq!(
            text(SAMPLE, &environment, &form(false, "DOCKER_OPTS", false)),
            "DOCKER_OPTS=\"--debug  --bip=10.1.74.1/24 --log-level=warn --mtu=1472\"\n"
        );
        assert_eq!(
            text("", &[], &form(false, "DOCKER_OPTS", true)),
            "DOCKER_OPTS=\"\"\n"
        );
    }

    #[test]
    fn what_docker_could_not_use_is_an_error() {
        for (env, expected) in [
            (
                "FLANNEL_IPMASQ=maybe",
                "Invalid value of FLANNEL_IPMASQ: maybe; it should be true or false",
            ),
            (
                "FLANNEL_SUBNET=10.1.74.1",
                "FLANNEL_SUBNET is \"10.1.74.1\"; it should be as 10.244.1.1/24",
            ),
            (
                "FLANNEL_SUBNET=10.1.74.1/24,10.1.75.1/24",
                "FLANNEL_SUBNET is \"10.1.74.1/24,10.1.75.1/24\"; it should be as 10.244.1.1/24",
            ),
            (
                "FLANNEL_MTU=1472;reboot",
                "FLANNEL_MTU is \"1472;reboot\"; it should be a number of bytes, as 1450",
            ),
            (
                "DOCKER_OPT_X=$(reboot)",
                "DOCKER_OPT_X has a quote, a backslash, a dollar sign or a control character in it",
            ),
        ] {
            let error = docker_opts(env, &BTreeMap::new(), &form(true, "", true)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        // As with the script: what is not to be written is not looked at.
        assert_eq!(
            text("FLANNEL_IPMASQ=maybe", &[], &form(true, "", false)),
            ""
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_one_quoted_line_each(noise in "\\PC*", value in "[\"'#$ \t0-9./]*") {
            let env = format!("{noise}\nFLANNEL_SUBNET=10.1.2.1/24\nDOCKER_OPT_X={value}\n");
            if let Ok(made) = docker_opts(&env, &BTreeMap::new(), &form(true, "ALL", true)) {
                for line in made.text.lines() {
                    prop_assert_eq!(line.matches('"').count(), 2, "{}", line);
                }
            }
        }
    }
}
