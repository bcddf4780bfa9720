//! A small bot; not written yet.
