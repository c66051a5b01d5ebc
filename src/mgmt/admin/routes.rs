//! Paths, methods and what each asks of the director: one list gives the router and its OpenAPI document.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use lvs_api::{
    Action, ApiError, Buffers, ConnFilter, ConnRecord, Device, DropCount, ErrorCode, JournalStatus, LocalAddresses,
    ReloadReport, RestartStatus, Server, ServerPatch, ServerSettings, ServerStatus, Service, ServiceId, ServicePatch,
    ServiceSettings, ServiceStatus, State, StateDiff, Stats, Timeouts, TimeoutsPatch, Version, Worker,
};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Asked, JsonBody, Path, Refusal, StateBody};
use super::{Admin, capture, connections, observe, openapi, why};
use crate::mgmt::director::publication::changes_arrive;
use crate::mgmt::lock::lock;

mod settings;
mod sync_daemons;

type Lvsd = Shared<Arc<Admin>>;
type Answer<T> = Result<axum::Json<T>, Refusal>;
type Done = Result<StatusCode, Refusal>;

/// The document's head.
#[derive(OpenApi)]
#[openapi(info(
    title = "lvsd",
    description = "The admin socket of lvsd, a Linux Virtual Server director: HTTP/1.1 on a Unix socket. \
                   Every change is carried out as a whole or not at all; every refusal is an ApiError.",
    version = "1"
))]
struct Document;

fn documented() -> (Router<Arc<Admin>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(get_version))
        .routes(routes!(get_state, replace_state))
        .routes(routes!(list_services, add_service, flush))
        .routes(routes!(get_service, set_service, patch_service, delete_service))
        .routes(routes!(list_servers, add_server))
        .routes(routes!(set_server, patch_server, delete_server))
        .routes(routes!(get_local_addresses, set_local_addresses, clear_local_addresses))
        .routes(routes!(list_connections))
        .routes(routes!(list_devices))
        .routes(routes!(get_buffers))
        .routes(routes!(list_workers))
        .routes(routes!(get_journal))
        .routes(routes!(get_restart))
        .routes(routes!(forget_state))
        .routes(routes!(list_drops))
        .routes(routes!(get_stats))
        .routes(routes!(zero_stats))
        .routes(routes!(get_timeouts, set_timeouts))
        .routes(routes!(settings::get_sysctls, settings::set_sysctls))
        .routes(routes!(settings::list_marks, settings::set_marks, settings::add_mark))
        .routes(routes!(settings::delete_mark))
        .routes(routes!(
            sync_daemons::list_sync_daemons,
            sync_daemons::start_sync_daemon
        ))
        .routes(routes!(sync_daemons::stop_sync_daemon))
        .routes(routes!(reload))
        .routes(routes!(why::get_why))
        .routes(routes!(capture::get_capture))
        .routes(routes!(observe::get_metrics))
        .routes(routes!(observe::get_proc_file))
        .routes(routes!(get_openapi))
        .split_for_parts()
}

/// The OpenAPI document, as checked in at `conf/openapi.json`.
pub fn openapi() -> String {
    let document = serde_json::to_value(documented().1).expect("plain data");
    let mut text = serde_json::to_string_pretty(&openapi::exact(document)).expect("plain data");
    text.push('\n');
    text
}

/// Everything on the socket.
pub fn router(admin: Arc<Admin>) -> Router {
    let (router, _) = documented();
    let router = router
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed);
    router.with_state(admin)
}

async fn no_such_path(uri: Uri) -> Refusal {
    let message = format!("there is no {}; GET /v1/openapi.json lists what there is", uri.path());
    Refusal(ApiError::new(ErrorCode::NoSuchPath, message))
}

async fn method_not_allowed(uri: Uri) -> Refusal {
    let message = format!(
        "{} has no such method; GET /v1/openapi.json lists what there is",
        uri.path()
    );
    Refusal(ApiError::new(ErrorCode::MethodNotAllowed, message))
}

fn named<T: FromStr<Err: std::fmt::Display>>(text: &str, what: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| {
        let message = format!("{text:?}: {error}");
        Refusal(ApiError::new(ErrorCode::BadRequest, message).at(what))
    })
}

