//! Every `lvsctl` that README.md types is one that this version understands.

use clap::Parser;

use super::Arguments;

/// What stands between backquotes, and the lines of code blocks.
fn code() -> Vec<&'static str> {
    let text = include_str!("../../../README.md");
    let mut found = Vec::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.push(line);
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// The commands of a shell line, without what belongs to the shell.
fn commands(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or_default();
    line.split([';', '|'])
        .map(|command| command.split_whitespace().take_while(|word| *word != ">").collect())
        .collect()
}

/// Words that stand for something.
fn example(word: &str) -> &str {
    match word {
        "SERVICE" => "tcp:192.0.2.1:80",
        "ADDRESS" | "CLIENT" | "RIP" => "192.0.2.1",
        "tcp:VIP:PORT" => "tcp:192.0.2.1:80",
        other => other,
    }
}

#[test]
fn every_lvsctl_in_the_readme_is_understood() {
    let mut count = 0;
    for line in code() {
        for words in commands(line) {
            if words.first() != Some(&"lvsctl") || words.len() == 1 || words.contains(&"…") {
                continue;
            }
            count += 1;
            match Arguments::try_parse_from(words.iter().map(|word| example(word))) {
                Ok(_) => {}
                Err(error) if !error.use_stderr() => {}
                Err(error) => panic!("{line}\n{error}"),
            }
        }
    }
    assert!(count > 40, "{count} commands");
}
