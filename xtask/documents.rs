//! Writes manual pages and shell completions for the package: they cannot say what is not so.
//!
//! In:  the command lines' own definitions, and the reference of the configuration. Out: `man/*.[58]`, and
//! `completion/{bash,zsh,fish}/*`.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, roman};

const REFERENCE: &str = include_str!("../conf/lvsd.reference.toml");

/// A page for a command and for each command below it, by its full name.
fn write_pages(folder: &Path, command: Command, name: &str) -> io::Result<()> {
    let shown = command.clone().display_name(name).bin_name(name.replace('-', " "));
    let mut page = Vec::new();
    Man::new(shown)
        .title(name)
        .section("8")
        .source("lvsd")
        .manual("Linux Virtual Server director")
        .render(&mut page)?;
    fs::write(folder.join(format!("{name}.8")), page)?;
    for below in command
        .get_subcommands()
        .filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        write_pages(folder, below.clone(), &format!("{name}-{}", below.get_name()))?;
    }
    Ok(())
}

/// The reference of the configuration, as it is.
fn write_reference(folder: &Path) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("TH", ["lvsd.toml", "5", "", "lvsd", "Linux Virtual Server director"]);
    page.control("SH", ["NAME"]);
    page.text([roman("lvsd.toml - configuration of lvsd(8)")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Read at start and on lvsctl reload. A broken file changes nothing.",
    )]);
    page.control("nf", []);
    for line in REFERENCE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["FILES"]);
    page.text([roman("/etc/lvsd/lvsd.toml")]);
    fs::write(folder.join("lvsd.toml.5"), page.render())
}

fn write_completions(folder: &Path, mut command: Command) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder = folder.join(shell.to_string());
        fs::create_dir_all(&folder)?;
        clap_complete::generate_to(shell, &mut command, &name, folder)?;
    }
    Ok(())
}

/// Writes `man/` and `completion/` into `folder`.
pub fn write(folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completion"));
    fs::create_dir_all(&pages)?;
    for command in [
        lvs_cli::lvsctl::command::LvsctlArguments::command(),
        lvs_cli::lvs_run::arguments::RunArguments::command(),
        lvsd::arguments::Arguments::command(),
    ] {
        let name = command.get_name().to_owned();
        write_completions(&completions, command.clone())?;
        write_pages(&pages, command, &name)?;
    }
    write_reference(&pages)
}
