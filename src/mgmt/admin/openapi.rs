//! Makes the generated OpenAPI document say exactly what is accepted: ranges of numbers and forms of texts.
//!
//! In:  the document as it follows from the types. Out: the same with bounds and patterns. The types say what a field is; this
//! table says which of its values the daemon takes. A generator in `tests/schema.rs` holds both together.

use std::sync::LazyLock;

use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::limits::{MSS_MAX_RANGE, TIMEOUT_CONFIGURED_MAX_SEC};
use serde_json::{Map, Value, json};

use crate::mgmt::director::convert;

/// RFC 3986 `IPv4address`.
const IPV4: &str =
    "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])[.]){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const PORT: &str = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)";
/// 1 to 4294967295.
const MARK: &str = "(?:[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}\
                    |42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])";

const SCHEDULER_FLAGS: [&str; 4] = ["sh-fallback", "sh-port", "mh-fallback", "mh-port"];

/// RFC 3986 `IPv6address`.
static IPV6: LazyLock<String> = LazyLock::new(|| {
    let group = "[0-9a-fA-F]{1,4}";
    let end = format!("(?:{group}:{group}|{IPV4})");
    let mut forms = vec![format!("(?:{group}:){{6}}{end}")];
    for behind in (0..=5).rev() {
        let before = 5 - behind;
        let head = if before == 0 {
            String::new()
        } else {
            format!("(?:(?:{group}:){{0,{}}}{group})?", before - 1)
        };
        forms.push(format!("{head}::(?:{group}:){{{behind}}}{end}"));
    }
    forms.push(format!("(?:(?:{group}:){{0,5}}{group})?::{group}"));
    forms.push(format!("(?:(?:{group}:){{0,6}}{group})?::"));
    format!("(?:{})", forms.join("|"))
});

fn whole(pattern: &str) -> String {
    format!("^{pattern}$")
}

fn address() -> String {
    format!("(?:{IPV4}|{})", *IPV6)
}

/// Address and port.
fn endpoint() -> String {
    format!("(?:{IPV4}|\\[{}\\]):{PORT}", *IPV6)
}

/// An address or a network.
fn prefix() -> String {
    format!(
        "(?:{IPV4}(?:/(?:3[0-2]|[12]?[0-9]))?|{}(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)",
        *IPV6
    )
}

/// A port or a range of ports.
fn ports() -> Value {
    json!({ "type": "string", "pattern": whole(&format!("{PORT}(?:-{PORT})?")) })
}

fn service() -> String {
    format!("(?:(?:tcp|udp|sctp):{}|fwm6?:{MARK})", endpoint())
}

fn text(pattern: &str) -> Value {
    json!({ "pattern": whole(pattern) })
}

fn range(least: u64, most: u64) -> Value {
    json!({ "minimum": least, "maximum": most })
}

fn words(words: &[&str]) -> Value {
    json!({ "enum": words })
}

