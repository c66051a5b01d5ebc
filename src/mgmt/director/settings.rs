//! What the desired state says besides services: the kernel's settings and the classifier's rules.
//!
//! In:  names and values; rules that name devices. Out: what workers read, or a refusal with its place and
//! nothing changed.

use lvs_api::{Action, MarkRule, SettingValue, Settings, State};
use lvs_core::ipvs::mark::MarkRules;
use lvs_core::ipvs::sysctl::Sysctls;

use super::{Director, convert};

/// The kernel's value of a setting before anyone changed it; `None` for a name that does not exist.
pub fn sysctl_default(name: &str) -> Option<SettingValue> {
    Sysctls::default().get(name).map(SettingValue)
}

/// The settings that differ from the kernel's defaults.
pub fn sysctls(sysctls: &Sysctls) -> Settings {
    let differing = |name: &&str| {
        let value = sysctls.get(name).map(SettingValue)?;
        (sysctl_default(name).as_ref() != Some(&value)).then(|| ((*name).to_owned(), value))
    };
    Sysctls::NAMES.iter().filter_map(differing).collect()
}

/// The rules by the names of their devices.
pub fn marks(rules: &MarkRules, devices: &[String]) -> Vec<MarkRule> {
    rules
        .rules()
        .iter()
        .map(|rule| convert::mark_rule(rule, devices))
        .collect()
}

/// The actions that lead to the settings and rules of a whole state. If one is refused, the others can still be carried
/// out.
pub(super) fn replayed(state: &State) -> impl Iterator<Item = Action> + use<> {
    let sysctls = state.sysctls.clone().unwrap_or_default().into_iter();
    let marks = state.marks.clone().unwrap_or_default().into_iter();
    let set = |one| Action::SetSysctls(Settings::from([one]));
    sysctls
        .map(set)
        .chain(marks.map(|rule| Action::AddMark { position: None, rule }))
}

impl Director {
    /// The rules of the classifier, in order.
    pub fn mark_rules(&self) -> Vec<MarkRule> {
        self.desired.mark_rules()
    }
}
