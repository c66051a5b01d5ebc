//! Fields of an mbuf against the installed library: DPDK's own dump of an mbuf shows what `MbufField` wrote.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use dpdk_sys::{
    _IO_FILE, MBUF_BUF_ADDR, MBUF_BUF_LEN, MBUF_DATA_LEN, MBUF_DATA_OFF, MBUF_NB_SEGS, MBUF_PKT_LEN, rte_mbuf,
};

unsafe extern "C" {
    fn rte_pktmbuf_dump(file: *mut _IO_FILE, mbuf: *const rte_mbuf, dump_len: u32);
    fn open_memstream(text: *mut *mut c_char, len: *mut usize) -> *mut _IO_FILE;
    fn fclose(file: *mut _IO_FILE) -> i32;
    fn free(memory: *mut c_void);
}

/// The library's dump of a single mbuf.
fn dump(mbuf: &rte_mbuf) -> String {
    let (mut text, mut len) = (ptr::null_mut(), 0);
    // SAFETY: the stream is open until fclose, which leaves a C string in `text` that is ours to free.
    unsafe {
        let file = open_memstream(&mut text, &mut len);
        assert!(!file.is_null());
        rte_pktmbuf_dump(file, mbuf, 0);
        assert_eq!(fclose(file), 0);
        let dumped = CStr::from_ptr(text).to_string_lossy().into_owned();
        free(text.cast());
        dumped
    }
}

#[test]
fn the_library_reads_the_fields_where_they_are_written() {
    let mut buffer = [0_u8; 1024];
    let start = buffer.as_mut_ptr();
    let mut mbuf = rte_mbuf::default();
    let raw = &raw mut mbuf;
    // SAFETY: a live mbuf that nobody else knows of.
    unsafe {
        *MBUF_BUF_ADDR.of(raw) = start.cast();
        *MBUF_BUF_LEN.of(raw) = 1024;
        *MBUF_DATA_OFF.of(raw) = 130;
        *MBUF_DATA_LEN.of(raw) = 77;
        *MBUF_PKT_LEN.of(raw) = 70_001;
        *MBUF_NB_SEGS.of(raw) = 1;
    }
    let dumped = dump(&mbuf);
    let data = format!("data={:p},", start.wrapping_add(130));
    for shown in [
        "buf_len=1024",
        "pkt_len=70001,",
        "nb_segs=1,",
        "len=77,",
        "off=130,",
        &data,
    ] {
        assert!(dumped.contains(shown), "{shown} is not in:\n{dumped}");
    }
}
