//! Keeps what arrives by SMTP; not written yet.
