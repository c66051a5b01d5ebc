//! The OpenAPI document against the handlers: what it allows is understood, what it forbids is refused.
//!
//! In:  `openapi()` and a seed. Out: requests, each drawn from the schemas or broken in one place. `LVSD_FUZZ_SECONDS` says
//! for how long. A refusal for what other requests have made (409, 404) or for what fields mean together (422) is no fault
//! of the document; one for the form of a request (400) is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::{Map, Value, json};

use super::{AdminLimits, Testbed};
use crate::mgmt::admin::routes::openapi;
use lvs_test_support::http;

/// Paths whose answers do not end by themselves, or whose content is tested elsewhere.
const LEFT_OUT: [&str; 2] = ["/v1/capture", "/v1/openapi.json"];

struct Generator {
    document: Value,
    runner: TestRunner,
    patterns: BTreeMap<String, proptest::strategy::SBoxedStrategy<String>>,
}

impl Generator {
    fn number(&mut self, below: u64) -> u64 {
        (0..below.max(1)).new_tree(&mut self.runner).unwrap().current()
    }

    fn coin(&mut self) -> bool {
        self.number(2) == 0
    }

    fn pick<'v>(&mut self, values: &'v [Value]) -> &'v Value {
        let index = self.number(values.len() as u64) as usize;
        &values[index]
    }

    fn resolved(&self, schema: &Value) -> Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(path) => self.document.pointer(path.trim_start_matches('#')).unwrap().clone(),
            None => schema.clone(),
        }
    }

    fn text(&mut self, pattern: &str) -> String {
        let inner = pattern.trim_start_matches('^').trim_end_matches('$').to_owned();
        let strategy = self
            .patterns
            .entry(inner.clone())
            .or_insert_with(|| proptest::string::string_regex(&inner).unwrap().sboxed());
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    /// A value that the schema allows.
    fn valid(&mut self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            let choice = self.pick(choices).clone();
            return self.valid(&choice);
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return self.pick(words).clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => self.pick(kinds).clone(),
            kind => kind.clone(),
        };
        match kind.as_str().unwrap_or("object") {
            "null" => Value::Null,
            "boolean" => Value::Bool(self.coin()),
            "integer" => self.integer(&schema),
            "string" => match schema.get("pattern").and_then(Value::as_str) {
                Some(pattern) => Value::String(self.text(pattern)),
                None => Value::String(self.text("[a-z]{1,8}")),
            },
            "array" => {
                let count = self.number(3);
                (0..count).map(|_| self.valid(&schema["items"])).collect()
            }
            _ => self.object(&schema),
        }
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let least = schema.get("minimum").and_then(Value::as_u64).unwrap_or(0);
        let most = schema.get("maximum").and_then(Value::as_u64).unwrap_or(u64::MAX);
        if let Some(parts) = schema.get("anyOf").and_then(Value::as_array) {
            let part = self.pick(parts).clone();
            let mut whole = schema.as_object().unwrap().clone();
            whole.remove("anyOf");
            whole.extend(part.as_object().unwrap().clone());
            return self.integer(&Value::Object(whole));
        }
        let width = most - least;
        match self.number(4) {
            0 => json!(least),
            1 => json!(most),
            2 => json!(least + self.number(width.min(300).saturating_add(1))),
            _ => json!(least + self.number(width)),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut object = Map::new();
        let required = list_of(schema, "required");
        for (name, field) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if required.contains(&json!(name)) || self.coin() {
                object.insert(name.clone(), self.valid(field));
            }
        }
        Value::Object(object)
    }

    /// The same value broken in one place, or `None` where this schema allows everything.
    fn broken(&mut self, schema: &Value, value: &Value) -> Option<Value> {
        let schema = self.resolved(schema);
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            let objects: Vec<_> = choices.iter().map(|choice| self.resolved(choice)).collect();
            let is_scalar = objects.iter().all(|choice| choice["type"] != "object");
            return is_scalar.then(|| json!([[]]));
        }
        if schema.get("enum").is_some() {
            return Some(json!("no such word"));
        }
        match value {
            Value::Object(object) if schema.get("properties").is_some() => self.broken_object(&schema, object),
            Value::Array(items) if !items.is_empty() && self.coin() => {
                let mut items = items.clone();
                items[0] = self.broken(&schema["items"], &items[0])?;
                Some(Value::Array(items))
            }
            Value::Number(_) => Some(match schema.get("maximum").and_then(Value::as_u64) {
                Some(most) if most < u64::MAX && self.coin() => json!(most + 1),
                _ if self.coin() => json!(-1),
                _ if self.coin() => json!(1.5),
                _ => json!("1"),
            }),
            Value::String(_) => match schema.get("pattern").and_then(Value::as_str) {
                Some(_) if self.coin() => Some(json!(format!("{}%", value.as_str().unwrap()))),
                _ => Some(json!({ "no": "text" })),
            },
            Value::Bool(_) => Some(json!("yes")),
            Value::Array(_) => Some(json!("no list")),
            _ => None,
        }
    }

    fn broken_object(&mut self, schema: &Value, object: &Map<String, Value>) -> Option<Value> {
        let mut object = object.clone();
        let required = list_of(schema, "required");
        if schema["additionalProperties"] == false && self.number(4) == 0 {
            object.insert("no_such_field".into(), json!(1));
            return Some(Value::Object(object));
        }
        if !required.is_empty() && self.number(4) == 0 {
            let name = self.pick(&required).as_str()?.to_owned();
            object.remove(&name);
            return Some(Value::Object(object));
        }
        let names: Vec<Value> = object.keys().map(|name| json!(name)).collect();
        if names.is_empty() {
            return None;
        }
        let name = self.pick(&names).as_str()?.to_owned();
        let broken = self.broken(&schema["properties"][&name], &object[&name])?;
        object.insert(name, broken);
        Some(Value::Object(object))
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As a part of a URL.
fn escaped(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(letter).collect()
}

struct Request {
    method: String,
    target: String,
    body: String,
    is_allowed: bool,
}

/// The list in this field; empty if there is none.
fn list_of(value: &Value, field: &str) -> Vec<Value> {
    let list = value.get(field).and_then(Value::as_array);
    list.cloned().unwrap_or_default()
}

/// A request for an operation of the document.
fn request(generator: &mut Generator, path: &str, method: &str, operation: &Value) -> Option<Request> {
    let mut target = path.to_owned();
    let mut query = Vec::new();
    let parameters = list_of(operation, "parameters");
    let schema = operation
        .pointer("/requestBody/content/application~1json/schema")
        .cloned();
    let places = parameters.len() as u64 + u64::from(schema.is_some());
    let broken = (places > 0 && generator.coin()).then(|| generator.number(places) as usize);
    for (index, parameter) in parameters.iter().enumerate() {
        let name = parameter["name"].as_str()?;
        let schema = &parameter["schema"];
        let mut value = generator.valid(schema);
        let is_broken = broken == Some(index);
        if is_broken {
            value = generator
                .broken(schema, &value)
                .filter(|value| !value.is_object() && !value.is_array())?;
            // What a URL says is text, so only its form can be wrong.
            if value == json!("1")
                || (value.is_string() && schema.get("pattern").is_none() && schema.get("enum").is_none())
            {
                return None;
            }
        }
        if parameter["in"] == "path" {
            target = target.replace(&format!("{{{name}}}"), &escaped(&plain(&value)));
        } else if parameter["required"] == true || is_broken || generator.coin() {
            query.push(format!("{name}={}", escaped(&plain(&value))));
        }
    }
    if !query.is_empty() {
        target = format!("{target}?{}", query.join("&"));
    }
    let mut body = String::new();
    if let Some(schema) = schema {
        let mut value = generator.valid(&schema);
        if broken == Some(parameters.len()) {
            value = generator.broken(&schema, &value)?;
        }
        body = value.to_string();
    }
    Some(Request {
        method: method.to_uppercase(),
        target,
        body,
        is_allowed: broken.is_none(),
    })
}

/// Samples of `/metrics` that occur twice: the same name with the same labels.
fn repeated_samples(testbed: &Testbed) -> Vec<String> {
    let (status, text) = testbed.ask("GET", "/metrics", "");
    assert_eq!(status, 200);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut keys: Vec<&str> = samples
        .filter_map(|line| line.rsplit_once(' ').map(|(key, _)| key))
        .collect();
    keys.sort_unstable();
    keys.windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0].to_owned())
        .collect()
}

