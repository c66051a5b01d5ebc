//! Capture files: pcap and pcapng in, pcapng out.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lvs_core::l3::DeviceId;
use lvs_core::limits::DEVICES_MAX;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, PcapError};

use super::OfflineError;

/// The first bytes of a pcapng file, in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Nanoseconds: 10⁻⁹ s.
const RESOLUTION_NS: u8 = 9;

/// A frame of the input.
pub(super) struct Captured {
    pub(super) time_ns: u64,
    /// The interface of the file.
    pub(super) device: DeviceId,
    pub(super) bytes: Vec<u8>,
}

/// All frames of a file, in its order.
pub(super) fn read(path: &Path) -> Result<Vec<Captured>, OfflineError> {
    let failed = |source: PcapError| OfflineError::Input {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(|error| failed(PcapError::IoError(error)))?);
    let mut magic = [0; 4];
    file.read_exact(&mut magic)
        .map_err(|error| failed(PcapError::IoError(error)))?;
    let whole = magic.chain(file);
    let frames = if magic == PCAPNG {
        read_pcapng(path, whole)
    } else {
        read_pcap(path, whole)
    };
    frames.map_err(|error| error.unwrap_or_else(failed))
}

/// Either a complete error, or an error of the reader that lacks the file's name.
type Failed = Result<OfflineError, PcapError>;

fn read_pcap(path: &Path, file: impl Read) -> Result<Vec<Captured>, Failed> {
    let mut reader = PcapReader::new(file).map_err(Err)?;
    let link = reader.header().datalink;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(Err)?;
        only_ethernet(path, frames.len(), link).map_err(Ok)?;
        frames.push(Captured {
            time_ns: packet.timestamp.as_nanos() as u64,
            device: DeviceId(0),
            bytes: packet.data.into_owned(),
        });
    }
    Ok(frames)
}

fn read_pcapng(path: &Path, file: impl Read) -> Result<Vec<Captured>, Failed> {
    let mut reader = PcapNgReader::new(file).map_err(Err)?;
    let mut interfaces: Vec<(DataLink, u8)> = Vec::new();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.map_err(Err)? {
            Block::SectionHeader(_) => interfaces.clear(),
            Block::InterfaceDescription(interface) => {
                let resolution = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
                    _ => None,
                });
                // The default is microseconds.
                interfaces.push((interface.linktype, resolution.unwrap_or(6)));
            }
            Block::EnhancedPacket(packet) => {
                let number = packet.interface_id as usize;
                let (link, resolution) = interfaces.get(number).copied().unwrap_or((DataLink::NULL, 6));
                only_ethernet(path, frames.len(), link).map_err(Ok)?;
                // The reader takes every unit as a nanosecond.
                frames.push(Captured {
                    time_ns: nanoseconds(packet.timestamp.as_nanos() as u64, resolution),
                    device: DeviceId(number.min(DEVICES_MAX - 1) as u8),
                    bytes: packet.data.into_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(frames)
}

fn only_ethernet(path: &Path, before: usize, link: DataLink) -> Result<(), OfflineError> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    Err(OfflineError::NotEthernet {
        path: path.to_owned(),
        frame: before + 1,
        link: link.into(),
    })
}

/// `if_tsresol`: a negative power of ten or, with the upper bit, of two.
fn nanoseconds(units: u64, resolution: u8) -> u64 {
    let per_second = if resolution & 0x80 == 0 {
        10u128.checked_pow(u32::from(resolution))
    } else {
        1u128.checked_shl(u32::from(resolution & 0x7f))
    };
    let per_second = per_second.unwrap_or(u128::MAX);
    (u128::from(units) * 1_000_000_000 / per_second) as u64
}

/// The output.
pub(super) struct Output {
    path: PathBuf,
    writer: PcapNgWriter<BufWriter<File>>,
    interfaces: u32,
}

impl Output {
    /// A file with an interface for each device, at least one.
    pub(super) fn create(path: &Path, devices: &[String]) -> Result<Self, OfflineError> {
        let failed = |source: PcapError| OfflineError::Output {
            path: path.to_owned(),
            source,
        };
        let file = File::create(path).map_err(|error| failed(PcapError::IoError(error)))?;
        let mut writer = PcapNgWriter::new(BufWriter::new(file)).map_err(failed)?;
        let fallback = ["device 0".to_owned()];
        let names = if devices.is_empty() { &fallback[..] } else { devices };
        for name in names {
            writer.write_pcapng_block(interface(name)).map_err(failed)?;
        }
        Ok(Self {
            path: path.to_owned(),
            writer,
            interfaces: names.len() as u32,
        })
    }

    pub(super) fn write(
        &mut self,
        device: DeviceId,
        time_ns: u64,
        bytes: &[u8],
        comment: &str,
    ) -> Result<(), OfflineError> {
        let block = EnhancedPacketBlock {
            interface_id: u32::from(device.0).min(self.interfaces - 1),
            timestamp: Duration::from_nanos(time_ns),
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options: vec![EnhancedPacketOption::Comment(Cow::Borrowed(comment))],
        };
        self.writer
            .write_pcapng_block(block)
            .map(drop)
            .map_err(|source| self.failed(source))
    }

    /// Writes everything that is still buffered.
    pub(super) fn finish(&mut self) -> Result<(), OfflineError> {
        let flushed = self.writer.get_mut().flush();
        flushed.map_err(|error| self.failed(PcapError::IoError(error)))
    }

    fn failed(&self, source: PcapError) -> OfflineError {
        OfflineError::Output {
            path: self.path.clone(),
            source,
        }
    }
}

/// How pcapng describes a device: Ethernet, nanoseconds.
pub fn interface(name: &str) -> InterfaceDescriptionBlock<'_> {
    InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfTsResol(RESOLUTION_NS),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resolution_of_pcapng_becomes_nanoseconds() {
        assert_eq!(nanoseconds(1_500_000, 6), 1_500_000_000);
        assert_eq!(nanoseconds(1_500_000_000, 9), 1_500_000_000);
        assert_eq!(nanoseconds(3, 0x81), 1_500_000_000);
        assert_eq!(nanoseconds(7, 0), 7_000_000_000);
    }
}
