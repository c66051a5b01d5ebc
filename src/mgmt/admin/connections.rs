//! `GET /v1/connections`: the workers' tables as a stream of JSON lines.
//!
//! In:  a filter. Out: one part of one worker's table at a time, asked for when the client took the last.
//! Never: holds more than one part, whatever the table's size and the client's speed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use hyper::body::Bytes;
use lvs_api::{ApiError, ConnFilter, ErrorCode};
use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::ipvs::service::ServiceId;
use tokio::time::timeout;

use super::Admin;
use crate::mgmt::director::convert;
use crate::mgmt::worker_handle::WorkerHandle;

/// How many connections a worker copies at once: about 100 kB.
const PART_MAX: usize = 1_024;

struct Reading {
    workers: Vec<Arc<dyn WorkerHandle>>,
    /// The worker being read, and where.
    worker: usize,
    cursor: DumpCursor,
    filter: ConnFilter,
    /// The slot of the fwmark service in the filter. Connections of such a service go to any address and port.
    fwmark: Option<ServiceId>,
    left: u64,
    worker_timeout: Duration,
}

/// The body of the answer; an unknown state is refused.
pub fn body(admin: &Admin, filter: ConnFilter) -> Result<Body, ApiError> {
    if let Some(state) = &filter.state {
        refuse_unknown_state(state)?;
    }
    let slot = |id| admin.director().slot(id);
    let fwmark = filter.service.as_ref().and_then(slot);
    let reading = Reading {
        workers: admin.director().workers().to_vec(),
        worker: 0,
        cursor: DumpCursor::V4(0),
        left: filter.limit.unwrap_or(u64::MAX),
        fwmark,
        filter,
        worker_timeout: admin.limits.worker_timeout,
    };
    Ok(Body::from_stream(stream::try_unfold(reading, next_part)))
}

fn refuse_unknown_state(state: &str) -> Result<(), ApiError> {
    let known: Vec<_> = convert::state_names().collect();
    if known.contains(&state) {
        return Ok(());
    }
    let message = format!("there is no state {state:?}; known are {}", known.join(", "));
    Err(ApiError::new(ErrorCode::BadRequest, message).at("state"))
}

/// The next part that has a line for the client.
async fn next_part(mut reading: Reading) -> io::Result<Option<(Bytes, Reading)>> {
    let mut buffer = Vec::with_capacity(PART_MAX);
    while reading.left > 0
        && let Some(worker) = reading.workers.get(reading.worker)
    {
        let answer = worker.dump_conns(reading.cursor, buffer);
        let chunk = match timeout(reading.worker_timeout, answer).await {
            Ok(Ok(chunk)) => chunk,
            _ => {
                let message = format!("worker {} did not answer; try again", reading.worker);
                return Err(io::Error::other(message));
            }
        };
        let lines = reading.lines(&chunk.records);
        match chunk.next {
            Some(next) => reading.cursor = next,
            None => {
                reading.worker += 1;
                reading.cursor = DumpCursor::V4(0);
            }
        }
        if !lines.is_empty() {
            return Ok(Some((Bytes::from(lines), reading)));
        }
        buffer = chunk.records;
        buffer.clear();
    }
    Ok(None)
}

impl Reading {
    fn lines(&mut self, records: &[ConnRecord]) -> Vec<u8> {
        let mut lines = Vec::new();
        for record in records {
            if self.left == 0 {
                break;
            }
            if !matches(&self.filter, self.fwmark, record) {
                continue;
            }
            let Some(line) = convert::conn_record(record, self.worker) else {
                continue;
            };
            // Plain data into memory cannot fail.
            if serde_json::to_writer(&mut lines, &line).is_ok() {
                lines.push(b'\n');
                self.left -= 1;
            }
        }
        lines
    }
}

fn matches(filter: &ConnFilter, fwmark: Option<ServiceId>, record: &ConnRecord) -> bool {
    let ConnFilter {
        service,
        client,
        server,
        state,
        limit: _,
    } = filter;
    let of_service = |id: &lvs_api::ServiceId| match *id {
        lvs_api::ServiceId::Address { protocol, addr, port } => {
            convert::protocol_number(protocol) == record.protocol
                && addr == record.virt.0
                && (port == record.virt.1 || port == 0)
        }
        lvs_api::ServiceId::Fwmark { .. } => fwmark == Some(record.service),
    };
    service.as_ref().is_none_or(of_service)
        && client.is_none_or(|client| client == record.client.0)
        && server.is_none_or(|server| (server.ip(), server.port()) == record.real)
        && state.as_ref().is_none_or(|state| state == record.state_name())
}
