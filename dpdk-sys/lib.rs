//! Raw bindings to the part of DPDK that lvsd uses: types, constants and functions as C declares them.
//!
//! No policy and no safe code here; the safe layer above is `src/dpdk/`. `shim_*` are symbols for what DPDK
//! offers only inline. What is bound is the allow-list in `build.rs`.
#![allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    clippy::all,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// A field of [`rte_mbuf`]. Its offset and its type come from the headers of the installed DPDK, so an access is one
/// load or store at a constant offset, and no layout is copied.
#[derive(Debug)]
pub struct MbufField<T> {
    offset: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T> MbufField<T> {
    const fn at(offset: usize) -> Self {
        let kind = std::marker::PhantomData;
        Self { offset, kind }
    }

    /// The address of the field in `mbuf`.
    ///
    /// # Safety
    /// `mbuf` points to an mbuf.
    #[inline(always)]
    pub const unsafe fn of(&self, mbuf: *mut rte_mbuf) -> *mut T {
        mbuf.byte_add(self.offset).cast::<T>()
    }
}

pub const MBUF_BUF_ADDR: MbufField<shim_mbuf_buf_addr> = MbufField::at(SHIM_MBUF_OFFSET_buf_addr);
pub const MBUF_BUF_LEN: MbufField<shim_mbuf_buf_len> = MbufField::at(SHIM_MBUF_OFFSET_buf_len);
pub const MBUF_DATA_LEN: MbufField<shim_mbuf_data_len> = MbufField::at(SHIM_MBUF_OFFSET_data_len);
pub const MBUF_DATA_OFF: MbufField<shim_mbuf_data_off> = MbufField::at(SHIM_MBUF_OFFSET_data_off);
pub const MBUF_NB_SEGS: MbufField<shim_mbuf_nb_segs> = MbufField::at(SHIM_MBUF_OFFSET_nb_segs);
pub const MBUF_PKT_LEN: MbufField<shim_mbuf_pkt_len> = MbufField::at(SHIM_MBUF_OFFSET_pkt_len);
