//! What monitoring reads: Prometheus' metrics, and the texts of `/proc/net/ip_vs*`.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lvs_api::{ApiError, ErrorCode};

use super::Admin;
use super::body::{Path, Refusal};
use crate::mgmt::ipvs_netlink::proc_files;
use crate::mgmt::metrics;

/// Everything counted, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn get_metrics(Shared(admin): Shared<Arc<Admin>>) -> Response {
    let text = metrics::text(&admin).await;
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

/// What the kernel's `/proc/net/` would hold: `ip_vs`, `ip_vs_stats`, `ip_vs_stats_percpu`, `ip_vs_conn`, ….
#[utoipa::path(
    get, path = "/v1/proc/{file}", params(("file" = String, Path, description = "ip_vs")),
    responses((status = 200, content_type = "text/plain", body = String), (status = "4XX", body = ApiError))
)]
pub async fn get_proc_file(Shared(admin): Shared<Arc<Admin>>, Path(file): Path<String>) -> Result<Response, Refusal> {
    let rendered = proc_files::render(Arc::clone(&admin.director), format!("/proc/net/{file}")).await;
    let Some(text) = rendered else {
        let message = format!(
            "there is no /proc/net/{file} of IPVS; there are {}",
            lvs_api::proc_text::NAMES.join(", ")
        );
        return Err(ApiError::new(ErrorCode::NoSuchPath, message).at("file").into());
    };
    Ok(([(header::CONTENT_TYPE, "text/plain")], text).into_response())
}
