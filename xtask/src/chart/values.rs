//! The table of the chart's values, from its schema and its defaults' places.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::places;

const BEGIN: &str = "<!-- values: `cargo xtask chart --bless` -->\n";
const END: &str = "<!-- /values -->\n";

/// The document with the table of today between its marks.
pub(super) fn document(text: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .context("docs/kubernetes.md has no mark where the table of values begins")?;
    let (_, after) = rest
        .split_once(END)
        .context("docs/kubernetes.md has no mark where the table of values ends")?;
    let file = places::root().join("charts/twill/values.schema.json");
    let schema = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let schema = serde_json::from_str(&schema).context("read values.schema.json")?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", table(&schema)))
}

/// The chart, the app and the images have the version of the workspace.
pub(super) fn same_version() -> Result<()> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    for (name, line, count) in [
        ("Chart.yaml", format!("ersion: {VERSION}"), 2),
        ("values.yaml", format!("tag: {VERSION}"), 2),
    ] {
        let file = places::root().join("charts/twill").join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let found = text.lines().filter(|it| it.ends_with(&line)).count();
        ensure!(
            found == count,
            "{} has {found} lines that end in {line:?} instead of {count}",
            file.display()
        );
    }
    Ok(())
}

fn table(schema: &Value) -> String {
    let mut rows = "| value | what it is |\n| --- | --- |\n".to_owned();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        add(properties, "", &mut rows);
    }
    rows
}

/// A row for each value that has no values below it.
fn add(properties: &Map<String, Value>, above: &str, rows: &mut String) {
    for (name, schema) in properties {
        let path = format!("{above}{name}");
        let below = schema.get("properties").and_then(Value::as_object);
        if let Some(below) = below.filter(|_| schema.get("deprecated").is_none()) {
            add(below, &format!("{path}."), rows);
        } else {
            let what = schema.get("description").and_then(Value::as_str);
            // Writing to a string does not fail.
            let row = writeln!(
                rows,
                "| `{path}` | {} |",
                what.unwrap_or_default().replace('|', "\\|")
            );
            debug_assert!(row.is_ok(), "writing to a string");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_value_has_a_row() {
        let schema = json!({"properties": {
            "a": {"description": "First.", "type": "object", "properties": {
                "c": {"description": "One | two."},
                "b": {"deprecated": true, "description": "Old.", "properties": {"x": {}}},
            }},
        }});
        let rows: Vec<_> = table(&schema).lines().skip(2).map(str::to_owned).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows.contains(&r"| `a.c` | One \| two. |".to_owned()));
        assert!(rows.contains(&"| `a.b` | Old. |".to_owned()));
    }

    #[test]
    fn the_table_is_put_between_its_marks() {
        let text = format!("x\n{BEGIN}old\n{END}y\n");
        let new = document(&text).unwrap();
        assert!(new.starts_with(&format!("x\n{BEGIN}\n| value |")), "{new}");
        assert!(new.ends_with(&format!("\n{END}y\n")), "{new}");
        assert_eq!(document(&new).unwrap(), new);
        assert!(document("x").is_err());
    }
}
