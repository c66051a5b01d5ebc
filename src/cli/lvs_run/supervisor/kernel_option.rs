//! The old socket options of IPVS, on any socket of the program.
//!
//! In:  a getsockopt or setsockopt. Out: lvsd's answer in the caller's memory. Ref: `lvs_api::kernel_options`.

use std::rc::Rc;

use lvs_api::kernel_options::{BASE, COUNT, Call, DATA_MAX_BYTES};
use rustix::io::Errno;
use tokio::task::spawn_local;

use super::Supervisor;
use super::notification::Notification;

/// Whether the call is about one of these options.
pub(super) fn concerns(call: &Notification) -> bool {
    let option = u64::from(call.int(2).cast_unsigned());
    call.int(1) == libc::IPPROTO_IP && (u64::from(BASE)..u64::from(BASE + COUNT)).contains(&option)
}

impl Supervisor {
    /// Answers such a call.
    pub(super) fn answer_kernel_option(self: &Rc<Self>, call: Notification, is_set: bool) {
        if self.director.rights_of(call.thread).is_none() {
            return call.fail(Errno::PERM);
        }
        let asked = match read(&call, is_set) {
            Ok(asked) => asked,
            Err(error) => return call.fail(error),
        };
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            let outcome = supervisor.director.kernel_option(&asked).await;
            let outcome = outcome.map_err(|_| Errno::NOPROTOOPT).and_then(|answer| {
                let (errno, data) = answer.split_first_chunk::<4>().ok_or(Errno::IO)?;
                match i32::from_ne_bytes(*errno) {
                    0 if is_set => Ok(()),
                    0 => write(&call, asked.len, data),
                    errno => Err(Errno::from_raw_os_error(errno)),
                }
            });
            call.conclude(outcome);
        });
    }
}

fn read(call: &Notification, is_set: bool) -> Result<Call, Errno> {
    let memory = call.memory()?;
    let len = if is_set {
        call.arguments[4] as u32
    } else {
        let mut len = [0; 4];
        memory.read(call.arguments[4], &mut len)?;
        u32::from_ne_bytes(len)
    };
    let kept = usize::try_from(len).unwrap_or(usize::MAX).min(DATA_MAX_BYTES);
    let mut data = vec![0; kept];
    memory.read(call.arguments[3], &mut data)?;
    Ok(Call {
        is_64_bit: call.layout.is_64_bit,
        is_set,
        option: u16::try_from(call.int(2)).unwrap_or(0),
        len,
        data,
    })
}

fn write(call: &Notification, capacity: u32, data: &[u8]) -> Result<(), Errno> {
    let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
    let data = data.get(..capacity).unwrap_or(data);
    let memory = call.memory()?;
    memory.write(call.arguments[3], data)?;
    memory.write(
        call.arguments[4],
        &u32::try_from(data.len()).unwrap_or(u32::MAX).to_ne_bytes(),
    )
}
