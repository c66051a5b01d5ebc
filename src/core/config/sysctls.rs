//! `[sysctl]`: the kernel's settings, by the names that it gives them under `/proc/sys/net/ipv4/vs`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use crate::ipvs::sysctl::Sysctls;

pub(super) fn sysctls(raw: &BTreeMap<Spanned<String>, Spanned<toml::Value>>) -> Result<Sysctls, Invalid> {
    let mut sysctls = Sysctls::default();
    for (name, value) in raw {
        let text = match value.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(yes) => u8::from(*yes).to_string(),
            other => other.to_string(),
        };
        sysctls.set(name.get_ref(), &text).map_err(|error| Invalid {
            span: value.span(),
            problem: ConfigProblem::Sysctl(error),
        })?;
    }
    Ok(sysctls)
}