fn server_named(text: &str) -> Result<std::net::SocketAddr, Refusal> {
    lvs_api::endpoint(text).ok_or_else(|| {
        let message =
            format!("{text:?} names no real server: write ADDRESS:PORT, as in 198.51.100.1:80 or [2001:db8::1]:80");
        Refusal(ApiError::new(ErrorCode::BadRequest, message).at("server"))
    })
}

/// The answer comes when the workers decide about packets by the change.
async fn carry_out(admin: &Admin, action: Action) -> Done {
    admin.director().apply(action, Instant::now())?;
    changes_arrive(&admin.director).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Versions and sizes of the daemon.
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version)))]
async fn get_version(Shared(admin): Lvsd) -> axum::Json<Version> {
    axum::Json(admin.version.clone())
}

/// The whole desired state.
#[utoipa::path(get, path = "/v1/state", responses((status = 200, body = State)))]
async fn get_state(Shared(admin): Lvsd) -> axum::Json<State> {
    axum::Json(admin.director().state())
}

/// How to replace the state.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Replacing {
    /// Only compute what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Replaces the whole desired state: all of it or, on any error, nothing. What is equal is left alone.
#[utoipa::path(
    put, path = "/v1/state", params(Replacing), request_body = State,
    responses((status = 200, body = StateDiff), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn replace_state(
    Shared(admin): Lvsd,
    Asked(replacing): Asked<Replacing>,
    StateBody(state): StateBody,
) -> Answer<StateDiff> {
    let diff = admin.director().replace(state, replacing.dry_run, Instant::now())?;
    if !replacing.dry_run {
        changes_arrive(&admin.director).await;
    }
    Ok(axum::Json(diff))
}

/// All virtual services as they run, oldest first.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Vec<ServiceStatus>)))]
async fn list_services(Shared(admin): Lvsd) -> axum::Json<Vec<ServiceStatus>> {
    axum::Json(admin.director().services())
}

/// Adds a virtual service, with its servers and local addresses when given.
#[utoipa::path(
    post, path = "/v1/services", request_body = Service,
    responses((status = 201), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn add_service(Shared(admin): Lvsd, JsonBody(service): JsonBody<Service>) -> Done {
    carry_out(&admin, Action::AddService(service))
        .await
        .map(|_| StatusCode::CREATED)
}

/// Deletes every virtual service.
#[utoipa::path(delete, path = "/v1/services", responses((status = 204), (status = "5XX", body = ApiError)))]
async fn flush(Shared(admin): Lvsd) -> Done {
    carry_out(&admin, Action::Flush).await
}

/// One virtual service as it runs.
#[utoipa::path(
    get, path = "/v1/services/{service}", params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    responses((status = 200, body = ServiceStatus), (status = "4XX", body = ApiError))
)]
async fn get_service(Shared(admin): Lvsd, Path(service): Path<String>) -> Answer<ServiceStatus> {
    let service: ServiceId = named(&service, "service")?;
    Ok(axum::Json(admin.director().service(&service)?))
}

/// Sets a virtual service; what is absent gets its default. Servers, local addresses and connections stay.
#[utoipa::path(
    put, path = "/v1/services/{service}", params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    request_body = ServiceSettings,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn set_service(
    Shared(admin): Lvsd,
    Path(service): Path<String>,
    JsonBody(settings): JsonBody<ServiceSettings>,
) -> Done {
    let service = named(&service, "service")?;
    carry_out(
        &admin,
        Action::EditService {
            service,
            patch: settings.into(),
        },
    )
    .await
}

/// Changes a virtual service; what is absent stays.
#[utoipa::path(
    patch, path = "/v1/services/{service}", params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    request_body = ServicePatch,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn patch_service(
    Shared(admin): Lvsd,
    Path(service): Path<String>,
    JsonBody(patch): JsonBody<ServicePatch>,
) -> Done {
    let service = named(&service, "service")?;
    carry_out(&admin, Action::EditService { service, patch }).await
}

/// Deletes a virtual service and its servers.
#[utoipa::path(
    delete, path = "/v1/services/{service}", params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn delete_service(Shared(admin): Lvsd, Path(service): Path<String>) -> Done {
    carry_out(&admin, Action::DeleteService(named(&service, "service")?)).await
}