#[test]
fn the_document_and_the_handlers_agree_on_what_is_accepted() {
    let testbed = Testbed::new(AdminLimits::default());
    let seconds = std::env::var("LVSD_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let config = Config {
        rng_seed: RngSeed::Fixed(20_261_130),
        ..Config::default()
    };
    let mut generator = Generator {
        document: serde_json::from_str(&openapi()).unwrap(),
        runner: TestRunner::new(config),
        patterns: BTreeMap::new(),
    };
    let paths = generator.document["paths"].as_object().unwrap().clone();
    let operations: Vec<(String, String, Value)> = paths
        .iter()
        .filter(|(path, _)| !LEFT_OUT.contains(&path.as_str()))
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
        })
        .collect();
    let (mut asked, mut accepted, mut differences) = (0, 0, Vec::new());
    while Instant::now() < end && differences.len() < 20 {
        let index = generator.number(operations.len() as u64) as usize;
        let (path, method, operation) = &operations[index];
        let Some(request) = request(&mut generator, path, method, operation) else {
            continue;
        };
        let answer = http::ask(&testbed.socket, &request.method, &request.target, &request.body);
        let (status, text) = answer.expect("it answers");
        asked += 1;
        accepted += u32::from(status < 300);
        let agrees = if request.is_allowed {
            !matches!(status, 400 | 405 | 500)
        } else {
            (400..500).contains(&status)
        };
        if !agrees {
            let Request {
                method,
                target,
                body,
                is_allowed,
            } = request;
            differences.push(format!(
                "{method} {target} {body}: allowed {is_allowed}, {status} {text}"
            ));
        }
        if asked % 64 == 0 {
            assert_eq!(
                repeated_samples(&testbed),
                Vec::<String>::new(),
                "samples of /metrics are unique"
            );
        }
    }
    println!("{asked} requests, {accepted} accepted");
    assert!(asked > 100 && accepted > 20, "{asked} requests, {accepted} accepted");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
