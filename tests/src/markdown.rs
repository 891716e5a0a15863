//! The little Markdown that the documents' tests need: tables, links, code blocks, names of tests.

/// A table, without its header.
#[derive(Debug)]
pub struct Table {
    /// Cells of each row, trimmed.
    pub rows: Vec<Vec<String>>,
}

/// The first table below the heading that reads `heading`, hashes left out.
#[must_use]
pub fn table_under(text: &str, heading: &str) -> Table {
    let lines = text
        .lines()
        .skip_while(|line| {
            !(line.starts_with('#') && line.trim_start_matches('#').trim() == heading)
        })
        .skip(1);
    let rows = lines
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line
                .trim()
                .trim_start_matches('|')
                .trim_end_matches('|')
                .split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect();
    Table { rows }
}

/// A reference to a test, written `path/to/file.rs::function` in backquotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestName {
    /// File, from the root.
    pub file: String,
    /// Function.
    pub function: String,
}

/// Every test that a text names.
#[must_use]
pub fn test_names(text: &str) -> Vec<TestName> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|code| code.split_once(".rs::"))
        .filter(|(file, _)| file.contains('/'))
        .map(|(file, function)| TestName {
            file: format!("{file}.rs"),
            function: function.rsplit("::").next().unwrap_or(function).to_owned(),
        })
        .collect()
}

/// A link of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The target without its fragment; empty for a link into the same document.
    pub target: String,
    /// The fragment without `#`.
    pub fragment: Option<String>,
}

/// Every inline link outside code.
#[must_use]
pub fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    for line in prose_lines(text) {
        for part in line.split("](").skip(1) {
            let Some((url, _)) = part.split_once(')') else {
                continue;
            };
            let (target, fragment) = match url.split_once('#') {
                Some((target, fragment)) => (target, Some(fragment.to_owned())),
                None => (url, None),
            };
            found.push(Link {
                target: target.to_owned(),
                fragment,
            });
        }
    }
    found
}

/// The commands in a document's shell blocks: one a line, continuation lines joined, comments and
/// prompts left out.
#[must_use]
pub fn shell_lines(text: &str) -> Vec<String> {
    let (mut commands, mut inside) = (Vec::new(), false);
    let mut pending = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && matches!(language, "sh" | "bash" | "shell" | "console");
            continue;
        }
        if !inside || line.is_empty() || line.starts_with('#') {
            continue;
        }
        pending.push_str(line.strip_prefix("$ ").unwrap_or(line));
        if pending.ends_with('\\') {
            pending.pop();
        } else {
            commands.push(std::mem::take(&mut pending));
        }
    }
    commands
}

fn prose_lines(text: &str) -> impl Iterator<Item = String> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then(|| line.split('`').step_by(2).collect::<Vec<_>>().join(""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_its_heading() {
        let text =
            "# A\n| x |\n|---|\n| wrong |\n## B\nprose\n\n| p | q |\n|---|---|\n| a | `b` |\n";
        assert_eq!(table_under(text, "B").rows, [["a", "`b`"]]);
    }

    #[test]
    fn joins_continued_commands_and_skips_comments() {
        let text = "```sh\n# first\n$ one --a \\\n    --b\n```\n```toml\nkey = 1\n```\n";
        assert_eq!(shell_lines(text), ["one --a --b"]);
    }

    #[test]
    fn tells_test_names_from_other_code() {
        let names = test_names("see `tests/a/b.rs::mod::works` and `lib.rs` and `x::y`");
        assert_eq!(
            names,
            [TestName {
                file: "tests/a/b.rs".to_owned(),
                function: "works".to_owned()
            }]
        );
    }

    #[test]
    fn finds_links_outside_code() {
        let found = links("[a](b.md#c) `[x](y)`\n```\n[p](q)\n```\n");
        assert_eq!(
            found,
            [Link {
                target: "b.md".to_owned(),
                fragment: Some("c".to_owned())
            }]
        );
    }
}
