//! A tracked connection and the table that finds it.
