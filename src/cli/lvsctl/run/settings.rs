//! `lvsctl sysctl` and `lvsctl mark`.

use std::collections::BTreeMap;

use hyper::Method;
use lvs_api::{SettingValue, Settings};

use super::{Failure, Session};
use crate::lvsctl::command::mark::MarkCommand;
use crate::lvsctl::table;

fn short(name: &str) -> &str {
    name.trim().strip_prefix("net.ipv4.vs.").unwrap_or(name.trim())
}

impl Session {
    /// `NAME=VALUE` sets a value, `NAME` shows one. Without words it shows all.
    pub(super) async fn sysctl(&self, words: &[String]) -> Result<(), Failure> {
        let (set, shown): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.contains('='));
        let pairs = set.iter().filter_map(|word| word.split_once('='));
        let named: Settings = pairs
            .map(|(name, value)| (short(name).to_owned(), SettingValue(value.trim().to_owned())))
            .collect();
        if !named.is_empty() {
            self.change(Method::PATCH, "/sysctls", Some(&named)).await?;
            if shown.is_empty() {
                return Ok(());
            }
        }
        let mut settings: BTreeMap<String, String> = self.client.get("/sysctls").await?;
        for name in &shown {
            if !settings.contains_key(short(name)) {
                let message = format!("there is no setting {name:?}; lvsctl sysctl lists all");
                return Err(Failure::Usage(message));
            }
        }
        settings.retain(|name, _| shown.is_empty() || shown.iter().any(|word| short(word) == name));
        self.print(&settings, |settings| {
            let lines = settings
                .iter()
                .map(|(name, value)| format!("net.ipv4.vs.{name} = {value}\n"));
            lines.collect()
        })
    }

    pub(super) async fn mark(&self, command: MarkCommand) -> Result<(), Failure> {
        match command {
            MarkCommand::List => self.show("/marks", table::marks).await,
            MarkCommand::Add(add) => {
                let query = add.number.map(|number| format!("?number={number}")).unwrap_or_default();
                self.change(Method::POST, &format!("/marks{query}"), Some(&add.rule))
                    .await
            }
            MarkCommand::Delete { number } => {
                self.change(Method::DELETE, &format!("/marks/{number}"), None::<&()>)
                    .await
            }
            MarkCommand::Clear => self.change(Method::PUT, "/marks", Some(&[(); 0])).await,
        }
    }
}
