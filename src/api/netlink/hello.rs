//! The first datagram on the socket, which says who speaks and what it wants.
//!
//! In:  a connection's first bytes. Out: a [`Hello`] (netlink follows), the path of a file that is to be read or written, or
//! a call with one of the old socket options.

/// Begins a hello. Its digit is the version of this framing.
pub const HELLO_MAGIC: [u8; 8] = *b"LVSDNL1\0";
/// Begins the wish for the text of a kernel file; its canonical path follows.
pub const FILE_MAGIC: [u8; 8] = *b"LVSDPF1\0";
/// Begins the wish to write a kernel file; its canonical path follows. Each further datagram is a value, and is answered by
/// an error number of four bytes, 0 for none.
pub const WRITE_MAGIC: [u8; 8] = *b"LVSDFW1\0";
/// Begins a call with an old socket option; see [`crate::kernel_options`].
pub const OPTION_MAGIC: [u8; 8] = *b"LVSDSO1\0";
/// Begins the withdrawal of a request that its sender no longer waits for; the sequence follows.
pub const CANCEL_MAGIC: [u8; 8] = *b"LVSDCN1\0";
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 48;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The port id of the netlink socket that this connection stands for. Answers carry it.
    pub port_id: u32,
    /// What the process says its id is; for logs only.
    pub pid: u32,
    /// Name of the process; for logs only.
    pub comm: String,
    /// Inode of its network namespace.
    pub net_namespace: u64,
    /// How long it waits for an answer.
    pub timeout_ms: u32,
}

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Netlink follows.
    Netlink(Hello),
    /// The text of this file is wanted, as a descriptor.
    File(String),
    /// Values for this file follow.
    Write(String),
    /// One call with an old socket option: all behind the magic.
    KernelOption(Vec<u8>),
}

impl Opening {
    /// What the first datagram says; `None` for anything else, and the connection is closed.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (magic, rest) = datagram.split_first_chunk::<8>()?;
        match *magic {
            HELLO_MAGIC => {
                let rest: &[u8; HELLO_BYTES - 8] = rest.try_into().ok()?;
                let (port_id, rest) = rest.split_first_chunk::<4>()?;
                let (pid, rest) = rest.split_first_chunk::<4>()?;
                let (comm, rest) = rest.split_first_chunk::<16>()?;
                let (net_namespace, rest) = rest.split_first_chunk::<8>()?;
                let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
                Some(Self::Netlink(Hello {
                    port_id: u32::from_ne_bytes(*port_id),
                    pid: u32::from_ne_bytes(*pid),
                    comm: String::from_utf8_lossy(comm).into_owned(),
                    net_namespace: u64::from_ne_bytes(*net_namespace),
                    timeout_ms: rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)),
                }))
            }
            FILE_MAGIC => path(rest).map(Self::File),
            WRITE_MAGIC => path(rest).map(Self::Write),
            OPTION_MAGIC => Some(Self::KernelOption(rest.to_vec())),
            _ => None,
        }
    }
}

fn path(bytes: &[u8]) -> Option<String> {
    let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(std::str::from_utf8(path).ok()?.to_owned())
}

impl Hello {
    /// As the library sends it.
    pub fn to_bytes(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&HELLO_MAGIC);
        bytes.extend_from_slice(&self.port_id.to_ne_bytes());
        bytes.extend_from_slice(&self.pid.to_ne_bytes());
        let name = self.comm.as_bytes();
        bytes.extend_from_slice(name.get(..15).unwrap_or(name));
        bytes.resize(32, 0);
        bytes.extend_from_slice(&self.net_namespace.to_ne_bytes());
        bytes.extend_from_slice(&self.timeout_ms.to_ne_bytes());
        bytes.resize(HELLO_BYTES, 0);
        bytes.first_chunk().copied().unwrap_or([0; HELLO_BYTES])
    }
}

/// The request that a cancelling datagram withdraws.
pub fn cancelled_sequence(datagram: &[u8]) -> Option<u32> {
    let (magic, rest) = datagram.split_first_chunk::<8>()?;
    (*magic == CANCEL_MAGIC).then(|| rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)))?
}
