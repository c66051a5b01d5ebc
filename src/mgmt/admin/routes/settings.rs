//! `/v1/sysctls` and `/v1/marks`: the kernel's settings and the classifier's rules.

use std::collections::BTreeMap;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use lvs_api::{Action, ApiError, ErrorCode, MarkRule, SettingValue, Settings};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Done, Lvsd, carry_out};
use crate::mgmt::admin::body::{Asked, JsonBody, Path, Refusal};

/// The kernel's IPVS settings (`net.ipv4.vs.*`) as they are now, by name.
#[utoipa::path(get, path = "/v1/sysctls", responses((status = 200, body = BTreeMap<String, String>)))]
pub(super) async fn get_sysctls(Shared(admin): Lvsd) -> axum::Json<BTreeMap<String, String>> {
    axum::Json(admin.director().settings())
}

/// Sets the named settings, all of them or none; the others stay.
#[utoipa::path(
    patch, path = "/v1/sysctls", request_body = BTreeMap<String, SettingValue>,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn set_sysctls(Shared(admin): Lvsd, JsonBody(named): JsonBody<Settings>) -> Done {
    carry_out(&admin, Action::SetSysctls(named)).await
}

/// The rules of the classifier, in order: the first that matches decides. The first one has number 1.
#[utoipa::path(get, path = "/v1/marks", responses((status = 200, body = Vec<MarkRule>)))]
pub(super) async fn list_marks(Shared(admin): Lvsd) -> axum::Json<Vec<MarkRule>> {
    axum::Json(admin.director().mark_rules())
}

/// Sets all rules of the classifier.
#[utoipa::path(
    put, path = "/v1/marks", request_body = Vec<MarkRule>,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn set_marks(Shared(admin): Lvsd, JsonBody(rules): JsonBody<Vec<MarkRule>>) -> Done {
    carry_out(&admin, Action::SetMarks(rules)).await
}

/// Where a rule goes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Numbered {
    /// The number that it gets, from 1; absent: it becomes the last.
    number: Option<usize>,
}

/// Adds a rule to the classifier.
#[utoipa::path(
    post, path = "/v1/marks", params(Numbered), request_body = MarkRule,
    responses((status = 201), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn add_mark(
    Shared(admin): Lvsd,
    Asked(numbered): Asked<Numbered>,
    JsonBody(rule): JsonBody<MarkRule>,
) -> Done {
    let position = numbered.number.map(position).transpose()?;
    carry_out(&admin, Action::AddMark { position, rule })
        .await
        .map(|_| StatusCode::CREATED)
}

/// Deletes the rule of this number; those behind it move up.
#[utoipa::path(
    delete, path = "/v1/marks/{number}", params(("number" = usize, Path, description = "from 1, as listed")),
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn delete_mark(Shared(admin): Lvsd, Path(number): Path<usize>) -> Done {
    let position = position(number)?;
    carry_out(&admin, Action::DeleteMark { position }).await
}

/// How many rules come before the one of this number.
fn position(number: usize) -> Result<usize, Refusal> {
    number.checked_sub(1).ok_or_else(|| {
        let message = "mark rules are numbered from 1";
        Refusal(ApiError::new(ErrorCode::BadRequest, message).at("number"))
    })
}
