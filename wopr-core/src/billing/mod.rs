//! Prepaid credit.
