//! Any text as `lvsd.toml`: a configuration whose services the director takes, or an error that names a place in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_core::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text, "lvsd.toml") {
        Ok(config) => {
            let services = config.desired_services();
            assert!(services.is_ok(), "{:?}", services.err());
        }
        Err(error) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
            assert!(error.to_string().starts_with("lvsd.toml:"), "{error}");
        }
    }
});
