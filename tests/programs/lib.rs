//! Programs for the ends of a lab network.
