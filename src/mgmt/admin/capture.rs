//! `GET /v1/capture`: frames and what became of them, as a pcapng stream.
//!
//! In:  a filter and limits. Out: a tap on every worker, and what they record, as the body ([`stream`]).
//! Never: makes a worker wait. When the client goes, or a limit is reached, the taps end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lvs_api::{ApiError, CaptureAsked, CaptureDirection, ErrorCode};
use lvs_core::capture::{CaptureFilter, EndPattern, VerdictName};
use lvs_core::verdict::DropReason;
use tokio::sync::OwnedSemaphorePermit;

use super::Admin;
use super::body::{Asked, Refusal};
use crate::dpdk::clock;
use crate::mgmt::director::convert;
use crate::worker::capture::{SNAP_MAX, Tap, TapSettings};

mod comment;
mod stream;

use stream::Capture;

/// How many records of 2 KiB may wait: for all workers together, and at least and at most for one of them.
const RECORDS_MAX: usize = 4_096;
const RECORDS_OF_WORKER: (usize, usize) = (256, 1_024);

/// An Ethernet header.
const SNAP_MIN: u64 = 14;

/// How much at most.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    frames: u64,
    bytes: u64,
    seconds: u64,
    snap: u64,
}

/// Records frames until a limit is reached or the client goes.
#[utoipa::path(
    get, path = "/v1/capture", params(CaptureAsked),
    responses(
        (
            status = 200, content_type = "application/x-pcapng", body = Vec<u8>,
            description = "pcapng: what became of a frame is its comment, frames lost are in the interfaces' statistics"
        ),
        (status = "4XX", body = ApiError), (status = "5XX", body = ApiError)
    )
)]
pub async fn get_capture(
    Shared(admin): Shared<Arc<Admin>>,
    Asked(asked): Asked<CaptureAsked>,
) -> Result<Response, Refusal> {
    let bounds = bounds(&asked)?;
    let filter = filter(&admin, &asked)?;
    let Ok(place) = Arc::clone(&admin.captures).try_acquire_owned() else {
        let message = "as many captures run as may at once; wait for one, or end it";
        return Err(ApiError::new(ErrorCode::Busy, message).into());
    };
    let capture = start(&admin, filter, asked.direction, bounds, place)?;
    let body = Body::from_stream(stream::parts(capture));
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}

fn refused(message: impl Into<String>, place: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message).at(place)
}

fn bounds(asked: &CaptureAsked) -> Result<Bounds, ApiError> {
    let checked = |value: Option<u64>, default: u64, (min, max): (u64, u64), place: &str| match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(refused(format!("{value} is out of range: give {min} to {max}"), place))
        }
        value => Ok(value.unwrap_or(default)),
    };
    let snap_max = SNAP_MAX as u64;
    Ok(Bounds {
        frames: checked(asked.count, 10_000, (1, 10_000_000), "count")?,
        bytes: checked(asked.bytes, 64 << 20, (1, 1 << 32), "bytes")?,
        seconds: checked(asked.seconds, 60, (1, 3_600), "seconds")?,
        snap: checked(asked.snap, snap_max, (SNAP_MIN, snap_max), "snap")?,
    })
}

fn filter(admin: &Admin, asked: &CaptureAsked) -> Result<CaptureFilter, ApiError> {
    let device = match &asked.device {
        Some(name) => Some(admin.director().device_named(Some(name)).map_err(|known| {
            let message = format!("there is no device {name:?}; there are {}", known.join(", "));
            refused(message, "device")
        })?),
        None => None,
    };
    let verdict = asked.verdict.as_deref().map(verdict_named).transpose()?;
    let reason = asked.reason.as_deref().map(reason_named).transpose()?;
    if let (Some(_), Some(verdict)) = (reason, verdict)
        && verdict != VerdictName::Drop
    {
        let message = format!(
            "a frame with the verdict {} has no reason; leave one of them out",
            verdict.name()
        );
        return Err(refused(message, "reason"));
    }
    let end = |end: lvs_api::EndPattern| EndPattern {
        addr: end.addr,
        port: end.port,
    };
    Ok(CaptureFilter {
        device,
        protocol: asked.protocol.map(convert::protocol_number),
        addr: asked.addr.map(end),
        client: asked.client.map(end),
        virt: asked.vip.map(end),
        real: asked.real.map(end),
        verdict,
        reason,
    })
}

fn verdict_named(name: &str) -> Result<VerdictName, ApiError> {
    let found = VerdictName::ALL.into_iter().find(|verdict| verdict.name() == name);
    found.ok_or_else(|| {
        let known = VerdictName::ALL.map(VerdictName::name).join(", ");
        refused(
            format!("there is no verdict {name:?}; choose one of {known}"),
            "verdict",
        )
    })
}

fn reason_named(name: &str) -> Result<DropReason, ApiError> {
    // The twin thread has no tap.
    let seen = || {
        DropReason::ALL
            .iter()
            .filter(|reason| **reason != DropReason::TwinWriteFailed)
    };
    if let Some(reason) = seen().find(|reason| reason.name() == name) {
        return Ok(*reason);
    }
    let message = if DropReason::ALL.iter().any(|reason| reason.name() == name) {
        format!("{name} happens outside the workers, where nothing is captured; lvsctl drops counts it")
    } else {
        let known: Vec<_> = seen().map(|reason| reason.name()).collect();
        format!("there is no reason {name:?}; choose one of {}", known.join(", "))
    };
    Err(refused(message, "reason"))
}

fn start(
    admin: &Admin,
    filter: CaptureFilter,
    direction: Option<CaptureDirection>,
    bounds: Bounds,
    place: OwnedSemaphorePermit,
) -> Result<Capture, ApiError> {
    let director = admin.director();
    let devices = director.device_names().to_vec();
    let workers = director.workers().to_vec();
    drop(director);
    let (now, cycles) = (Instant::now(), clock::cycles());
    let hz = workers.first().map_or(1, |worker| worker.cycles_per_sec()).max(1);
    let settings = TapSettings {
        filter,
        arriving: direction != Some(CaptureDirection::Out),
        leaving: direction != Some(CaptureDirection::In),
        snap: bounds.snap as usize,
        end_cycles: cycles.saturating_add(bounds.seconds.saturating_mul(hz)),
    };
    let (at_least, at_most) = RECORDS_OF_WORKER;
    let records = (RECORDS_MAX / workers.len().max(1)).clamp(at_least, at_most);
    let mut ends = Vec::with_capacity(workers.len());
    for worker in workers {
        let (tap, end) = Tap::new(settings, records);
        ends.push(end);
        if !worker.tap(tap) {
            let message = "a worker takes no commands now; try again";
            return Err(ApiError::new(ErrorCode::Busy, message));
        }
    }
    Ok(Capture {
        ends,
        devices,
        began: (cycles, SystemTime::now()),
        hz,
        end: now + Duration::from_secs(bounds.seconds),
        frames_left: bounds.frames,
        bytes_left: bounds.bytes,
        lost_reported: (0, now),
        has_begun: false,
        has_ended: false,
        _place: place,
    })
}
