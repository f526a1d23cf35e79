//! What a person gives for the test binaries: `cargo xtask test netns -- --nocapture part_of_a_name`.

/// The words, by whom they are for.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Words {
    /// For each test's process.
    pub(super) run: Vec<String>,
    /// No more than as many tests at a time.
    pub(super) most: Option<usize>,
    /// Show what tests say that pass.
    pub(super) shown: bool,
}

/// Sorts `words`. Those that choose tests are left to libtest, when it lists them.
pub(super) fn sort(words: &[String]) -> Words {
    let mut sorted = Words::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--nocapture" | "--no-capture" | "--show-output" => {
                sorted.shown = true;
                sorted.run.push(word.to_owned());
            }
            "--ignored" | "--include-ignored" => sorted.run.push(word.to_owned()),
            "--test-threads" => sorted.most = words.next().and_then(|number| number.parse().ok()),
            _ => {
                if let Some(number) = word.strip_prefix("--test-threads=") {
                    sorted.most = number.parse().ok();
                }
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> Words {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        sort(&words)
    }

    #[test]
    fn what_chooses_tests_is_for_the_list_alone() {
        assert_eq!(sorted("a::b --exact --skip c d"), Words::default());
    }

    #[test]
    fn what_is_to_be_seen_is_shown() {
        let words = sorted("--nocapture part_of_a_name");
        assert_eq!(
            (words.shown, words.run),
            (true, vec!["--nocapture".to_owned()])
        );
    }

    #[test]
    fn threads_are_tests_at_a_time() {
        assert_eq!(sorted("--test-threads=1").most, Some(1));
        assert_eq!(sorted("--test-threads 3 x").most, Some(3));
    }
}
