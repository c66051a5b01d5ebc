//! Sync daemons over the admin socket.

use axum::extract::State as Shared;
use axum::http::StatusCode;
use lvs_api::{Action, ApiError, SyncDaemon, SyncDaemonStatus};

use super::{Done, Lvsd, carry_out, named};
use crate::mgmt::admin::body::{JsonBody, Path};

/// Sync daemons as they run, the master first.
#[utoipa::path(get, path = "/v1/sync-daemons", responses((status = 200, body = Vec<SyncDaemonStatus>)))]
pub(super) async fn list_sync_daemons(Shared(admin): Lvsd) -> axum::Json<Vec<SyncDaemonStatus>> {
    axum::Json(admin.director().sync_daemons())
}

/// Starts a sync daemon.
#[utoipa::path(
    post, path = "/v1/sync-daemons", request_body = SyncDaemon,
    responses((status = 201), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn start_sync_daemon(Shared(admin): Lvsd, JsonBody(daemon): JsonBody<SyncDaemon>) -> Done {
    carry_out(&admin, Action::StartSyncDaemon(daemon))
        .await
        .map(|_| StatusCode::CREATED)
}

/// Stops a sync daemon.
#[utoipa::path(
    delete, path = "/v1/sync-daemons/{role}", params(("role" = String, Path, description = "master or backup")),
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub(super) async fn stop_sync_daemon(Shared(admin): Lvsd, Path(role): Path<String>) -> Done {
    carry_out(&admin, Action::StopSyncDaemon(named(&role, "role")?)).await
}