/// The real servers of a virtual service as they run, oldest first.
#[utoipa::path(
    get, path = "/v1/services/{service}/servers",
    params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    responses((status = 200, body = Vec<ServerStatus>), (status = "4XX", body = ApiError))
)]
async fn list_servers(Shared(admin): Lvsd, Path(service): Path<String>) -> Answer<Vec<ServerStatus>> {
    let service: ServiceId = named(&service, "service")?;
    Ok(axum::Json(admin.director().service(&service)?.servers))
}

/// Adds a real server.
#[utoipa::path(
    post, path = "/v1/services/{service}/servers",
    params(("service" = String, Path, description = "tcp:192.0.2.1:80")), request_body = Server,
    responses((status = 201), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn add_server(Shared(admin): Lvsd, Path(service): Path<String>, JsonBody(server): JsonBody<Server>) -> Done {
    let service = named(&service, "service")?;
    carry_out(&admin, Action::AddServer { service, server })
        .await
        .map(|_| StatusCode::CREATED)
}

/// Sets a real server; what is absent gets its default. Connections stay.
#[utoipa::path(
    put, path = "/v1/services/{service}/servers/{server}",
    params(
        ("service" = String, Path, description = "tcp:192.0.2.1:80"),
        ("server" = String, Path, description = "198.51.100.1:80")
    ),
    request_body = ServerSettings,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn set_server(
    Shared(admin): Lvsd,
    Path((service, server)): Path<(String, String)>,
    JsonBody(settings): JsonBody<ServerSettings>,
) -> Done {
    let (service, server) = (named(&service, "service")?, server_named(&server)?);
    carry_out(
        &admin,
        Action::EditServer {
            service,
            server,
            patch: settings.into(),
        },
    )
    .await
}

/// Changes a real server; what is absent stays.
#[utoipa::path(
    patch, path = "/v1/services/{service}/servers/{server}",
    params(
        ("service" = String, Path, description = "tcp:192.0.2.1:80"),
        ("server" = String, Path, description = "198.51.100.1:80")
    ),
    request_body = ServerPatch,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn patch_server(
    Shared(admin): Lvsd,
    Path((service, server)): Path<(String, String)>,
    JsonBody(patch): JsonBody<ServerPatch>,
) -> Done {
    let (service, server) = (named(&service, "service")?, server_named(&server)?);
    carry_out(&admin, Action::EditServer { service, server, patch }).await
}

/// Deletes a real server.
#[utoipa::path(
    delete, path = "/v1/services/{service}/servers/{server}",
    params(
        ("service" = String, Path, description = "tcp:192.0.2.1:80"),
        ("server" = String, Path, description = "198.51.100.1:80")
    ),
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn delete_server(Shared(admin): Lvsd, Path((service, server)): Path<(String, String)>) -> Done {
    let (service, server) = (named(&service, "service")?, server_named(&server)?);
    carry_out(&admin, Action::DeleteServer { service, server }).await
}

/// The local-address pool of a virtual service.
#[utoipa::path(
    get, path = "/v1/services/{service}/local-addresses",
    params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    responses((status = 200, body = LocalAddresses), (status = "4XX", body = ApiError))
)]
async fn get_local_addresses(Shared(admin): Lvsd, Path(service): Path<String>) -> Answer<LocalAddresses> {
    let service: ServiceId = named(&service, "service")?;
    let addresses = admin.director().service(&service)?.local_addresses;
    Ok(axum::Json(LocalAddresses { addresses }))
}

/// Sets the whole pool: masquerading servers of the service are reached by FULLNAT.
#[utoipa::path(
    put, path = "/v1/services/{service}/local-addresses",
    params(("service" = String, Path, description = "tcp:192.0.2.1:80")), request_body = LocalAddresses,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn set_local_addresses(
    Shared(admin): Lvsd,
    Path(service): Path<String>,
    JsonBody(pool): JsonBody<LocalAddresses>,
) -> Done {
    let service = named(&service, "service")?;
    carry_out(
        &admin,
        Action::SetLocalAddresses {
            service,
            addresses: pool.addresses,
        },
    )
    .await
}

/// Empties the pool: FULLNAT becomes NAT again.
#[utoipa::path(
    delete, path = "/v1/services/{service}/local-addresses",
    params(("service" = String, Path, description = "tcp:192.0.2.1:80")),
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn clear_local_addresses(Shared(admin): Lvsd, Path(service): Path<String>) -> Done {
    let service = named(&service, "service")?;
    carry_out(
        &admin,
        Action::SetLocalAddresses {
            service,
            addresses: Vec::new(),
        },
    )
    .await
}

