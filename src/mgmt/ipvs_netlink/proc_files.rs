//! `/proc/net/ip_vs*`, `net.ipv4.vs.*` and the modules of IPVS as files, rendered when somebody opens one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lvs_api::kernel_files;
use lvs_api::netlink::{ServerRow, ServiceRow, Statistics};
use lvs_api::proc_text::{self, ConnectionRow, ProcFile};
use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::stats::{Rates, Totals};
use tokio::time::timeout;

use super::{IpvsTable, file_names};
use crate::mgmt::director::{Director, convert};
use crate::mgmt::lock::lock;
use crate::mgmt::worker_handle::WorkerHandle;

/// Connections a worker copies at once.
const PART_MAX: usize = 1_024;
/// For a worker to give a part.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of `ip_vs_conn` at most: 100 MB of text. More than this is for `lvsctl`, which streams.
const CONNECTIONS_MAX: usize = 1_000_000;

/// The text of `path`; `None` when there is no such file.
pub async fn render(director: Arc<Mutex<Director>>, path: String) -> Option<String> {
    if let Some(text) = of_table(&*lock(&director), &path) {
        return Some(text);
    }
    let text = match ProcFile::of_path(&path)? {
        ProcFile::Services => services(&mut *lock(&director)),
        ProcFile::Connections => proc_text::connections(connections(&director).await.iter()),
        ProcFile::ConnectionOrigins => proc_text::connection_origins(connections(&director).await.iter()),
        ProcFile::Statistics => proc_text::statistics(&total(&mut lock(&director))),
        ProcFile::StatisticsPerCpu => per_worker(&mut lock(&director)),
        ProcFile::Applications => proc_text::APPLICATIONS.to_owned(),
    };
    Some(text)
}

/// A setting or a list of modules, which any table has.
pub fn of_table(table: &impl IpvsTable, path: &str) -> Option<String> {
    if let Some(name) = kernel_files::sysctl_of(path) {
        return table.sysctl(name).map(|value| value + "\n");
    }
    if path == kernel_files::MODULES {
        // A kernel without modules has no such file.
        let kernels = std::fs::read_to_string(path).unwrap_or_default();
        return Some(file_names::module_list(&kernels));
    }
    file_names::module_file(path)
}

/// `ip_vs` of any table.
pub fn services(table: &mut impl IpvsTable) -> String {
    let rows: Vec<(ServiceRow, Vec<ServerRow>)> = table
        .services()
        .into_iter()
        .map(|service| {
            let servers = table.servers(&service.key);
            (service, servers)
        })
        .collect();
    let rows = rows.iter().map(|(service, servers)| (service, servers.as_slice()));
    proc_text::services(table.info().table_size, rows)
}

fn total(director: &mut Director) -> Statistics {
    let total = director.total();
    convert::statistics(total.totals, total.rates())
}

fn per_worker(director: &mut Director) -> String {
    let sum = total(director);
    let of = |worker: &Arc<dyn WorkerHandle>| {
        let servers = worker.counters().servers.iter();
        let totals = servers.fold(Totals::default(), |sum, server| sum.plus(server.totals()));
        convert::statistics(totals, Rates::default())
    };
    let workers: Vec<Statistics> = director.workers().iter().map(of).collect();
    proc_text::statistics_per_cpu(&workers, &sum)
}

async fn connections(director: &Mutex<Director>) -> Vec<ConnectionRow> {
    let workers = lock(director).workers().to_vec();
    let mut rows = Vec::new();
    for worker in workers {
        let mut cursor = DumpCursor::V4(0);
        let mut buffer = Vec::with_capacity(PART_MAX);
        while rows.len() < CONNECTIONS_MAX {
            let Ok(Ok(chunk)) = timeout(WORKER_TIMEOUT, worker.dump_conns(cursor, buffer)).await else {
                break;
            };
            rows.extend(chunk.records.iter().map(row));
            let Some(next) = chunk.next else {
                break;
            };
            cursor = next;
            buffer = chunk.records;
            buffer.clear();
        }
    }
    rows
}

fn row(record: &ConnRecord) -> ConnectionRow {
    ConnectionRow {
        protocol: record.protocol,
        client: record.client,
        virt: record.virt,
        real: record.real,
        state: record.state_name(),
        expires_sec: record.expires_in_ms / 1000,
        is_synced: record.flags.contains(ConnFlags::SYNCED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mgmt::fake_worker;
    use lvs_core::ipvs::conn::ConnFlags;
    use lvs_core::ipvs::persistence::STATE_ASSURED;

    #[test]
    fn what_another_director_told_of_is_listed_as_such() {
        let mut record = fake_worker::conn(0);
        assert!(!row(&record).is_synced);
        record.flags.insert(ConnFlags::SYNCED);
        assert!(row(&record).is_synced);
    }

    #[test]
    fn templates_are_listed_with_states_of_their_own() {
        let mut record = fake_worker::conn(0);
        record.protocol = 6;
        record.state = STATE_ASSURED;
        assert_eq!(row(&record).state, "ESTABLISHED");
        record.flags.insert(ConnFlags::TEMPLATE);
        assert_eq!(row(&record).state, "ASSURED");
    }
}
