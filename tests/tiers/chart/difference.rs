//! In what two sets of objects differ, place by place.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::helm::{Objects, named};

/// One place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Difference {
    /// As `DaemonSet/kube-flannel-ds spec.template.spec.containers[kube-flannel].image`.
    pub(crate) place: String,
    pub(crate) flannel: Option<Value>,
    pub(crate) twill: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| {
            let text = value.as_ref().map(Value::to_string);
            text.unwrap_or_else(|| "nothing".to_owned())
        };
        write!(
            f,
            "{}\n    flannel: {}\n    twill:   {}",
            self.place,
            show(&self.flannel),
            show(&self.twill)
        )
    }
}

/// Every place in which they differ, roles by the rights that they give.
pub(crate) fn differences(flannel: &Objects, twill: &Objects) -> Vec<Difference> {
    let mut found = Vec::new();
    let names: BTreeSet<&String> = flannel.keys().chain(twill.keys()).collect();
    for name in names {
        let (left, right) = (flannel.get(name), twill.get(name));
        if let (true, Some(left), Some(right)) = (name.starts_with("ClusterRole/"), left, right) {
            let (left, right) = (rights(left), rights(right));
            let only = |right: &str, flannel: bool| Difference {
                place: format!("{name} {right}"),
                flannel: flannel.then_some(Value::Bool(true)),
                twill: (!flannel).then_some(Value::Bool(true)),
            };
            found.extend(left.difference(&right).map(|it| only(it, true)));
            found.extend(right.difference(&left).map(|it| only(it, false)));
            continue;
        }
        walk(&mut found, &format!("{name} "), left, right);
    }
    found
}

/// The rights of a role, each as `group/resource:verb`.
pub(crate) fn rights(role: &Value) -> BTreeSet<String> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule.get(key).and_then(Value::as_array);
        let words = list.into_iter().flatten().filter_map(Value::as_str);
        words.map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    rights.insert(format!("{group}/{resource}:{verb}"));
                }
            }
        }
    }
    rights
}

fn walk(found: &mut Vec<Difference>, place: &str, left: Option<&Value>, right: Option<&Value>) {
    match (left, right) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let dot = if place.ends_with(' ') { "" } else { "." };
                let place = format!("{place}{dot}{key}");
                walk(found, &place, left.get(key), right.get(key));
            }
        }
        (Some(left), Some(right)) if is_named(left) && is_named(right) => {
            let mut names = names(left);
            names.extend(
                self::names(right)
                    .into_iter()
                    .filter(|it| !named(left, it).is_some_and(|_| true)),
            );
            for name in names {
                let member = |list| named(list, &name).cloned().map(Value::Object);
                let place = format!("{place}[{name}]");
                walk(found, &place, member(left).as_ref(), member(right).as_ref());
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(Difference {
            place: place.to_owned(),
            flannel: left.cloned(),
            twill: right.cloned(),
        }),
    }
}

/// Whether it is a list whose members have names, as containers are.
fn is_named(list: &Value) -> bool {
    let members = list.as_array();
    members.is_some_and(|members| {
        !members.is_empty() && members.iter().all(|it| it.get("name").is_some())
    })
}

fn names(list: &Value) -> Vec<String> {
    let members = list.as_array().into_iter().flatten();
    let names = members.filter_map(|it| it.get("name").and_then(Value::as_str));
    names.map(str::to_owned).collect()
}