/// Schemas or parameters, a field of theirs, and what it takes.
fn rules() -> Vec<(&'static [&'static str], &'static str, Value)> {
    let names: Vec<&str> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
    let seconds = || range(0, u64::from(TIMEOUT_CONFIGURED_MAX_SEC));
    let services = &["Service", "ServiceSettings", "ServicePatch"];
    let states: Vec<&str> = convert::state_names().collect();
    let byte = u64::from(u8::MAX);
    let short = u64::from(u16::MAX);
    vec![
        (&["Service"], "service", text(&service())),
        (&["Server"], "server", text(&endpoint())),
        (services, "scheduler", words(&names)),
        (services, "established_timeout_sec", seconds()),
        (
            services,
            "mss_max",
            json!({
                "minimum": 0, "maximum": MSS_MAX_RANGE.end(),
                "anyOf": [{ "maximum": 0 }, { "minimum": MSS_MAX_RANGE.start() }],
            }),
        ),
        (
            &["Service"],
            "local_addresses",
            json!({ "items": { "type": "string", "pattern": whole(&address()) } }),
        ),
        (
            &["LocalAddresses"],
            "addresses",
            json!({ "items": { "type": "string", "pattern": whole(&address()) } }),
        ),
        (
            &["Persistence"],
            "timeout_sec",
            range(1, u64::from(TIMEOUT_CONFIGURED_MAX_SEC)),
        ),
        (&["Tunnel"], "port", range(1, short)),
        (
            services,
            "scheduler_flags",
            json!({ "items": { "type": "string", "enum": SCHEDULER_FLAGS } }),
        ),
        (&["MarkRule"], "source", text(&prefix())),
        (&["MarkRule"], "destination", text(&prefix())),
        (&["MarkRule"], "source_ports", json!({ "items": ports() })),
        (&["MarkRule"], "destination_ports", json!({ "items": ports() })),
        (&["SyncDaemon"], "group", text(&address())),
        (&["MarkRule"], "mark", range(1, u64::from(u32::MAX))),
        (&["SyncDaemon"], "sync_id", range(0, byte)),
        (&["SyncDaemon"], "max_len_bytes", range(0, short)),
        (&["SyncDaemon"], "port", range(1, short)),
        (&["SyncDaemon"], "ttl", range(1, byte)),
        (&["TimeoutsPatch"], "tcp_sec", seconds()),
        (&["TimeoutsPatch"], "tcp_fin_sec", seconds()),
        (&["TimeoutsPatch"], "udp_sec", seconds()),
        (&["path", "query"], "service", text(&service())),
        (&["path", "query"], "server", text(&endpoint())),
        (&["query"], "client", text(&address())),
        (&["query"], "state", words(&states)),
        (&["path"], "role", words(&["master", "backup"])),
        (&["path"], "file", words(&lvs_api::proc_text::NAMES)),
        (&["path", "query"], "number", json!({ "minimum": 1 })),
        (&["query"], "client_port", range(0, short)),
        (&["query"], "virt", text(&endpoint())),
    ]
}

/// The document with all of it.
pub(super) fn exact(mut document: Value) -> Value {
    widen(&mut document);
    let rules = rules();
    let of = |holder: &str, field: &str| {
        let found = rules
            .iter()
            .find(|(holders, name, _)| holders.contains(&holder) && *name == field);
        found.map(|(_, _, rule)| rule.clone())
    };
    if let Some(schemas) = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut)
    {
        for (name, schema) in schemas {
            if name == "Netmask" {
                *schema = netmask(schema.take());
            }
            each_object(schema, &mut |object| {
                for (field, schema) in object
                    .get_mut("properties")
                    .and_then(Value::as_object_mut)
                    .into_iter()
                    .flatten()
                {
                    if let (Some(rule), Some(schema)) = (of(name, field), schema.as_object_mut()) {
                        narrow(schema, rule);
                    }
                }
            });
        }
    }
    each_object(&mut document, &mut |object| {
        let word = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let rule = of(&word("in"), &word("name"));
        if let (Some(rule), Some(schema)) = (rule, object.get_mut("schema").and_then(Value::as_object_mut)) {
            narrow(schema, rule);
        }
    });
    document
}

/// A mask or a length: the two forms of a schema.
fn netmask(mut schema: Value) -> Value {
    for form in schema
        .get_mut("oneOf")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let is_text = form["type"] == "string";
        if let Some(form) = form.as_object_mut() {
            narrow(form, if is_text { text(IPV4) } else { range(1, 128) });
        }
    }
    schema
}

fn narrow(schema: &mut Map<String, Value>, rule: Value) {
    if let Value::Object(rule) = rule {
        schema.extend(rule);
    }
}

fn each_object(value: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            for child in object.values_mut() {
                each_object(child, visit);
            }
        }
        Value::Array(items) => {
            for item in items {
                each_object(item, visit);
            }
        }
        _ => {}
    }
}

/// The formats `int32` and `int64` are signed, but no number here is signed. So a range says which numbers fit.
fn widen(document: &mut Value) {
    each_object(document, &mut |object| {
        let most = match object.get("format").and_then(Value::as_str) {
            Some("int32") => u64::from(u32::MAX),
            Some("int64") => u64::MAX,
            _ => return,
        };
        if object.contains_key("minimum") {
            object.remove("format");
            object.entry("maximum").or_insert_with(|| json!(most));
        }
    });
}
