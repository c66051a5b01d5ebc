//! What the desired state says besides services: the kernel's settings and the classifier's rules.
//!
//! In:  names and values; rules that name devices. Out: what workers read, or a refusal with its place and
//! nothing changed.

use std::sync::Arc;

use lvs_api::{Action, ApiError, ErrorCode, MarkRule, SettingValue, Settings, State};
use lvs_core::ipvs::mark::{MarkError, MarkRules};
use lvs_core::ipvs::sysctl::Sysctls;

use super::{DesiredState, Director, convert};

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

/// What leads to the settings and rules of a whole state, one by one, so that one that is refused costs no other.
pub(super) fn replayed(state: &State) -> impl Iterator<Item = Action> + use<> {
    let sysctls = state.sysctls.clone().unwrap_or_default().into_iter();
    let marks = state.marks.clone().unwrap_or_default().into_iter();
    let set = |one| Action::SetSysctls(Settings::from([one]));
    sysctls
        .map(set)
        .chain(marks.map(|rule| Action::AddMark { position: None, rule }))
}

impl DesiredState {
    /// Sets the named settings, all of them or none.
    pub(super) fn set_sysctls(&mut self, named: &Settings) -> Result<(), ApiError> {
        let mut next = self.sysctls;
        for (name, SettingValue(value)) in named {
            next.set(name, value)
                .map_err(|error| ApiError::new(ErrorCode::Refused, error.to_string()).at(name))?;
        }
        self.sysctls = next;
        Ok(())
    }

    /// The rules by the names of their devices.
    pub(super) fn mark_rules(&self) -> Vec<MarkRule> {
        marks(&self.marks, &self.devices)
    }

    /// Sets all rules.
    pub(super) fn set_marks(&mut self, rules: &[MarkRule]) -> Result<(), ApiError> {
        let inside = |index: usize, error: ApiError| {
            let place = error
                .place
                .as_ref()
                .map_or_else(String::new, |place| format!(".{place}"));
            error.at(format!("[{index}]{place}"))
        };
        let mut core = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            core.push(convert::core_mark_rule(rule, &self.devices).map_err(|error| inside(index, error))?);
        }
        let checked = MarkRules::new(core).map_err(|error| match error.rule() {
            Some(index) => inside(index, refusal(error)),
            None => refusal(error),
        })?;
        self.marks = Arc::new(checked);
        Ok(())
    }

    /// Adds one behind `position` others, or behind all.
    pub(super) fn add_mark(&mut self, position: Option<usize>, rule: &MarkRule) -> Result<(), ApiError> {
        let mut rules = self.marks.rules().to_vec();
        let position = position.unwrap_or(rules.len());
        if position > rules.len() {
            let message = format!(
                "there are {} mark rules: give a number from 1 to {}",
                rules.len(),
                rules.len() + 1
            );
            return Err(ApiError::new(ErrorCode::Refused, message).at("number"));
        }
        rules.insert(position, convert::core_mark_rule(rule, &self.devices)?);
        self.marks = Arc::new(MarkRules::new(rules).map_err(refusal)?);
        Ok(())
    }

    /// Deletes the one behind `position` others.
    pub(super) fn delete_mark(&mut self, position: usize) -> Result<(), ApiError> {
        let mut rules = self.marks.rules().to_vec();
        if position >= rules.len() {
            let message = match rules.len() {
                0 => "there are no mark rules".to_owned(),
                count => format!("there are {count} mark rules: give a number from 1 to {count}"),
            };
            return Err(ApiError::new(ErrorCode::NoSuchMark, message).at("number"));
        }
        rules.remove(position);
        self.marks = Arc::new(MarkRules::new(rules).map_err(refusal)?);
        Ok(())
    }
}

impl Director {
    /// The rules of the classifier, in order.
    pub fn mark_rules(&self) -> Vec<MarkRule> {
        self.desired.mark_rules()
    }
}

fn refusal(error: MarkError) -> ApiError {
    let place = match error {
        MarkError::Zero { .. } => "mark",
        MarkError::MixedFamilies { .. } => "source",
        MarkError::PortsWithoutProtocol { .. } => "protocol",
        MarkError::TooManyRanges { .. } => "destination_ports",
        MarkError::EmptyRange { .. } | MarkError::Twice { .. } | MarkError::TooMany { .. } => "",
    };
    ApiError::new(ErrorCode::Refused, error.to_string()).at(place)
}
