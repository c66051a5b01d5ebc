//! What the daemon answers instead of success.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kind of refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body is not JSON of the expected shape; `place` says where (400).
    Malformed,
    /// The request itself is wrong: path, query or id (400).
    BadRequest,
    /// The peer may not use the socket (403).
    Forbidden,
    /// No such resource in the API (404).
    NoSuchPath,
    /// No such virtual service (404).
    NoSuchService,
    /// No such real server in this service (404).
    NoSuchServer,
    /// No sync daemon of this role runs (404).
    NoSuchSyncDaemon,
    /// The machine has no such network interface (422).
    NoSuchInterface,
    /// No mark rule of this number (404).
    NoSuchMark,
    /// The method does not exist for this resource (405).
    MethodNotAllowed,
    /// The request was not complete in time (408).
    RequestTimeout,
    /// The virtual service exists already (409).
    ServiceExists,
    /// The real server exists already in this service (409).
    ServerExists,
    /// A sync daemon of this role runs already (409).
    SyncDaemonExists,
    /// The body is larger than allowed (413).
    BodyTooLarge,
    /// A value or combination the director cannot carry out (422).
    Refused,
    /// The configuration file was refused (422).
    ConfigRefused,
    /// The daemon is too busy or still starting (503).
    Busy,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NoSuchPath | Self::NoSuchService | Self::NoSuchServer | Self::NoSuchSyncDaemon | Self::NoSuchMark => {
                404
            }
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::ServiceExists | Self::ServerExists | Self::SyncDaemonExists => 409,
            Self::BodyTooLarge => 413,
            Self::Refused | Self::ConfigRefused | Self::NoSuchInterface => 422,
            Self::Busy => 503,
        }
    }
}

/// Why a request was refused. The running state is as it was before the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Where in the request: `services[2].servers[0].weight`; absent when it is the whole request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl ApiError {
    /// A refusal of the whole request.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: None,
        }
    }

    /// The same refusal, about one place of the request.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        let place = place.into();
        self.place = (!place.is_empty() && place != ".").then_some(place);
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(formatter, "{place}: {}", self.message),
            None => formatter.write_str(&self.message),
        }
    }
}

impl std::error::Error for ApiError {}
