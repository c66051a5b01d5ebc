//! Step 1: what is it?
