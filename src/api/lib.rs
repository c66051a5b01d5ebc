//! REST types of lvsd.
