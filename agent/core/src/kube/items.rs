//! The answer to a list of the API server, taken apart as it arrives: each item by itself, so
//! that never more than one of them is in memory.

use serde::Deserialize;
use thiserror::Error;

/// No object of Kubernetes is larger: etcd takes no more than some 1.5 MB.
const LARGEST_ITEM: usize = 8 << 20;
/// What is around the items.
const LARGEST_REST: usize = 1 << 20;

/// Before the bracket of the items there is this, behind a brace, a comma or a blank.
const KEY: &[u8] = br#""items":"#;

/// A list that is arriving.
#[derive(Debug, Default)]
pub struct Items {
    /// Everything but the items.
    rest: Vec<u8>,
    /// The item that has not arrived whole.
    item: Vec<u8>,
    depth: u32,
    within: Within,
    text: Text,
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Within {
    #[default]
    Rest,
    Items,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Text {
    #[default]
    Outside,
    Inside,
    Escaped,
}

/// What is around the items.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// What a watch goes on from.
    #[serde(default)]
    pub resource_version: String,
    /// Asks for the next page; empty on the last.
    #[serde(default, rename = "continue")]
    pub continue_token: Option<String>,
}

/// An answer that is no list.
#[derive(Debug, Error)]
pub enum ItemsError {
    /// Larger than anything that Kubernetes stores.
    #[error("the API server's list has an object of more than {} MiB", LARGEST_ITEM >> 20)]
    TooLarge,
    /// It ended before its end.
    #[error("the API server's list broke off")]
    BrokeOff,
    /// Not JSON, or another object.
    #[error("the API server's answer is no list")]
    NoList(#[source] serde_json::Error),
    /// No version to watch from.
    #[error("the API server's list has no metadata.resourceVersion")]
    NoVersion,
}

impl Items {
    /// Takes in the next bytes, and hands out each item that is whole now.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(&[u8])) -> Result<(), ItemsError> {
        for &byte in bytes {
            if self.take(byte)? {
                found(&self.item);
                self.item.clear();
                // One large Node must not be the size of the buffer for ever.
                self.item.shrink_to(64 << 10);
            }
        }
        Ok(())
    }

    /// Whether that byte completes an item.
    fn take(&mut self, byte: u8) -> Result<bool, ItemsError> {
        let structural = match self.text {
            Text::Escaped => {
                self.text = Text::Inside;
                false
            }
            Text::Inside => {
                match byte {
                    b'\\' => self.text = Text::Escaped,
                    b'"' => self.text = Text::Outside,
                    _ => {}
                }
                false
            }
            Text::Outside => true,
        };
        if structural {
            match byte {
                b'"' => self.text = Text::Inside,
                b'[' if self.within == Within::Rest && self.depth == 1 && self.opens_items() => {
                    self.within = Within::Items;
                    self.depth = 2;
                    self.rest.push(byte);
                    return Ok(false);
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        if self.within == Within::Rest {
            return push(&mut self.rest, byte, LARGEST_REST).map(|()| false);
        }
        if structural && self.depth < 2 {
            self.within = Within::Rest;
            push(&mut self.rest, byte, LARGEST_REST)?;
            // What is not closed is no item.
            self.item.clear();
            return Ok(false);
        }
        let between = structural && self.depth == 2 && byte != b'}' && byte != b']';
        if between && matches!(byte, b',' | b' ' | b'\n' | b'\t' | b'\r') {
            return Ok(false);
        }
        push(&mut self.item, byte, LARGEST_ITEM)?;
        Ok(structural && self.depth == 2 && byte == b'}')
    }

    fn opens_items(&self) -> bool {
        let rest = self.rest.trim_ascii_end();
        let before = rest.strip_suffix(KEY).and_then(<[u8]>::last);
        before.is_some_and(|byte| matches!(byte, b'{' | b',' | b' ' | b'\n' | b'\t' | b'\r'))
    }

    /// What was around the items, when everything has arrived.
    pub fn finish(self) -> Result<ListMeta, ItemsError> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMeta,
        }
        if self.depth > 0 {
            return Err(ItemsError::BrokeOff);
        }
        let list: List = serde_json::from_slice(&self.rest).map_err(ItemsError::NoList)?;
        if list.metadata.resource_version.is_empty() {
            return Err(ItemsError::NoVersion);
        }
        Ok(list.metadata)
    }
}

fn push(buffer: &mut Vec<u8>, byte: u8, largest: usize) -> Result<(), ItemsError> {
    if buffer.len() >= largest {
        return Err(ItemsError::TooLarge);
    }
    buffer.push(byte);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<String>, Result<ListMeta, ItemsError>) {
        let mut items = Items::default();
        let mut found = Vec::new();
        for chunk in chunks {
            let fed = items.feed(chunk, |item| {
                found.push(String::from_utf8_lossy(item).into_owned());
            });
            if let Err(error) = fed {
                return (found, Err(error));
            }
        }
        (found, items.finish())
    }

    const LIST: &str = r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"x","items":[1]},"items":[{"a":"}]\"\\","b":[{},[{"c":1}]]} ,
  {"items":[{"d":2}]},{}]}"#;

    #[test]
    fn each_item_comes_by_itself_however_it_is_cut() {
        let expected = [
            r#"{"a":"}]\"\\","b":[{},[{"c":1}]]}"#,
            r#"{"items":[{"d":2}]}"#,
            "{}",
        ];
        for size in 1..LIST.len() {
            let chunks: Vec<&[u8]> = LIST.as_bytes().chunks(size).collect();
            let (found, meta) = read(&chunks);
            assert_eq!(found, expected, "in pieces of {size}");
            let meta = meta.unwrap();
            assert_eq!(meta.resource_version, "7");
            assert_eq!(meta.continue_token.as_deref(), Some("x"));
        }
    }

    #[test]
    fn a_list_may_be_empty_or_in_another_order() {
        for text in [
            r#"{"metadata":{"resourceVersion":"9"},"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"9"},"items":null}"#,
            r#"{"metadata":{"resourceVersion":"9"}}"#,
            r#"{"items" :[],"metadata":{"resourceVersion":"9"}}"#,
            r#"{ "items": [ ] , "metadata": {"resourceVersion":"9"} }"#,
        ] {
            let (found, meta) = read(&[text.as_bytes()]);
            assert_eq!(found, Vec::<String>::new(), "{text}");
            assert_eq!(meta.unwrap().resource_version, "9", "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            "404 page not found",
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"resourceVersion":""},"items":[]}"#,
            r#"{"metadata":{"resourceVersion":7},"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1}"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[{}]"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[{}]}}"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[{}]} x"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[}"#,
        ] {
            assert!(read(&[text.as_bytes()]).1.is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_what_it_is_whole(
            items in proptest::collection::vec("[a-z\"\\\\{}\\[\\],: é]{0,12}", 0..6),
            cut in 1_usize..40,
        ) {
            let items: Vec<serde_json::Value> = items
                .into_iter()
                .map(|text| serde_json::json!({"metadata": {"name": text, "items": [text]}, "n": [[], {}]}))
                .collect();
            let list = serde_json::json!({"items": items, "metadata": {"resourceVersion": "1"}});
            let text = list.to_string();
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            let (found, meta) = read(&chunks);
            let found: Vec<serde_json::Value> =
                found.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(found, items);
            prop_assert!(meta.is_ok());
        }

        #[test]
        fn noise_never_panics(text in "\\PC*|([\\[\\]{}\",:]|\"items\":|null|7){0,40}") {
            drop(read(&[text.as_bytes()]));
        }
    }
}
