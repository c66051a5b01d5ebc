//! `GET /v1/why`: asks the workers what they would do with a packet.
//!
//! In:  a packet in words. Out: the answer of the worker that has its connection, else of the one that would own it.
//! Never: sends anything, or changes anything on a worker.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use lvs_api::{ApiError, ErrorCode, Why, WhyAsked};
use lvs_core::explain::{End, Explanation, Question};
use tokio::time::timeout;

use super::Admin;
use super::body::{Asked, Refusal};
use crate::mgmt::director::convert;
use crate::mgmt::worker_handle::WorkerHandle;

/// The client's port if the question names none.
const EXAMPLE_PORT: u16 = 40_000;

/// Where a packet would go and why. Nothing is sent and nothing changes.
#[utoipa::path(
    get, path = "/v1/why", params(WhyAsked),
    responses((status = 200, body = Why), (status = "4XX", body = ApiError), (status = "5XX", body = ApiError))
)]
pub async fn get_why(Shared(admin): Shared<Arc<Admin>>, Asked(asked): Asked<WhyAsked>) -> Result<Json<Why>, Refusal> {
    if asked.client.is_ipv4() != asked.virt.is_ipv4() {
        let message = "client and VIP are of two address families; give two of one";
        return Err(ApiError::new(ErrorCode::Refused, message).at("client").into());
    }
    let device = admin
        .director()
        .device_named(asked.device.as_deref())
        .map_err(|known| {
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            let message = format!("there is no such device; there are {known}");
            ApiError::new(ErrorCode::Refused, message).at("device")
        })?;
    let question = Question {
        device,
        protocol: convert::protocol_number(asked.protocol),
        src: (asked.client, asked.client_port.unwrap_or(EXAMPLE_PORT)),
        dst: (asked.virt.ip(), asked.virt.port()),
        begins: !asked.established,
        is_handoff: false,
    };
    let (worker, explanation) = ask(&admin, question).await?;
    Ok(Json(admin.director().in_words(
        words(&asked, &question),
        worker,
        &explanation,
    )))
}

fn words(asked: &WhyAsked, question: &Question) -> String {
    let client = std::net::SocketAddr::from(question.src);
    let which = if question.begins {
        "first of a connection"
    } else {
        "of an old connection"
    };
    let device = asked
        .device
        .as_deref()
        .map_or_else(String::new, |name| format!(", arriving on {name}"));
    format!("{} {client} -> {}, {which}{device}", asked.protocol.name(), asked.virt)
}

/// The worker that decides about the packet, and what it says.
async fn ask(admin: &Admin, question: Question) -> Result<(usize, Explanation), ApiError> {
    let workers = admin.director().workers().to_vec();
    let mut owner = 0;
    for (number, worker) in workers.iter().enumerate() {
        let explanation = ask_one(admin, number, worker, question).await?;
        match explanation.end {
            // A worker that finds the connection in its own table has it.
            _ if explanation.conn.is_some() => return Ok((number, explanation)),
            End::Handoff(to) => owner = usize::from(to.0),
            _ => {}
        }
    }
    let Some(worker) = workers.get(owner) else {
        return Err(ApiError::new(ErrorCode::Busy, "no worker runs; try again"));
    };
    let handed_over = Question {
        is_handoff: true,
        ..question
    };
    Ok((owner, ask_one(admin, owner, worker, handed_over).await?))
}

async fn ask_one(
    admin: &Admin,
    number: usize,
    worker: &Arc<dyn WorkerHandle>,
    question: Question,
) -> Result<Explanation, ApiError> {
    match timeout(admin.limits.worker_timeout, worker.explain(question)).await {
        Ok(Ok(explanation)) => Ok(explanation),
        _ => Err(ApiError::new(
            ErrorCode::Busy,
            format!("worker {number} did not answer; try again"),
        )),
    }
}