/// Connections, one JSON object a line, as a stream: a table of any size. A stream that breaks off is not whole.
#[utoipa::path(
    get, path = "/v1/connections", params(ConnFilter),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = ConnRecord),
        (status = "4XX", body = ApiError)
    )
)]
async fn list_connections(Shared(admin): Lvsd, Asked(filter): Asked<ConnFilter>) -> Result<Response, Refusal> {
    let body = connections::body(&admin, filter)?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The NICs.
#[utoipa::path(get, path = "/v1/devices", responses((status = 200, body = Vec<Device>)))]
async fn list_devices(Shared(admin): Lvsd) -> axum::Json<Vec<Device>> {
    axum::Json((admin.devices)())
}

/// The polling cores.
#[utoipa::path(get, path = "/v1/workers", responses((status = 200, body = Vec<Worker>)))]
async fn list_workers(Shared(admin): Lvsd) -> axum::Json<Vec<Worker>> {
    axum::Json(admin.director().worker_reports())
}

/// Whether the journal holds every change.
#[utoipa::path(get, path = "/v1/journal", responses((status = 200, body = JournalStatus)))]
async fn get_journal(Shared(admin): Lvsd) -> axum::Json<JournalStatus> {
    axum::Json(admin.director().journal_status())
}

/// What outlives lvsd, what it took over from the one before, and how long its start took.
#[utoipa::path(get, path = "/v1/restart", responses((status = 200, body = RestartStatus)))]
async fn get_restart(Shared(admin): Lvsd) -> axum::Json<RestartStatus> {
    axum::Json(lock(&admin.kept.status).clone())
}

/// Gives back the memory in which connections and statistics outlive lvsd. They go on in this one, and the next one
/// begins without them.
#[utoipa::path(
    post, path = "/v1/restart/forget",
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn forget_state(Shared(admin): Lvsd) -> Done {
    admin.forget_state()?;
    Ok(StatusCode::NO_CONTENT)
}

/// Packet buffers.
#[utoipa::path(get, path = "/v1/buffers", responses((status = 200, body = Buffers)))]
async fn get_buffers(Shared(admin): Lvsd) -> axum::Json<Buffers> {
    axum::Json((admin.buffers)())
}

/// Dropped frames by reason, since start.
#[utoipa::path(get, path = "/v1/drops", responses((status = 200, body = Vec<DropCount>)))]
async fn list_drops(Shared(admin): Lvsd) -> axum::Json<Vec<DropCount>> {
    axum::Json(admin.director().drops())
}

/// Everything balanced since start or the last zero.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Stats)))]
async fn get_stats(Shared(admin): Lvsd) -> axum::Json<Stats> {
    axum::Json(admin.director().stats())
}

/// Sets every counter and rate of services and servers to 0.
#[utoipa::path(post, path = "/v1/stats/zero", responses((status = 204)))]
async fn zero_stats(Shared(admin): Lvsd) -> StatusCode {
    admin.director().zero_stats();
    StatusCode::NO_CONTENT
}

/// Timeouts of connections.
#[utoipa::path(get, path = "/v1/timeouts", responses((status = 200, body = Timeouts)))]
async fn get_timeouts(Shared(admin): Lvsd) -> axum::Json<Timeouts> {
    axum::Json(admin.director().timeouts())
}

/// Sets timeouts of connections; what is absent or 0 stays.
#[utoipa::path(
    put, path = "/v1/timeouts", request_body = TimeoutsPatch,
    responses((status = 204), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn set_timeouts(Shared(admin): Lvsd, JsonBody(patch): JsonBody<TimeoutsPatch>) -> Done {
    carry_out(&admin, Action::SetTimeouts(patch)).await
}

/// Reads the configuration file again and applies what changed in it; a wrong file changes nothing.
#[utoipa::path(
    post, path = "/v1/reload",
    responses((status = 200, body = ReloadReport), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
async fn reload(Shared(admin): Lvsd) -> Answer<ReloadReport> {
    let report = (admin.reload)()?;
    changes_arrive(&admin.director).await;
    Ok(axum::Json(report))
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
async fn get_openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_openapi_document_is_what_the_daemon_serves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/openapi.json");
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == openapi(),
            "conf/openapi.json differs from the routes; write it anew with cargo xtask openapi"
        );
    }
}
