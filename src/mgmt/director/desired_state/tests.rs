//! The desired state alone: actions in, states and refusals out; no journal, no worker, no clock.

use super::*;

fn state() -> DesiredState {
    DesiredState::new(Arc::from(["wan".to_owned(), "lan".to_owned()]))
}

fn action(text: &str) -> Action {
    serde_json::from_str(text).expect("an action")
}

fn service(port: u16, servers: &str) -> Action {
    action(&format!(
        r#"{{"add_service": {{"service": "tcp:192.0.2.1:{port}", "scheduler": "wlc", "servers": {servers}}}}}"#
    ))
}

#[test]
fn a_refused_service_leaves_nothing_of_itself() {
    let mut desired = state();
    let twice = r#"[{"server": "10.0.0.1:80"}, {"server": "10.0.0.1:80"}]"#;
    let refused = desired.apply(&service(80, twice)).unwrap_err();
    assert_eq!(refused.place.as_deref(), Some("servers[1].server"));
    assert_eq!(desired.state().services, []);
}

#[test]
fn a_state_replaces_another_whole_or_not_at_all() {
    let mut desired = state();
    desired.apply(&service(80, "[]")).unwrap();
    let before = desired.state();
    let mut after = before.clone();
    after.services[0].scheduler = "rr".to_owned();
    desired.apply(&Action::ReplaceState(after.clone())).unwrap();
    assert_eq!(desired.state(), after);
    after.services[0].scheduler = "none-of-them".to_owned();
    assert!(desired.apply(&Action::ReplaceState(after)).is_err());
    assert_eq!(desired.state().services[0].scheduler, "rr");
}

#[test]
fn what_a_whole_state_is_replayed_from_leads_to_it_again() {
    let mut desired = state();
    desired
        .apply(&service(80, r#"[{"server": "10.0.0.1:80", "weight": 3}]"#))
        .unwrap();
    desired
        .apply(&action(
            r#"{"edit_server": {"service": "tcp:192.0.2.1:80", "server": "10.0.0.1:80", "patch": {"weight": 0}}}"#,
        ))
        .unwrap();
    desired.apply(&action(r#"{"set_sysctls": {"drop_entry": 1}}"#)).unwrap();
    desired
        .apply(&service(
            81,
            r#"[{"server": "10.0.0.1:81"}, {"server": "10.0.0.2:81"}]"#,
        ))
        .unwrap();
    desired
        .apply(&action(
            r#"{"delete_server": {"service": "tcp:192.0.2.1:81", "server": "10.0.0.2:81"}}"#,
        ))
        .unwrap();
    desired
        .apply(&service(82, r#"[{"server": "10.0.0.3:82", "weight": 5}]"#))
        .unwrap();
    desired
        .apply(&action(r#"{"delete_service": "tcp:192.0.2.1:82"}"#))
        .unwrap();
    let whole = desired.whole(State::default());
    assert_eq!(whole.drained[0].last_weight, 3);
    let deleted: Vec<_> = whole
        .deleted
        .iter()
        .map(|deleted| deleted.server.server.port())
        .collect();
    assert_eq!(deleted, [81, 82]);
    let mut again = state();
    assert_eq!(again.restore(&whole), []);
    assert_eq!(again.whole(State::default()), whole);
}
