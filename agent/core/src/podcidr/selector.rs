//! Which Nodes are meant: `matchExpressions`, as a JSON array of Kubernetes' form.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

/// Expressions that all have to hold; none: every Node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selector(Vec<Expression>);

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// Text that selects nothing.
#[derive(Debug, Error)]
pub enum ParseSelectorError {
    /// Another form.
    #[error(
        "node selector: write a JSON array as \
         [{{\"key\":\"a\",\"operator\":\"In\",\"values\":[\"b\"]}}], with In, NotIn, Exists, \
         DoesNotExist, Gt or Lt"
    )]
    Form(#[source] serde_json::Error),
    /// Values that do not go with the operator.
    #[error("node selector: {key:?} with {operator} takes {right}")]
    Values {
        /// The label.
        key: String,
        /// The operator.
        operator: String,
        /// What would be right.
        right: &'static str,
    },
}

impl Selector {
    /// Whether a Node with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|expression| expression.holds(labels))
    }
}

impl Expression {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        let among = label.is_some_and(|label| self.values.contains(label));
        let number = |text: &String| text.parse::<i64>().ok();
        let both = || Some((number(label?)?, number(self.values.first()?)?));
        match self.operator {
            Operator::In => among,
            Operator::NotIn => !among,
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::Gt => both().is_some_and(|(label, value)| label > value),
            Operator::Lt => both().is_some_and(|(label, value)| label < value),
        }
    }

    fn check(&self) -> Result<(), ParseSelectorError> {
        let right = match (self.operator, self.values.as_slice()) {
            (Operator::In | Operator::NotIn, []) => "one value or more",
            (Operator::Exists | Operator::DoesNotExist, [_, ..]) => "no values",
            (Operator::Gt | Operator::Lt, [one]) if one.parse::<i64>().is_ok() => return Ok(()),
            (Operator::Gt | Operator::Lt, _) => "one value, a whole number",
            _ => return Ok(()),
        };
        Err(ParseSelectorError::Values {
            key: self.key.clone(),
            operator: format!("{:?}", self.operator),
            right,
        })
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let expressions: Vec<Expression> =
            serde_json::from_str(text).map_err(ParseSelectorError::Form)?;
        expressions.iter().try_for_each(Expression::check)?;
        Ok(Self(expressions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_kubernetes() {
        let labels: BTreeMap<_, _> = [("zone", "a"), ("cores", "8")]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        for (text, expected) in [
            ("", true),
            ("[]", true),
            (
                r#"[{"key":"zone","operator":"In","values":["a","b"]}]"#,
                true,
            ),
            (r#"[{"key":"zone","operator":"In","values":["b"]}]"#, false),
            (
                r#"[{"key":"zone","operator":"NotIn","values":["b"]}]"#,
                true,
            ),
            (
                r#"[{"key":"none","operator":"NotIn","values":["b"]}]"#,
                true,
            ),
            (r#"[{"key":"none","operator":"In","values":["b"]}]"#, false),
            (r#"[{"key":"zone","operator":"Exists"}]"#, true),
            (r#"[{"key":"zone","operator":"DoesNotExist"}]"#, false),
            (r#"[{"key":"cores","operator":"Gt","values":["7"]}]"#, true),
            (r#"[{"key":"cores","operator":"Gt","values":["8"]}]"#, false),
            (r#"[{"key":"cores","operator":"Lt","values":["9"]}]"#, true),
            (r#"[{"key":"zone","operator":"Lt","values":["9"]}]"#, false),
            (
                r#"[{"key":"zone","operator":"Exists"},{"key":"none","operator":"Exists"}]"#,
                false,
            ),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels), expected, "{text}");
        }
        for bad in [
            "zone",
            "{}",
            r#"[{"key":"a"}]"#,
            r#"[{"key":"a","operator":"in","values":["b"]}]"#,
            r#"[{"key":"a","operator":"In"}]"#,
            r#"[{"key":"a","operator":"Exists","values":["b"]}]"#,
            r#"[{"key":"a","operator":"Gt","values":["b"]}]"#,
            r#"[{"key":"a","operator":"Exists","extra":1}]"#,
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
