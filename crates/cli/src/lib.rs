//! What the command lines of both programs share: reading them, refusing them, completions, man pages,
//! what both say of a source ([`recoverable`]), and what their daemons share ([`service`]).
//!
//! The options of every command stand in a group of their own ([`EVERYWHERE`]), and commands to which
//! one means nothing don't show it ([`Hidden`]); they take it all the same, for scripts that pass it.

mod man;
pub mod recoverable;
pub mod service;

use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use tidemark_format::KeyId;
use tidemark_host::{Exit, codes, config::Region, output::Console};

pub use man::man;

/// The command that enrols `key` in all of `regions`, for the host that has the root key.
#[must_use]
pub fn enrol_command(key: KeyId, regions: &[Region]) -> String {
    let mut words = format!("tidemark-restore keys enrol {key} --root FILE.root");
    for region in regions {
        let url = region.url.to_string();
        // A shell would take `?` and `&` for its own.
        let quote = if url.contains(['?', '&', ' ']) {
            "'"
        } else {
            ""
        };
        words.push_str(&format!(" --region {quote}{url}{quote}"));
    }
    words
}

/// The heading of the options that every command takes.
pub const EVERYWHERE: &str = "Options of every command";

/// Options of every command that mean nothing to some: the command, and their ids.
pub type Hidden = (&'static str, &'static [&'static str]);

/// The definition of a command line as it is shown.
#[must_use]
pub fn shown<C: CommandFactory>(hidden: &[Hidden]) -> Command {
    let mut command = C::command();
    for (name, ids) in hidden {
        let twins: Vec<_> = command
            .get_arguments()
            .filter(|arg| ids.contains(&arg.get_id().as_str()))
            .map(|arg| arg.clone().hide(true))
            .collect();
        // An option that a command has itself is not handed down to it.
        command = command.mut_subcommand(name, |sub| sub.args(twins));
    }
    command
}

/// Reads the command line of this process.
///
/// # Errors
/// Help and version are among them: see [`refuse`].
pub fn parse<C: CommandFactory + FromArgMatches>(hidden: &[Hidden]) -> Result<C, clap::Error> {
    read(hidden, std::env::args_os())
}

/// Reads `words`, the program's name first.
///
/// # Errors
/// As [`parse`].
pub fn read<C: CommandFactory + FromArgMatches>(
    hidden: &[Hidden],
    words: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<C, clap::Error> {
    let mut matches = shown::<C>(hidden).try_get_matches_from(words)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut shown::<C>(hidden)))
}

/// Help and version are answers; anything else is an error, which a script wants as it wants all: under
/// `--json` as a document of `schema`.
pub fn refuse(words: &clap::Error, schema: &'static str) -> ExitCode {
    let json = std::env::args_os().any(|word| word == "--json");
    if !words.use_stderr() || !json {
        words.exit()
    }
    let text = words.to_string();
    let console = Console::standard(true);
    console.refuse(schema, codes::USAGE, text.trim());
    Exit::Usage.into()
}

/// The completions of `command` for a shell.
#[must_use]
pub fn completions(mut command: Command, shell: Shell) -> String {
    let (name, mut bytes) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser, Subcommand};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "program")]
    struct Cli {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        command: Verb,
    }

    #[derive(Debug, Args)]
    struct Global {
        /// Where
        #[arg(long, global = true, value_name = "URL", help_heading = EVERYWHERE)]
        region: Vec<String>,
        /// Machines read it
        #[arg(long, global = true, help_heading = EVERYWHERE)]
        json: bool,
    }

    #[derive(Debug, Subcommand)]
    enum Verb {
        /// Says a word
        Say {
            /// The word
            #[arg(long, value_name = "TEXT")]
            word: String,
            /// Again
            #[arg(long, value_name = "TEXT")]
            also: Vec<String>,
            /// To whom
            whom: Option<String>,
        },
        /// Says nothing
        #[command(subcommand)]
        Quiet(Quiet),
    }

    #[derive(Debug, Subcommand)]
    enum Quiet {
        /// For ever
        Ever,
    }

    const HIDDEN: &[Hidden] = &[("quiet", &["region"])];

    #[test]
    fn an_option_that_means_nothing_is_not_shown_and_still_taken() {
        shown::<Cli>(HIDDEN).debug_assert();
        let help = |words: &[&str]| {
            let asked = [&["program"], words, &["--help"]].concat();
            read::<Cli>(HIDDEN, asked).unwrap_err().to_string()
        };
        for words in [&["quiet"][..], &["quiet", "ever"]] {
            assert!(!help(words).contains("--region"), "{words:?}");
            assert!(help(words).contains("--json"));
        }
        assert!(help(&["say"]).contains("--region"));
        assert!(help(&["say"]).contains(EVERYWHERE));
        for words in [
            ["program", "--region", "a", "quiet", "ever"],
            ["program", "quiet", "--region", "a", "ever"],
            ["program", "quiet", "ever", "--region", "a"],
        ] {
            assert_eq!(read::<Cli>(HIDDEN, words).unwrap().global.region, ["a"]);
        }
    }

    #[test]
    fn a_man_page_of_each_command_names_the_values_in_its_synopsis() {
        let folder = tempfile::tempdir().unwrap();
        man(shown::<Cli>(HIDDEN), &folder.path().join("man1")).unwrap();
        let page = |name: &str| {
            let path = folder.path().join(format!("man1/{name}.1"));
            let text = std::fs::read_to_string(&path).unwrap();
            text.replace("\\-", "-")
                .replace("\\fR", "")
                .replace("\\fB", "")
        };
        let say = page("program-say");
        let synopsis = "program say --word TEXT [--also TEXT]... [WHOM] [options of every command]";
        assert!(say.contains(synopsis), "{say}");
        assert!(page("program").contains("program [options of every command] COMMAND"));
        assert!(page("program-quiet-ever").contains("program quiet ever"));
        assert!(completions(shown::<Cli>(HIDDEN), Shell::Bash).contains("quiet"));
    }
}
