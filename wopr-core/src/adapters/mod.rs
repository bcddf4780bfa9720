//! The real outside, one cargo feature each.
