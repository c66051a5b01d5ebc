//! worker_state
