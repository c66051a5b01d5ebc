//! Requests from bytes to types, and refusals from types to bytes.
//!
//! In:  a body or a query of bounded size, in bounded time. Out: the type, or a refusal that names the place.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Bytes;
use lvs_api::{ApiError, ErrorCode, State};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Admin;

/// A refusal as an answer.
#[derive(Debug)]
pub struct Refusal(pub ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self.0)).into_response()
    }
}

/// A body of ordinary size.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Admin>> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Self, Refusal> {
        let bytes = read(request, admin, admin.limits.body_max_bytes).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A body that may be as large as a whole desired state.
#[derive(Debug)]
pub struct StateBody(pub State);

impl FromRequest<Arc<Admin>> for StateBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Self, Refusal> {
        let bytes = read(request, admin, admin.limits.state_max_bytes).await?;
        Ok(Self(parse(&bytes)?))
    }
}

async fn read(request: Request, admin: &Admin, max_bytes: usize) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), max_bytes);
    let Ok(collected) = timeout(admin.limits.body_timeout, body.collect()).await else {
        let message = format!(
            "the body was not complete after {:?}; send it at once",
            admin.limits.body_timeout
        );
        return Err(ApiError::new(ErrorCode::RequestTimeout, message).into());
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the body is larger than {max_bytes} bytes; send it in parts");
            Err(ApiError::new(ErrorCode::BodyTooLarge, message).into())
        }
        Err(error) => Err(ApiError::new(ErrorCode::BadRequest, format!("the body cannot be read: {error}")).into()),
    }
}

/// JSON as `T`; an error names the place and what is expected there.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::new(
            ErrorCode::Malformed,
            "the body is empty; send JSON (GET /v1/openapi.json)",
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = error.path().to_string();
        ApiError::new(ErrorCode::Malformed, in_words(error.into_inner().to_string())).at(place)
    })?;
    deserializer
        .end()
        .map_err(|error| ApiError::new(ErrorCode::Malformed, error.to_string()))?;
    Ok(value)
}

/// A parser's message without the names of Rust's types.
fn in_words(message: String) -> String {
    let numbers = [
        ("u8", u64::from(u8::MAX)),
        ("u16", u64::from(u16::MAX)),
        ("u32", u64::from(u32::MAX)),
        ("u64", u64::MAX),
    ];
    numbers.into_iter().fold(message, |message, (name, max)| {
        let of_rust = format!("expected {name} at line");
        message.replace(&of_rust, &format!("expected a whole number from 0 to {max} at line"))
    })
}

/// The query of a request.
#[derive(Debug)]
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => {
                let text = error.body_text();
                let place = place_of(&text).to_owned();
                Err(ApiError::new(ErrorCode::BadRequest, text).at(place).into())
            }
        }
    }
}

/// The parameter that a refusal of axum's names: `limit` of `Failed to deserialize query string: limit: invalid digit`.
fn place_of(text: &str) -> &str {
    let name = text.split_once(": ").and_then(|(_, rest)| rest.split_once(": "));
    name.map(|(name, _)| name)
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .unwrap_or_default()
}

/// What stands in a path.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(named)) => Ok(Self(named)),
            Err(error) => Err(ApiError::new(ErrorCode::BadRequest, error.body_text()).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lvs_api::Service;

    #[test]
    fn an_unknown_field_is_refused_with_its_place_and_the_known_ones() {
        let text = br#"{"service": "tcp:192.0.2.1:80", "servers": [{"server": "198.51.100.1:80", "wieght": 3}]}"#;
        let error = parse::<Service>(text).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("servers[0].wieght"));
        assert!(error.message.contains("`weight`"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_place() {
        let text = br#"{"service": "tcp:192.0.2.1:80", "servers": [{"server": "198.51.100.1:80", "weight": "3"}]}"#;
        let error = parse::<Service>(text).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("servers[0].weight"));
    }

    #[test]
    fn nothing_and_trailing_garbage_are_refused() {
        for text in ["", "  \n", r#"{"service": "tcp:192.0.2.1:80"} x"#] {
            assert_eq!(
                parse::<Service>(text.as_bytes()).unwrap_err().code,
                ErrorCode::Malformed
            );
        }
    }
}
