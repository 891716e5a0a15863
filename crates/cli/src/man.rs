//! Man pages: one for the program and one for each command, with a synopsis that names the values.

use std::path::Path;

use clap::{Arg, ArgAction, Command};

use crate::EVERYWHERE;

/// Writes a man page for `command` and one for each of its commands into `dir`, which is made.
///
/// # Errors
/// The folder can't be made or written to.
pub fn man(command: Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    pages(command, dir)
}

fn pages(command: Command, dir: &Path) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages(sub.clone(), dir)?;
    }
    let synopsis = synopsis(&command);
    clap_mangen::Man::new(command.override_usage(synopsis)).generate_to(dir)?;
    Ok(())
}

/// What must be given first, then what may be.
fn synopsis(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut words = vec![name.to_owned()];
    let shown = || {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.filter(|arg| !is_for_help(arg))
    };
    let own = || shown().filter(|arg| arg.get_help_heading() != Some(EVERYWHERE));
    words.extend(own().filter(|arg| arg.is_required_set()).map(word));
    let optional = own().filter(|arg| !arg.is_required_set());
    words.extend(optional.map(word));
    if shown().count() > own().count() {
        words.push(format!("[{}]", EVERYWHERE.to_lowercase()));
    }
    if command.has_subcommands() {
        words.push("COMMAND".to_owned());
    }
    words.join(" ")
}

/// Help and version are everywhere, and said nowhere.
fn is_for_help(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

fn word(arg: &Arg) -> String {
    let values = arg.get_value_names().map(|names| {
        let names: Vec<&str> = names.iter().map(clap::builder::Str::as_str).collect();
        names.join(" ")
    });
    let takes = arg.get_action().takes_values();
    let value = values.filter(|_| takes).unwrap_or_default();
    let text = match arg.get_long() {
        Some(long) if value.is_empty() => format!("--{long}"),
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    let text = if arg.is_required_set() {
        text
    } else {
        format!("[{text}]")
    };
    if matches!(arg.get_action(), ArgAction::Append) {
        format!("{text}...")
    } else {
        text
    }
}
