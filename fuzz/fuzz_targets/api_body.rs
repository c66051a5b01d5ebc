//! Any bytes as the body of a request on the admin socket: what is read of it, written and read again is the same.
//!
//! The first byte says which body; the last of [`BODIES`] is the name of a service, as paths have it.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use lvs_api::{
    LocalAddresses, MarkRule, Server, ServerPatch, ServerSettings, Service, ServiceId, ServicePatch, ServiceSettings,
    Settings, State, SyncDaemon, TimeoutsPatch,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte chooses one of them. `cargo xtask fuzz-seeds` counts in the same order.
const BODIES: [fn(&[u8]); 13] = [
    body::<Service>,
    body::<ServiceSettings>,
    body::<ServicePatch>,
    body::<Server>,
    body::<ServerSettings>,
    body::<ServerPatch>,
    body::<SyncDaemon>,
    body::<TimeoutsPatch>,
    body::<LocalAddresses>,
    body::<Settings>,
    body::<Vec<MarkRule>>,
    body::<State>,
    service_id,
];

/// As the daemon reads it.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => deserializer.end().is_ok().then_some(value),
        Err(error) => {
            let _ = (error.path().to_string(), error.to_string());
            None
        }
    }
}

fn body<T: DeserializeOwned + Serialize + Debug + PartialEq>(bytes: &[u8]) {
    if let Some(value) = parse::<T>(bytes) {
        let text = serde_json::to_vec(&value).expect("what is read can be written");
        assert_eq!(parse::<T>(&text).as_ref(), Some(&value));
    }
}

fn service_id(bytes: &[u8]) {
    let parsed = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<ServiceId>().ok());
    if let Some(id) = parsed {
        assert_eq!(id.to_string().parse::<ServiceId>().as_ref(), Ok(&id));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((kind, body)) = bytes.split_first()
        && let Some(check) = BODIES.get(usize::from(*kind))
    {
        check(body);
    }
});
