//! The table against its slow twin.
